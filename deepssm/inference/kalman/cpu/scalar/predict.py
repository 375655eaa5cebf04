"""Scalar building blocks of the square-root Kalman kernels, compiled by numba.

A Gaussian is a mean and a factor `L` with `cov = L L'`; no covariance is formed or inverted.
Means carry `1 + k` columns: the value at `delta = 0`, then its slope in each of the `k` diffuse
coefficients, so that an exactly diffuse start is `k` more right-hand sides and no special case.

The functions take the sizes as arguments; the drivers in `filter.py` can pass them as
compile-time constants, which lets the compiler unroll every loop.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from .....ops.small_matrices import EPS, INLINE, SPLICE, reflect


@njit(**INLINE)
def observed(p: int, y: np.ndarray, order: np.ndarray) -> int:
    """List the components of `y` that are not missing; return their number."""
    o = 0
    for i in range(p):
        if not math.isnan(y[i]):
            order[o] = i
            o += 1
    return o


@njit(**INLINE)
def decorrelate(R: np.ndarray, order: np.ndarray, o: int, M: np.ndarray) -> None:
    """`R = M D M'` on the observed rows, `M` unit lower triangular, `D` on its diagonal."""
    for i in range(o):
        for j in range(i + 1):
            total = R[order[i], order[j]]
            for r in range(j):
                total -= M[i, r] * M[j, r] * M[r, r]
            if i == j:
                small = total <= 8.0 * EPS * o * R[order[i], order[i]]
                M[i, i] = 0.0 if small else total
            else:
                M[i, j] = total / M[j, j] if M[j, j] > 0.0 else 0.0


# What is left of a column after all earlier ones is round-off below this part of the column.
_REDUNDANT = 1e-10


@njit(**INLINE)
def is_redundant(U: np.ndarray, i: int, left: float) -> bool:
    """True when earlier coefficients explain column `i` but for `left`, in the column's units."""
    square = left * left
    for r in range(i):
        square += U[r, i] * U[r, i]
    return left * left <= _REDUNDANT * _REDUNDANT * square


@njit(**INLINE)
def absorb(U: np.ndarray, k: int, row: np.ndarray) -> float:
    """Rotate the equation `row[1:] . delta = -row[0]` into `U`; return its log-density.

    `U` has a spare last row, the work space. A coefficient is determined only by what earlier ones
    leave of its column: taking round-off for that would add the logarithm of it.
    """
    h = U[k]
    for i in range(k):
        h[i] = row[1 + i]
    rhs, volume = -row[0], 1.0
    for i in range(k):
        if h[i] == 0.0:
            continue
        old = U[i, i]
        if old == 0.0 and is_redundant(U, i, h[i]):
            continue
        radius = math.hypot(old, h[i])
        volume *= radius / old if old > 0.0 else radius
        cos, sin = old / radius, h[i] / radius
        U[i, i] = radius
        for j in range(i + 1, k):
            U[i, j], h[j] = cos * U[i, j] + sin * h[j], cos * h[j] - sin * U[i, j]
        U[i, k], rhs = cos * U[i, k] + sin * rhs, cos * rhs - sin * U[i, k]
    return -0.5 * rhs * rhs - math.log(volume)


@njit(**SPLICE)
def predict_factor(
    n: int, q: int, A: np.ndarray, F: np.ndarray, LQ: np.ndarray, W: np.ndarray, L: np.ndarray
) -> None:
    """`L L' = A F F' A' + LQ LQ'`, lower triangular with a non-negative diagonal."""
    for i in range(n):
        for j in range(n):
            total = 0.0
            for m in range(n):
                total += A[i, m] * F[m, j]
            W[i, j] = total
        for j in range(q):
            W[i, n + j] = LQ[i, j]
    for i in range(n):
        reflect(W, i, i, n, n + q)
    for i in range(n):
        for j in range(n):
            L[i, j] = W[i, j] if j <= i else 0.0


@njit(**INLINE)
def predict_mean(
    n: int, k: int, A: np.ndarray, b: np.ndarray, m: np.ndarray, a: np.ndarray
) -> None:
    """`a = A m + b`; the slopes in the diffuse coefficients have no offset."""
    for i in range(n):
        for c in range(1 + k):
            total = b[i] if c == 0 else 0.0
            for j in range(n):
                total += A[i, j] * m[j, c]
            a[i, c] = total


@njit(**INLINE)
def is_steady(n: int, L: np.ndarray, old: np.ndarray) -> bool:
    """True when a factor equals the one before to round-off, row by row, hence in any units."""
    for i in range(n):
        square, change = 0.0, 0.0
        for j in range(n):
            square += L[i, j] * L[i, j]
            change = max(change, abs(L[i, j] - old[i, j]))
        if change > 4.0 * EPS * math.sqrt(square):
            return False
    return True
