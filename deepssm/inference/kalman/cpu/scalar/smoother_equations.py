"""Steps of the two-filter square-root smoother: equations for a state, moved one step back."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from .....ops.arrays import Matrix, Vector, Whole
from .....ops.small_matrices import INLINE, SPLICE, reflect
from .predict import decorrelate, observed

# A noiseless row enters the smoother with this fraction of its predicted deviation as noise.
_NOISELESS = 1e-9


@njit(**INLINE)
def load_later_data(
    n: int,
    k: int,
    q: int,
    U: np.ndarray,
    zeta: np.ndarray,
    m: np.ndarray,
    a: np.ndarray,
    W: np.ndarray,
) -> None:
    """Write `[U | zeta + U (m - a)]`: the equations of later data, based at the predicted mean."""
    for i in range(n):
        for j in range(n):
            W[q + j, q + i] = U[i, j]
        for c in range(1 + k):
            total = zeta[i, c]
            for j in range(n):
                total += U[i, j] * (m[j, c] - a[j, c])
            W[q + n + c, q + i] = total


@njit(**SPLICE)
def load_row(
    n: int, q: int, K: int, i: int, row: int, C: Matrix, L: Matrix, M: Matrix, v: Vector, W: Matrix
) -> None:
    """Append the whitened equation `[C | v]` of one observed component, `v` with `K` columns."""
    col = q + n + i
    for j in range(n):
        W[q + j, col] = C[row, j]
    for c in range(K):
        W[q + n + c, col] = v[c]
    for j in range(i):
        weight = M[i, j] * math.sqrt(M[j, j])
        for r in range(q, q + n + K):
            W[r, col] -= weight * W[r, q + n + j]
    scale = 1.0 / (math.sqrt(M[i, i]) if M[i, i] > 0.0 else noiseless_scale(n, C[row], L))
    for r in range(q, q + n + K):
        W[r, col] *= scale


@njit(**SPLICE)
def load_rows(
    n: int, p: int, k: int, q: int, C: Matrix, d: Vector, R: Matrix, y: Vector, a: Matrix,
    L: Matrix, order: Whole, M: Matrix, v: Vector, W: Matrix,
) -> int:  # fmt: skip
    """Append the whitened observation `R^(-1/2) [C | y - d - C a]`; return how many rows."""
    o = observed(p, y, order)
    decorrelate(R, order, o, M)
    for i in range(o):
        row = order[i]
        for c in range(1 + k):
            v[c] = y[row] - d[row] if c == 0 else 0.0
            for j in range(n):
                v[c] -= C[row, j] * a[j, c]
        load_row(n, q, 1 + k, i, row, C, L, M, v, W)
    return o


@njit(**INLINE)
def noiseless_scale(n: int, row: np.ndarray, L: np.ndarray) -> float:
    """A deviation far below that of the row's prediction, in the row's own units."""
    square = 0.0
    for j in range(n):
        total = 0.0
        for i in range(j, n):
            total += row[i] * L[i, j]
        square += total * total
    return _NOISELESS * math.sqrt(square) if square > 0.0 else 1.0


@njit(**SPLICE)
def step_back(
    n: int, K: int, q: int, o: int, A: np.ndarray, LQ: np.ndarray, W: np.ndarray, x: np.ndarray
) -> None:
    """Express the equations in `z_{t-1}` and the noise `w`, then eliminate `w`."""
    for col in range(q, q + n + o):
        for j in range(n):
            x[j] = W[q + j, col]
        for r in range(q):
            total = 0.0
            for j in range(n):
                total += LQ[j, r] * x[j]
            W[r, col] = total
        for r in range(n):
            total = 0.0
            for j in range(n):
                total += A[j, r] * x[j]
            W[q + r, col] = total
    for r in range(q + n + K):
        for col in range(q):
            W[r, col] = 1.0 if r == col else 0.0
    for i in range(q + n):
        reflect(W, i, i, q + n + K, q + n + o)


@njit(**INLINE)
def read_equations(n: int, K: int, q: int, W: np.ndarray, U: np.ndarray, zeta: np.ndarray) -> None:
    """Read the triangularised equations in `z_{t-1}` off the array."""
    for i in range(n):
        for j in range(n):
            U[i, j] = W[q + j, q + i] if j >= i else 0.0
        for c in range(K):
            zeta[i, c] = W[q + n + c, q + i]


@njit(**INLINE)
def backward_gain(
    n: int, q: int, A: np.ndarray, LQ: np.ndarray, W: np.ndarray, J: np.ndarray, x: np.ndarray
) -> None:
    """`J = A - LQ X^(-1) Y`, so that `Cov(z_t, z_{t-1} | y) = J Cov(z_{t-1} | y)`."""
    for j in range(n):
        for i in range(q - 1, -1, -1):
            total = W[q + j, i]
            for r in range(i + 1, q):
                total -= W[r, i] * x[r]
            x[i] = total / W[i, i]
        for i in range(n):
            total = A[i, j]
            for r in range(q):
                total -= LQ[i, r] * x[r]
            J[i, j] = total


@njit(**SPLICE)
def combine(
    n: int,
    K: int,
    m: np.ndarray,
    F: np.ndarray,
    U: np.ndarray,
    zeta: np.ndarray,
    W: np.ndarray,
    mean: np.ndarray,
    factor: np.ndarray,
) -> None:
    """`mean = m + F X^(-1) xi`, `factor = F X^(-1)`, `[X | xi] = QR [[I, 0], [U F, zeta]]`."""
    for i in range(n):
        for j in range(n):
            total = 0.0
            for r in range(i, n):
                total += U[i, r] * F[r, j]
            W[j, n + i] = total
            W[j, i] = 1.0 if i == j else 0.0
        for c in range(K):
            W[n + c, i], W[n + c, n + i] = 0.0, zeta[i, c]
    for i in range(n):
        reflect(W, i, i, n + K, 2 * n)
    for i in range(n):
        for j in range(n):
            total = F[i, j]
            for r in range(j):
                total -= factor[i, r] * W[j, r]
            factor[i, j] = total / W[j, j]
        for c in range(K):
            total = m[i, c]
            for r in range(n):
                total += factor[i, r] * W[n + c, r]
            mean[i, c] = total
