"""The forward pass of the square-root Kalman filter as one compiled loop over a series.

`forward_kernel(sizes)` closes over the sizes, so that the compiler sees constants; what it
compiles is cached on disk. All arrays are float64 and C-contiguous. A parameter array has leading
axes `(series or 1, time or 1)`.

What does not depend on the data (factors and gains) lies in numbered *slots*; `slot[t]` says which
one step `t` used. Once the factor of a constant model is steady, to round-off, steps without
gaps share a slot and cost one mean update.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import njit

from .....ops.arrays import Arrays, Matrices, Matrix, Space, Spaces, Vector
from .....ops.cache import cached
from .....ops.small_matrices import DRIVER, SPLICE, clear, copy_matrix, copy_row, pick
from .predict import is_steady, predict_factor, predict_mean
from .steady import complete, fold, fold_space, log_volume, run_steady, update_steady
from .steady_blocks import block_matrices, run_blocks
from .update import condition

WARM = 16  # steady steps before whole blocks


@njit(inline="always")
def constant(array: np.ndarray) -> bool:
    """True when a parameter has one entry for all steps."""
    return array.shape[1] == 1


def forward_space(n: int, p: int, k: int, q: int) -> tuple[Any, ...]:
    """Scratch arrays: the kernels allocate nothing, so that views need no reference counts."""
    order, place = np.zeros(p, np.int64), np.zeros(p, np.int64)
    work = (order, place, np.zeros((p, p)), np.zeros((p, n + 1)), np.zeros(n))
    return np.zeros((n, n + q)), np.zeros((k + 1, k + 1)), work, *fold_space(n, p)


@njit(**SPLICE)
def predict_step(
    n: int, k: int, q: int, s: int, t: int, before: int, now: int, j: int, i: int, steady: bool,
    params: Space, out: Arrays, W: Matrix,
) -> None:  # fmt: skip
    """Predict step `t`: the mean always, the factor too unless it is steady."""
    A, b, LQ, _, _, _ = params
    _, _, a, L, m, F, _, _, _, _, _, _, _ = out
    At = A[pick(s, A.shape[0]), pick(t, A.shape[1])]
    bt = b[pick(s, b.shape[0]), pick(t, b.shape[1])]
    predict_mean(n, k, At, bt, m[s, before], a[s, now])
    if not steady:
        LQt = LQ[pick(s, LQ.shape[0]), pick(t, LQ.shape[1])]
        predict_factor(n, q, At, F[s, j], LQt, W, L[s, i])


@njit(**SPLICE)
def full_step(
    n: int, p: int, k: int, s: int, t: int, i: int, now: int, params: Space, y: Matrices,
    out: Arrays, U: Matrix, work: Arrays,
) -> None:  # fmt: skip
    """Condition mean and factor on step `t`."""
    _, _, _, C, d, R = params
    ll, _, a, L, m, F, G, chol, E, rows, count, _, worst = out
    Ct = C[pick(s, C.shape[0]), pick(t, C.shape[1])]
    dt = d[pick(s, d.shape[0]), pick(t, d.shape[1])]
    Rt = R[pick(s, R.shape[0]), pick(t, R.shape[1])]
    count[s, i], ll[s, t], pivot = condition(
        n, p, k, Ct, dt, Rt, y[s, t], a[s, now], L[s, i], m[s, now], F[s, i], G[s, i], chol[s, i],
        E[s, now], rows[s, i], U, work,
    )  # fmt: skip
    worst[s] = min(worst[s], pivot)


@njit(**SPLICE)
def steady_step(
    n: int, p: int, k: int, s: int, t: int, i: int, now: int, volume: float, params: Space,
    y: Matrices, out: Arrays, U: Matrix,
) -> None:  # fmt: skip
    """Condition the mean alone on step `t`, with the gain of slot `i`."""
    _, _, _, C, d, _ = params
    ll, _, a, _, m, _, G, chol, E, _, _, _, _ = out
    Ct = C[pick(s, C.shape[0]), pick(t, C.shape[1])]
    dt = d[pick(s, d.shape[0]), pick(t, d.shape[1])]
    ll[s, t] = volume + update_steady(
        n, p, k, Ct, dt, y[s, t], a[s, now], m[s, now], G[s, i], chol[s, i], E[s, now], U
    )


@njit(**SPLICE)
def steady_run(
    n: int, p: int, s: int, t: int, i: int, store: bool, volume: float, params: Space, y: Matrices,
    out: Arrays, flat: Space, folded: Space, blocks: Space,
) -> int:  # fmt: skip
    """Filter on with the gain of slot `i` while nothing is missing; return the next step.

    The first steps go one by one: the matrices of whole blocks pay for themselves after some.
    """
    A, b, _, C, d, _ = params
    ll, slot, a, _, m, _, G, chol, E, _, _, _, _ = out
    T, now, x, before, last = y.shape[1], t if store else 0, folded[4], folded[5], blocks[2]
    bs, ds, Gi = b[pick(s, b.shape[0])], d[pick(s, d.shape[0])], G[s, i]
    fold(n, p, A[pick(s, A.shape[0]), 0], C[pick(s, C.shape[0]), 0], Gi, chol[s, i], folded)
    for r in range(n):
        x[r] = a[s, now, r, 0]
    keep = (store, store, store)
    for part in range(2):
        first, stop = t, min(t + WARM, T) if part == 0 else T
        t = run_steady(
            n, p, keep, t, stop, bs, ds, y[s], ll[s], slot[s], i, a[s], m[s], E[s], Gi, volume,
            folded,
        )  # fmt: skip
        if not store and t > first:
            copy_row(n, before, m[s, 0, :, 0])
        if part == 1 or t < stop or t + WARM > T or bs.shape[0] > 1 or ds.shape[0] > 1:
            continue
        copy_row(n, x, last)
        block_matrices(n, p, bs[0], ds[0], Gi, folded, blocks)
        copy_row(n, last, x)
        first = t
        rows = (flat[1][s], flat[2][s], flat[3][s])
        t = run_blocks(n, p, keep, t, T, volume, flat[0][s], ll[s], rows, x, before, blocks)
        if not store and t > first:
            copy_row(n, before, m[s, 0, :, 0])
        for step in range(first, t):
            slot[s, step] = i
    return t


@njit(**SPLICE)
def begin(n: int, k: int, s: int, start: Space, a: Matrix, L: Matrix, U: Matrix) -> None:
    """Copy the moments of the first state."""
    m0, L0 = start
    clear(k, k + 1, U)
    copy_matrix(n, 1 + k, m0[pick(s, m0.shape[0])], a)
    copy_matrix(n, n, L0[pick(s, L0.shape[0])], L)


@cache
def forward_kernel(sizes: tuple[int, int, int, int] | None = None) -> Callable[..., None]:
    """Compile the filter, for any sizes or, faster, for `sizes = (n, p, k, q)` alone.

    Args:
        sizes: States, observations, diffuse terms and noise directions as compile-time constants.
    """
    fixed, (N, P, K, Q) = sizes is not None, sizes or (0, 0, 0, 0)

    @cached(**DRIVER)
    def forward(first: int, last: int, params: Space, start: Space, y: Matrices, out: Arrays,
                flat: Space, store: bool, space: Spaces) -> None:  # fmt: skip
        A, _, LQ, C, _, R = params
        _, slot, a, L, _, _, _, chol, _, _, count, info, worst = out
        n, p = (N, P) if fixed else (C.shape[3], C.shape[2])
        k, q = (K, Q) if fixed else (info.shape[2], LQ.shape[3])
        W, U, work, folded, blocks = space
        same = constant(A) and constant(LQ) and constant(C) and constant(R)
        for s in range(first, last):
            t, i, now, used, steady, volume = 0, 0, 0, 1, False, 0.0
            begin(n, k, s, start, a[s, 0], L[s, 0], U)
            while t < y.shape[1]:
                if store and t > 0 and used >= L.shape[1]:
                    worst[s] = -1.0  # more slots are needed than there is room for
                    break
                if t > 0:
                    before, now, j = now, t if store else 0, i
                    if not steady:
                        i = used if store else 1 - i
                        used += 1
                    predict_step(n, k, q, s, t, before, now, j, i, steady, params, out, W)
                    if not steady and same and count[s, j] == p and is_steady(n, L[s, i], L[s, j]):
                        steady, i, volume = True, j, log_volume(p, chol[s, j])
                        used -= 1
                shares = steady and complete(p, y[s, t])
                if shares and k == 0:
                    t = steady_run(
                        n, p, s, t, i, store, volume, params, y, out, flat, folded, blocks
                    )
                    now = t - 1 if store else 0
                    continue
                if shares:
                    steady_step(n, p, k, s, t, i, now, volume, params, y, out, U)
                else:
                    if steady:
                        j, i, steady = i, used if store else 1 - i, False
                        used += 1
                        copy_matrix(n, n, L[s, j], L[s, i])
                    full_step(n, p, k, s, t, i, now, params, y, out, U, work)
                slot[s, t] = i
                if k > 0:
                    copy_matrix(k, k + 1, U, info[s, now])
                t += 1

    return forward


@cached(**DRIVER)
def predict_once(params: Space, out: Arrays, space: Spaces) -> None:
    """Move the state in slot 0 one step; it becomes both predicted and filtered."""
    A, b, LQ, _, _, _ = params
    _, _, a, L, m, F, _, _, _, _, _, _, _ = out
    n, q, k = A.shape[3], LQ.shape[3], m.shape[3] - 1
    At = A[0, A.shape[1] - 1]
    predict_mean(n, k, At, b[0, b.shape[1] - 1], m[0, 0], a[0, 0])
    predict_factor(n, q, At, F[0, 0], LQ[0, LQ.shape[1] - 1], space[0], L[0, 0])
    copy_matrix(n, 1 + k, a[0, 0], m[0, 0])
    copy_matrix(n, n, L[0, 0], F[0, 0])


@cached(**DRIVER)
def update_once(params: Space, y: Vector, out: Arrays, space: Spaces) -> float:
    """Condition the state in slot 0 on one observation; return its log-density."""
    _, _, _, C, d, R = params
    _, _, a, L, m, F, G, chol, E, rows, count, info, _ = out
    n, p, k = C.shape[3], C.shape[2], m.shape[3] - 1
    _, U, work, _, _ = space
    copy_matrix(k, k + 1, info[0, 0], U)
    count[0, 0], ll, _ = condition(
        n, p, k, C[0, C.shape[1] - 1], d[0, d.shape[1] - 1], R[0, R.shape[1] - 1], y, a[0, 0],
        L[0, 0], m[0, 0], F[0, 0], G[0, 0], chol[0, 0], E[0, 0], rows[0, 0], U, work,
    )  # fmt: skip
    copy_matrix(k, k + 1, U, info[0, 0])
    copy_matrix(n, 1 + k, m[0, 0], a[0, 0])
    copy_matrix(n, n, F[0, 0], L[0, 0])
    return ll
