"""Steps of the smoother in the steady state: the matrices they share, and steps by these."""

from __future__ import annotations

from numba import njit

from .....ops.arrays import Arrays, Matrix, Space, Spaces, Vector
from .....ops.small_matrices import INLINE, SPLICE, pick
from .predict import decorrelate
from .smoother_equations import combine, load_row, step_back


@njit(**SPLICE)
def step_maps(
    n: int, p: int, q: int, o: int, A: Matrix, LQ: Matrix, C: Matrix, R: Matrix, L: Matrix,
    G: Matrix, chol: Matrix, U: Matrix, space: Spaces, Z: Matrix, Ze: Matrix, response: Matrix,
) -> None:  # fmt: skip
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
def mean_map(n: int, F: Matrix, U: Matrix, space: Spaces, B: Matrix, factor: Matrix) -> None:
    """`B` with smoothed `mean = m + B zeta`, and the smoothed factor."""
    W, _, _, _, _, _, _, unit, zero, _ = space
    for i in range(n):
        for j in range(n):
            unit[i, j] = 1.0 if i == j else 0.0
    combine(n, n, zero, F, U, unit, W, B, factor)


@njit(**INLINE)
def steady_step_back(
    n: int, p: int, K: int, maps: Space, e: Matrix, m: Matrix, zeta: Matrix, x: Vector,
    mean: Matrix,
) -> None:  # fmt: skip
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


@njit(**SPLICE)
def start_steady(
    n: int, p: int, q: int, s: int, i: int, params: Space, stored: Arrays, space: Spaces,
    maps: Space,
) -> None:  # fmt: skip
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
