"""Small dense matrices row by row: products and an inverse."""

from __future__ import annotations

from numba import njit

from ....ops.arrays import Matrix
from .step_kernels import INLINE


@njit(**INLINE)
def times(X: Matrix, Y: Matrix, rows: int, inner: int, cols: int, Z: Matrix) -> None:
    """`Z = X Y`."""
    for i in range(rows):
        for j in range(cols):
            Z[i, j] = 0.0
        for m in range(inner):
            x = X[i, m]
            for j in range(cols):
                Z[i, j] += x * Y[m, j]


@njit(**INLINE)
def transposed_times(X: Matrix, Y: Matrix, rows: int, inner: int, cols: int, Z: Matrix) -> None:
    """`Z = X' Y`, `X` having `inner` rows."""
    for i in range(rows):
        for j in range(cols):
            Z[i, j] = 0.0
    for m in range(inner):
        for i in range(rows):
            x = X[m, i]
            for j in range(cols):
                Z[i, j] += x * Y[m, j]


@njit(**INLINE)
def invert(S: Matrix, o: int, inverse: Matrix) -> None:
    """Invert a positive definite matrix by elimination; `S` is used up."""
    for i in range(o):
        for j in range(o):
            inverse[i, j] = 0.0
        inverse[i, i] = 1.0
    for i in range(o):
        scale = 1.0 / S[i, i]
        for j in range(o):
            S[i, j] *= scale
            inverse[i, j] *= scale
        for r in range(o):
            factor = S[r, i]
            if r != i and factor != 0.0:
                for j in range(o):
                    S[r, j] -= factor * S[i, j]
                    inverse[r, j] -= factor * inverse[i, j]
