"""Compiled: differences between rows and many centres, whitened and squared, or summed."""

from __future__ import annotations

import numpy as np

from .arrays import Matrices, Matrix, Vector
from .cache import cached

_BLOCK = 256


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
    rows, p = y.shape
    # Blocks of rows, the innermost loops over them: they are vectors whatever `k` and `p` are.
    gap, white, total = np.empty((p, _BLOCK)), np.empty(_BLOCK), np.empty(_BLOCK)
    for first in range(0, rows, _BLOCK):
        size = min(_BLOCK, rows - first)
        for k in range(offset.shape[0]):
            for t in range(size):
                total[t] = offset[k]
            for a in range(p):
                for t in range(size):
                    gap[a, t] = y[first + t, a]
                for f in range(x.shape[1]):
                    slope = C[a, f, k]
                    for t in range(size):
                        gap[a, t] -= slope * x[first + t, f]
                scale = W[a, 0, k]
                for t in range(size):
                    white[t] = scale * gap[0, t]
                for b in range(1, a + 1):
                    scale = W[a, b, k]
                    for t in range(size):
                        white[t] += scale * gap[b, t]
                for t in range(size):
                    total[t] -= 0.5 * white[t] * white[t]
            for t in range(size):
                out[first + t, k] = total[t]


@cached(error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def weighted_squares(y: Matrix, x: Matrix, C: Matrices, w: Matrix, out: Matrices) -> None:
    """Write `sum_t w_tk (y_t - C_k x_t)(y_t - C_k x_t)'`.

    Args:
        y: `(rows, p)`.
        x: `(rows, f)`.
        C: `(p, f, k)`.
        w: `(rows, k)`.
        out: `(k, p, p)`.
    """
    rows, p = y.shape
    gap, share = np.empty((p, _BLOCK)), np.empty(_BLOCK)
    out[:] = 0.0
    for first in range(0, rows, _BLOCK):
        size = min(_BLOCK, rows - first)
        for k in range(w.shape[1]):
            for a in range(p):
                for t in range(size):
                    gap[a, t] = y[first + t, a]
                for f in range(x.shape[1]):
                    slope = C[a, f, k]
                    for t in range(size):
                        gap[a, t] -= slope * x[first + t, f]
                for t in range(size):
                    share[t] = w[first + t, k] * gap[a, t]
                for b in range(a + 1):
                    total = 0.0
                    for t in range(size):
                        total += share[t] * gap[b, t]
                    out[k, a, b] += total
    for k in range(w.shape[1]):
        for a in range(p):
            for b in range(a):
                out[k, b, a] = out[k, a, b]
