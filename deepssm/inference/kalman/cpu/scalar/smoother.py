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

from .....ops.cache import cached
from .....ops.small_matrices import DRIVER, INLINE, SPLICE, clear, copy_matrix, pick, reflect
from .predict import decorrelate, observed, settled

# A noiseless row enters the smoother with this fraction of its predicted deviation as noise.
_NOISELESS = 1e-9


@njit(**INLINE)
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


@njit(**SPLICE)
def load_row(n, q, K, i, row, C, L, M, v, W):  # noqa: ANN001, ANN201
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
def load_rows(n, p, k, q, C, d, R, y, a, L, order, M, v, W):  # noqa: ANN001, ANN201
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


@njit(**SPLICE)
def step_maps(n, p, q, o, A, LQ, C, R, L, G, chol, U, space, Z, Ze, response):  # noqa: ANN001, ANN201
    """Matrices of one step back, `zeta <- Z zeta + Ze e`, found by unit right-hand sides.

    `order` in `space` lists the `o` observed rows; the new equations are left in `W`.
    """
    W, x, _, _, v, M, order, _, _, _ = space
    K = n + p
    for i in range(n):
        for j in range(n):
            W[q + j, q + i] = U[i, j]
        for c in range(K):
            W[q + n + c, q + i] = 1.0 if c == i else 0.0
    decorrelate(R, order, o, M)
    for i in range(o):
        for c in range(K):
            v[c] = 1.0 if c == n + i else 0.0
        load_row(n, q, K, i, order[i], C, L, M, v, W)
    step_back(n, K, q, o, A, LQ, W, x)
    for i in range(n):
        for c in range(K):
            response[i, c] = W[q + n + c, q + i]
        for c in range(n):
            Z[i, c] = response[i, c]
    for i in range(n):
        for c in range(o):
            total = 0.0
            for r in range(c, o):
                total += response[i, n + r] * chol[r, c]
            for j in range(n):
                for r in range(j, n):
                    total += response[i, j] * U[j, r] * G[r, c]
            Ze[i, c] = total


@njit(**SPLICE)
def mean_map(n, F, U, space, B, factor):  # noqa: ANN001, ANN201
    """`B` with smoothed `mean = m + B zeta`, and the smoothed factor."""
    W, _, _, _, _, _, _, unit, zero, _ = space
    for i in range(n):
        for j in range(n):
            unit[i, j] = 1.0 if i == j else 0.0
    combine(n, n, zero, F, U, unit, W, B, factor)


@njit(**INLINE)
def repeat_back(n, p, K, maps, e, m, zeta, x, mean):  # noqa: ANN001, ANN201
    """One step back with the matrices of `step_maps` and `mean_map`."""
    Z, Ze, B, _ = maps
    for c in range(K):
        for i in range(n):
            total = 0.0
            for j in range(n):
                total += Z[i, j] * zeta[j, c]
            for j in range(p):
                total += Ze[i, j] * e[j, c]
            x[i] = total
        for i in range(n):
            zeta[i, c] = x[i]
        for i in range(n):
            total = m[i, c]
            for j in range(n):
                total += B[i, j] * x[j]
            mean[i, c] = total


def backward_space(n: int, p: int, k: int, q: int) -> tuple[tuple[np.ndarray, ...], ...]:
    """Scratch arrays of the smoother, and room for the matrices of a repeated step."""
    K = max(1 + k, n + p)
    size = q + 2 * n + p + K
    square = [np.zeros((n, n)) for _ in range(5)]
    space = (
        np.zeros((size, size)), np.zeros(max(n, q)), square[0], np.zeros((n, 1 + k)),
        np.zeros(K), np.zeros((p, p)), np.zeros(p, np.int64), square[1], square[2], square[3],
    )  # fmt: skip
    return space, (square[4], np.zeros((n, p)), np.zeros((n, n)), np.zeros((n, n + p)))


@njit(**SPLICE)
def recede(n, p, k, q, s, t, params, y, stored, J, space):  # noqa: ANN001, ANN201
    """Move the equations of the future from step `t + 1` to step `t`; keep the old `U` aside."""
    A, _, LQ, C, d, R = params
    slot, a, L, m, _, _, _, _, _ = stored
    W, x, U, zeta, v, M, order, old, _, _ = space
    u = t + 1
    At = A[pick(s, A.shape[0]), pick(u, A.shape[1])]
    Lt = LQ[pick(s, LQ.shape[0]), pick(u, LQ.shape[1])]
    Ct = C[pick(s, C.shape[0]), pick(u, C.shape[1])]
    dt = d[pick(s, d.shape[0]), pick(u, d.shape[1])]
    Rt = R[pick(s, R.shape[0]), pick(u, R.shape[1])]
    load_future(n, k, q, U, zeta, m[s, u], a[s, u], W)
    o = load_rows(
        n, p, k, q, Ct, dt, Rt, y[s, u], a[s, u], L[s, slot[s, u]], order, M, v, W
    )  # fmt: skip
    copy_matrix(n, n, U, old)
    step_back(n, 1 + k, q, o, At, Lt, W, x)
    read_equations(n, 1 + k, q, W, U, zeta)
    backward_gain(n, q, At, Lt, W, J, x)


@njit(**SPLICE)
def start_repeating(n, p, q, s, i, params, stored, space, maps):  # noqa: ANN001, ANN201
    """Find the matrices of the steps that share slot `i` of a constant model."""
    A, _, LQ, C, _, R = params
    _, _, L, _, F, G, chol, _, _ = stored
    At, Lt = A[pick(s, A.shape[0]), 0], LQ[pick(s, LQ.shape[0]), 0]
    Ct, Rt = C[pick(s, C.shape[0]), 0], R[pick(s, R.shape[0]), 0]
    U = space[2]
    step_maps(
        n, p, q, p, At, Lt, Ct, Rt, L[s, i], G[s, i], chol[s, i], U, space, maps[0], maps[1],
        maps[3],
    )  # fmt: skip
    mean_map(n, F[s, i], U, space, maps[2], space[9])


@cache
def backward_kernel(sizes: tuple[int, int, int, int] | None = None) -> Callable[..., None]:
    """Compile the smoother, for any sizes or for `sizes = (n, p, k, q)` alone."""
    fixed = sizes is not None
    N, P, K_, Q = sizes if sizes is not None else (0, 0, 0, 0)

    @cached(**DRIVER)
    def backward(first, last, params, y, stored, out, spaces):  # noqa: ANN001, ANN202
        A, _, LQ, C, _, R = params
        slot, _, _, m, F, _, _, E, count = stored
        mean, factor, gain, shared = out
        space, maps = spaces
        W, x, U, zeta, _, _, _, old, _, _ = space
        n, p = (N, P) if fixed else (C.shape[3], C.shape[2])
        k, q = (K_, Q) if fixed else (m.shape[3] - 1, LQ.shape[3])
        same = A.shape[1] == 1 and LQ.shape[1] == 1 and C.shape[1] == 1 and R.shape[1] == 1
        for s in range(first, last):
            steady, used = False, 0
            clear(n, n, U)
            clear(n, 1 + k, zeta)
            for t in range(y.shape[1] - 1, -1, -1):
                i, u = slot[s, t], t + 1
                repeats = same and t < y.shape[1] - 1 and slot[s, u] == i and count[s, i] == p
                if steady and repeats:
                    shared[s, t] = shared[s, u]
                    repeat_back(n, p, 1 + k, maps, E[s, u], m[s, t], zeta, x, mean[s, t])
                    continue
                if used >= factor.shape[1]:
                    shared[s, t] = -1  # more slots are needed than there is room for
                    break
                if t < y.shape[1] - 1:
                    recede(n, p, k, q, s, t, params, y, stored, gain[s, used], space)
                    steady = repeats and settled(n, U, old)
                    if steady:
                        start_repeating(n, p, q, s, i, params, stored, space, maps)
                shared[s, t] = used
                combine(n, 1 + k, m[s, t], F[s, i], U, zeta, W, mean[s, t], factor[s, used])
                used += 1

    return backward
