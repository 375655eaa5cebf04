"""Scalar building blocks of the square-root Kalman kernels, compiled by numba.

A Gaussian is a mean and a factor `L` with `cov = L L'`; no covariance is formed or inverted.
Means carry `1 + k` columns: the value at `delta = 0`, then its slope in each of the `k` diffuse
coefficients, so that an exactly diffuse start is `k` more right-hand sides and no special case.

The functions take the sizes as arguments; the drivers in `kalman_kernels.py` pass them as
compile-time constants, which lets the compiler unroll every loop.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

# Not the whole of fastmath: `nnan` and `ninf` would remove the tests for missing data.
_FAST = {"contract", "reassoc", "nsz", "arcp"}
_EPS = 2.220446049250313e-16
_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
def reflect(W: np.ndarray, i: int, c: int, rows: int, cols: int) -> float:
    """Zero `W[i, c+1:cols]` by a Householder reflection of the columns; return `W[i, c] >= 0`."""
    square = 0.0
    for j in range(c, cols):
        square += W[i, j] * W[i, j]
    if square == 0.0:
        return 0.0
    norm = math.sqrt(square)
    head = W[i, c] + math.copysign(norm, W[i, c])
    beta = 1.0 / (norm * abs(head))
    flip = -1.0 if head > 0.0 else 1.0
    W[i, c] = head
    for r in range(i + 1, rows):
        dot = 0.0
        for j in range(c, cols):
            dot += W[i, j] * W[r, j]
        dot *= beta
        for j in range(c, cols):
            W[r, j] -= dot * W[i, j]
        W[r, c] *= flip
    W[i, c] = norm
    for j in range(c + 1, cols):
        W[i, j] = 0.0
    return norm


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
def noise_factor(R: np.ndarray, rows: np.ndarray, o: int, W: np.ndarray, n: int) -> None:
    """Write the Cholesky factor of the observed block of `R` to `W[:o, n:n+o]`."""
    for i in range(o):
        for j in range(i + 1):
            total = R[rows[i], rows[j]]
            for m in range(j):
                total -= W[i, n + m] * W[j, n + m]
            if i == j:
                small = total <= 8.0 * _EPS * o * R[rows[i], rows[i]]
                W[i, n + i] = 0.0 if small else math.sqrt(total)
            else:
                pivot = W[j, n + j]
                W[i, n + j] = total / pivot if pivot > 0.0 else 0.0
        for j in range(i + 1, o):
            W[i, n + j] = 0.0


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
def innovate(
    n: int,
    k: int,
    C: np.ndarray,
    d: np.ndarray,
    y: np.ndarray,
    a: np.ndarray,
    row: int,
    v: np.ndarray,
) -> None:
    """Innovation of one observed row, and minus its slope in the diffuse coefficients."""
    for c in range(1 + k):
        total = 0.0
        for j in range(n):
            total -= C[row, j] * a[j, c]
        v[c] = total
    v[0] += y[row] - d[row]


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
def absorb(U: np.ndarray, k: int, row: np.ndarray) -> float:
    """Rotate the equation `row[1:] . delta = -row[0]` into `U`; return its log-density.

    `U` has a spare last row, the work space.
    """
    h = U[k]
    for i in range(k):
        h[i] = row[1 + i]
    rhs, volume = -row[0], 1.0
    for i in range(k):
        if h[i] == 0.0:
            continue
        old = U[i, i]
        radius = math.hypot(old, h[i])
        volume *= radius / old if old > 0.0 else radius
        cos, sin = old / radius, h[i] / radius
        U[i, i] = radius
        for j in range(i + 1, k):
            U[i, j], h[j] = cos * U[i, j] + sin * h[j], cos * h[j] - sin * U[i, j]
        U[i, k], rhs = cos * U[i, k] + sin * rhs, cos * rhs - sin * U[i, k]
    return -0.5 * rhs * rhs - math.log(volume)


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
def load_update(
    n: int,
    p: int,
    C: np.ndarray,
    R: np.ndarray,
    y: np.ndarray,
    L: np.ndarray,
    rows: np.ndarray,
    W: np.ndarray,
) -> int:
    """Fill `W = [[C L, R^(1/2)], [L, 0]]` for the observed rows; return how many there are."""
    o = 0
    for i in range(p):
        if not math.isnan(y[i]):
            rows[o] = i
            o += 1
    noise_factor(R, rows, o, W, n)
    for i in range(o):
        for j in range(n):
            total = 0.0
            for m in range(j, n):
                total += C[rows[i], m] * L[m, j]
            W[i, j] = total
    for i in range(n):
        for j in range(n):
            W[o + i, j] = L[i, j]
        for j in range(o):
            W[o + i, n + j] = 0.0
    return o


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
def triangularize_rows(
    n: int, o: int, W: np.ndarray, rows: np.ndarray, chol: np.ndarray, kept: np.ndarray
) -> tuple[int, float]:
    """Reduce the `o` observed rows of `W` to a lower triangle.

    A noiseless row that earlier rows already determine has no pivot: it gets no gain, and its
    column goes back to the pool that forms the filtered factor. `kept` marks the others.

    Returns:
        The number of pivots kept, and the smallest pivot as a fraction of its row.
    """
    c, worst = 0, 1.0
    for i in range(o):
        square = 0.0
        for j in range(n + o):
            square += W[i, j] * W[i, j]
        pivot = reflect(W, i, c, o + n, n + o)
        norm = math.sqrt(square)
        worst = min(worst, pivot / norm) if norm > 0.0 else 0.0
        kept[i] = pivot > 8.0 * _EPS * (n + o) * norm
        if kept[i]:
            for j in range(c + 1):
                chol[c, j] = W[i, j]
            rows[c] = rows[i]
            c += 1
        else:
            W[i, c] = 0.0
    return c, worst


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
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


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
def predict_mean(
    n: int, k: int, A: np.ndarray, b: np.ndarray, m: np.ndarray, a: np.ndarray
) -> None:
    """`a = A m + b`; the slopes in the diffuse coefficients have no offset."""
    for i in range(n):
        for c in range(1 + k):
            total = 0.0
            for j in range(n):
                total += A[i, j] * m[j, c]
            a[i, c] = total
        a[i, 0] += b[i]
