"""A traced function at points, by its machine code: for checks."""

from __future__ import annotations

import ctypes

import numpy as np

from .traced import Traced


def evaluate(traced: Traced, z: np.ndarray, u: np.ndarray, *, slopes: bool) -> np.ndarray:
    """Return all outputs at each point, then the Jacobian of the first if asked for.

    Args:
        traced: The function.
        z: `(points, size)`.
        u: Inputs and time step, `(points, inputs)`.
        slopes: Whether to add the Jacobian.
    """
    code = traced.linearized() if slopes else traced.values()
    size = len(traced.flat) + (len(traced.slopes) if slopes else 0)
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 5)(code.address)
    p, out = traced.parameter_values(), np.empty((len(z), size))
    z, u = np.ascontiguousarray(z), np.ascontiguousarray(u)
    for i in range(len(z)):
        given = z[i], u[i], p, p, out[i]
        call(*(x.ctypes.data for x in given))
    return out
