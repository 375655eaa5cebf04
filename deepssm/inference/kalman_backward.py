"""The backward pass of the two-filter square-root smoother as one compiled loop over a series.

The future `y_{t+1:T}` is carried as whitened equations `U (z_t - m_t) = zeta + noise` and moved by
orthogonal transformations only: no inverse of `P` or `Q` and no subtraction of covariances, hence
right for singular `Q` and `P0`. Equations are stored transposed, one unknown a row, so that the
row reflections of the filter triangularise them.

Source: Bierman (1977), Factorization Methods for Discrete Sequential Estimation, ch. X.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from numba import njit

from .kalman_kernels import at
from .kalman_steps import _FAST, innovate, noise_factor, reflect

# A noiseless row enters the smoother with this fraction of its predicted deviation as noise.
_NOISELESS = 1e-9


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
def load_future(
    n: int,
    k: int,
    q: int,
    U: np.ndarray,
    zeta: np.ndarray,
    m: np.ndarray,
    a: np.ndarray,
    W: np.ndarray,
) -> None:
    """Write `[U | zeta + U (m - a)]`: the future equations, based at the predicted mean."""
    for i in range(n):
        for j in range(n):
            W[q + j, q + i] = U[i, j]
        for c in range(1 + k):
            total = zeta[i, c]
            for j in range(n):
                total += U[i, j] * (m[j, c] - a[j, c])
            W[q + n + c, q + i] = total


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
def load_rows(
    n: int,
    p: int,
    k: int,
    q: int,
    C: np.ndarray,
    d: np.ndarray,
    R: np.ndarray,
    y: np.ndarray,
    a: np.ndarray,
    L: np.ndarray,
    order: np.ndarray,
    noise: np.ndarray,
    v: np.ndarray,
    W: np.ndarray,
) -> int:
    """Append the whitened observation rows `R^(-1/2) [C | y - d - C a]`; return their number."""
    o = 0
    for i in range(p):
        if not math.isnan(y[i]):
            order[o] = i
            o += 1
    noise_factor(R, order, o, noise, 0)
    for i in range(o):
        row, col = order[i], q + n + i
        innovate(n, k, C, d, y, a, row, v)
        for j in range(n):
            W[q + j, col] = C[row, j]
        for c in range(1 + k):
            W[q + n + c, col] = v[c]
        pivot = noise[i, i]
        if pivot == 0.0:
            pivot = noiseless_scale(n, C[row], L)
        for r in range(q, q + n + 1 + k):
            total = W[r, col]
            for j in range(i):
                total -= noise[i, j] * W[r, q + n + j]
            W[r, col] = total / pivot
    return o


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
def noiseless_scale(n: int, row: np.ndarray, L: np.ndarray) -> float:
    """A deviation far below that of the row's prediction, in the row's own units."""
    square = 0.0
    for j in range(n):
        total = 0.0
        for i in range(j, n):
            total += row[i] * L[i, j]
        square += total * total
    return _NOISELESS * math.sqrt(square) if square > 0.0 else 1.0


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
def step_back(
    n: int, k: int, q: int, o: int, A: np.ndarray, LQ: np.ndarray, W: np.ndarray, X: np.ndarray
) -> None:
    """Express the equations in `z_{t-1}` and the noise `w`, then eliminate `w`."""
    for col in range(q, q + n + o):
        for j in range(n):
            X[j, 0] = W[q + j, col]
        for r in range(q):
            total = 0.0
            for j in range(n):
                total += LQ[j, r] * X[j, 0]
            W[r, col] = total
        for r in range(n):
            total = 0.0
            for j in range(n):
                total += A[j, r] * X[j, 0]
            W[q + r, col] = total
    for r in range(q + n + 1 + k):
        for col in range(q):
            W[r, col] = 1.0 if r == col else 0.0
    for i in range(min(q + n, q + n + o)):
        reflect(W, i, i, q + n + 1 + k, q + n + o)


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
def read_equations(n: int, k: int, q: int, W: np.ndarray, U: np.ndarray, zeta: np.ndarray) -> None:
    """Read the triangularised equations in `z_{t-1}` off the array."""
    for i in range(n):
        for j in range(n):
            U[i, j] = W[q + j, q + i] if j >= i else 0.0
        for c in range(1 + k):
            zeta[i, c] = W[q + n + c, q + i]


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
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


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
def combine(
    n: int,
    k: int,
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
        for c in range(1 + k):
            W[n + c, i], W[n + c, n + i] = 0.0, zeta[i, c]
    for i in range(n):
        reflect(W, i, i, n + 1 + k, 2 * n)
    for i in range(n):
        for j in range(n):
            total = F[i, j]
            for r in range(j):
                total -= factor[i, r] * W[j, r]
            factor[i, j] = total / W[j, j]
        for c in range(1 + k):
            total = m[i, c]
            for r in range(n):
                total += factor[i, r] * W[n + c, r]
            mean[i, c] = total


@cache
def backward_kernel(sizes: tuple[int, int, int, int] | None = None) -> Callable[..., None]:
    """Compile the smoother, for any sizes or for `sizes = (n, p, k, q)` alone."""
    fixed = sizes is not None
    N, P, K, Q = sizes if sizes is not None else (0, 0, 0, 0)

    @njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
    def backward(first, last, params, y, stored, mean, factor, gain):  # noqa: ANN001, ANN202
        A, _, LQ, C, d, R = params
        a, L, m, F = stored
        T = y.shape[1]
        n, p = (N, P) if fixed else (C.shape[3], C.shape[2])
        k, q = (K, Q) if fixed else (m.shape[3] - 1, LQ.shape[3])
        size = max(q, n) + n + max(n, p) + 1 + k
        W, X, x = np.zeros((size, size)), np.zeros((n, 1)), np.zeros(q)
        U, zeta, v = np.zeros((n, n)), np.zeros((n, 1 + k)), np.zeros(1 + k)
        noise, order = np.zeros((p, p)), np.zeros(p, np.int64)
        for s in range(first, last):
            U[:], zeta[:] = 0.0, 0.0
            for t in range(T - 1, -1, -1):
                if t < T - 1:
                    load_future(n, k, q, U, zeta, m[s, t + 1], a[s, t + 1], W)
                    o = load_rows(
                        n, p, k, q, at(at(C, s), t + 1), at(at(d, s), t + 1), at(at(R, s), t + 1),
                        y[s, t + 1], a[s, t + 1], L[s, t + 1], order, noise, v, W,
                    )  # fmt: skip
                    At, Lt = at(at(A, s), t + 1), at(at(LQ, s), t + 1)
                    step_back(n, k, q, o, At, Lt, W, X)
                    read_equations(n, k, q, W, U, zeta)
                    backward_gain(n, q, At, Lt, W, gain[s, t + 1], x)
                combine(n, k, m[s, t], F[s, t], U, zeta, W, mean[s, t], factor[s, t])

    return backward
