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
    at, drive, row, numbers = z.ctypes.data, u.ctypes.data, out.ctypes.data, p.ctypes.data
    for i in range(len(z)):
        shift = (i * z.strides[0], i * u.strides[0], i * out.strides[0])
        call(at + shift[0], drive + shift[1], numbers, numbers, row + shift[2])
    return out
