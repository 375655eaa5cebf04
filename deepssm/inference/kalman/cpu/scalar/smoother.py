"""The backward pass of the two-filter square-root smoother as one compiled loop over a series.

The future `y_{t+1:T}` is carried as whitened equations `U (z_t - m_t) = zeta + noise` and moved by
orthogonal transformations only: no inverse of `P` or `Q` and no subtraction of covariances, hence
right for singular `Q` and `P0`. Equations are stored transposed, one unknown a row, so that the
row reflections of the filter triangularise them.

Source: Bierman (1977), Factorization Methods for Discrete Sequential Estimation, ch. X.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numba import njit

from .....ops.arrays import Arrays, Matrices, Matrix, Space, Spaces
from .....ops.cache import cached
from .....ops.small_matrices import DRIVER, SPLICE, clear, copy_matrix, pick
from .predict import is_steady
from .smoother_equations import (
    backward_gain,
    combine,
    load_later_data,
    load_rows,
    read_equations,
    step_back,
)
from .steady_smoother import start_steady, steady_step_back


def backward_space(n: int, p: int, k: int, q: int) -> tuple[tuple[np.ndarray, ...], ...]:
    """Scratch arrays of the smoother, and room for the matrices of a steady step."""
    K = max(1 + k, n + p)
    size = q + 2 * n + p + K
    square = [np.zeros((n, n)) for _ in range(5)]
    space = (
        np.zeros((size, size)), np.zeros(max(n, q)), square[0], np.zeros((n, 1 + k)),
        np.zeros(K), np.zeros((p, p)), np.zeros(p, np.int64), square[1], square[2], square[3],
    )  # fmt: skip
    return space, (square[4], np.zeros((n, p)), np.zeros((n, n)), np.zeros((n, n + p)))


@njit(**SPLICE)
def recede(
    n: int, p: int, k: int, q: int, s: int, t: int, params: Space, y: Matrices, stored: Arrays,
    J: Matrix, space: Spaces,
) -> None:  # fmt: skip
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
    load_later_data(n, k, q, U, zeta, m[s, u], a[s, u], W)
    o = load_rows(
        n, p, k, q, Ct, dt, Rt, y[s, u], a[s, u], L[s, slot[s, u]], order, M, v, W
    )  # fmt: skip
    copy_matrix(n, n, U, old)
    step_back(n, 1 + k, q, o, At, Lt, W, x)
    read_equations(n, 1 + k, q, W, U, zeta)
    backward_gain(n, q, At, Lt, W, J, x)


@cache
def backward_kernel(sizes: tuple[int, int, int, int] | None = None) -> Callable[..., None]:
    """Compile the smoother, for any sizes or for `sizes = (n, p, k, q)` alone."""
    fixed = sizes is not None
    N, P, K_, Q = sizes if sizes is not None else (0, 0, 0, 0)

    @cached(**DRIVER)
    def backward(
        first: int, last: int, params: Space, y: Matrices, stored: Arrays, out: Arrays,
        spaces: Spaces,
    ) -> None:  # fmt: skip
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
                shares = same and t < y.shape[1] - 1 and slot[s, u] == i and count[s, i] == p
                if steady and shares:
                    shared[s, t] = shared[s, u]
                    steady_step_back(n, p, 1 + k, maps, E[s, u], m[s, t], zeta, x, mean[s, t])
                    continue
                if used >= factor.shape[1]:
                    shared[s, t] = -1  # more slots are needed than there is room for
                    break
                if t < y.shape[1] - 1:
                    recede(n, p, k, q, s, t, params, y, stored, gain[s, used], space)
                    steady = shares and is_steady(n, U, old)
                    if steady:
                        start_steady(n, p, q, s, i, params, stored, space, maps)
                shared[s, t] = used
                combine(n, 1 + k, m[s, t], F[s, i], U, zeta, W, mean[s, t], factor[s, used])
                used += 1

    return backward
