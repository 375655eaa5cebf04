"""Compiled: squares of whitened differences between rows and many centres."""

from __future__ import annotations

import numpy as np

from .arrays import Matrices, Matrix, Vector
from .cache import cached


@cached(error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def quadratic_forms(
    y: Matrix, x: Matrix, C: Matrices, W: Matrices, offset: Vector, out: Matrix
) -> None:
    """Write `offset_k - |W_k (y - C_k x)|^2 / 2` for every row.

    Args:
        y: `(rows, p)`.
        x: `(rows, f)`.
        C: `(p, f, k)`.
        W: Lower triangular, `(p, p, k)`.
        offset: `(k,)`.
        out: `(rows, k)`.
    """
    p, count = y.shape[1], offset.shape[0]
    gap = np.empty((p, count))
    for t in range(y.shape[0]):
        row = out[t]
        for k in range(count):
            row[k] = offset[k]
        for a in range(p):
            for k in range(count):
                gap[a, k] = y[t, a]
            for f in range(x.shape[1]):
                value = x[t, f]
                for k in range(count):
                    gap[a, k] -= C[a, f, k] * value
            for k in range(count):
                white = 0.0
                for b in range(a + 1):
                    white += W[a, b, k] * gap[b, k]
                row[k] -= 0.5 * white * white
