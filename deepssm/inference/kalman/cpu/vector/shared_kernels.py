"""Many series with one model and one pattern of gaps: second moments once, means as columns.

Factors and gains do not depend on the data, so they are computed for the first series alone; the
means of a block of series then move at once, one column a series.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from .....ops.arrays import Arrays, Batch, Matrices, Matrix, Space, Spaces, Vector, Whole
from .....ops.cache import cached
from .....ops.small_matrices import DRIVER, INLINE, SPLICE, clear, copy_matrix, pick
from ..scalar.predict import is_steady, observed
from ..scalar.smoother_equations import backward_gain
from ..scalar.steady import log_volume
from ..scalar.steady_smoother import mean_map, step_maps

STEPS_IN_CACHE = 8  # steps that are worked on in the fastest cache
SERIES_AT_ONCE = (
    32  # columns of a block: wide enough that the compiler makes loops over columns vectors
)


@njit(**INLINE)
def affine(rows: int, cols: int, A: Matrix, x: Matrix, out: Matrix, sign: float) -> None:
    """`out += sign A x` for a block of columns."""
    for i in range(rows):
        for j in range(cols):
            a = sign * A[i, j]
            for column in range(SERIES_AT_ONCE):
                out[i, column] += a * x[j, column]


@njit(**INLINE)
def affine_t(rows: int, cols: int, A: Matrix, x: Matrix, out: Matrix, sign: float) -> None:
    """`out += sign A' x` for a block of columns, `A` with `cols` rows."""
    for j in range(cols):
        for i in range(rows):
            a = sign * A[j, i]
            for column in range(SERIES_AT_ONCE):
                out[i, column] += a * x[j, column]


@njit(**INLINE)
def spread(rows: int, values: Vector, out: Matrix) -> None:
    """`out[:, column] = values`."""
    for i in range(rows):
        for column in range(SERIES_AT_ONCE):
            out[i, column] = values[i]


@njit(**INLINE)
def gather(
    width: int, series: int, last: int, first: int, steps: int, source: Matrices, out: Matrices
) -> None:
    """Copy steps to `out[time, row, column]`; columns past the end are the last series again."""
    for column in range(SERIES_AT_ONCE):
        s = min(series + column, last - 1)
        for t in range(steps):
            for r in range(width):
                out[t, r, column] = source[s, first + t, r]


@njit(**INLINE)
def scatter(
    width: int, series: int, last: int, first: int, steps: int, source: Matrices, out: Batch
) -> None:
    """Copy some steps back, series by series, so that each is written in order."""
    for column in range(min(SERIES_AT_ONCE, last - series)):
        for t in range(steps):
            for r in range(width):
                out[series + column, first + t, r, 0] = source[t, r, column]


@njit(**INLINE)
def advance(n: int, A: Matrix, b: Vector, m: Matrix, a: Matrix) -> None:
    """`a = A m + b` for a block of columns."""
    spread(n, b, a)
    affine(n, n, A, m, a, 1.0)


@njit(**INLINE)
def innovations(
    n: int, c: int, C: Matrix, d: Vector, rows: Whole, chol: Matrix, y: Matrix, a: Matrix,
    e: Matrix, ll: Vector,
) -> None:  # fmt: skip
    """Whitened innovations of a block, and minus half their squares."""
    for r in range(c):
        row, inverse = rows[r], 1.0 / chol[r, r]
        offset = d[row]
        for column in range(SERIES_AT_ONCE):
            e[r, column] = y[row, column] - offset
        for j in range(n):
            weight = C[row, j]
            for column in range(SERIES_AT_ONCE):
                e[r, column] -= weight * a[j, column]
        for j in range(r):
            weight = chol[r, j]
            for column in range(SERIES_AT_ONCE):
                e[r, column] -= weight * e[j, column]
        for column in range(SERIES_AT_ONCE):
            total = e[r, column] * inverse
            e[r, column] = total
            ll[column] -= 0.5 * total * total


@njit(**INLINE)
def correct(n: int, c: int, G: Matrix, a: Matrix, e: Matrix, m: Matrix) -> None:
    """`m = a + G e` for a block of columns."""
    copy_matrix(n, SERIES_AT_ONCE, a, m)
    affine(n, c, G, e, m, 1.0)


def shared_forward_space(n: int, p: int) -> tuple[np.ndarray[Any, Any], ...]:
    """Scratch of `shared_forward`: observations, means, innovations and densities of steps."""
    return tuple(np.zeros((STEPS_IN_CACHE, size, SERIES_AT_ONCE)) for size in (p, n, n, p, 1))


@njit(**SPLICE)
def write_steps(
    n: int, p: int, block: int, last: int, start: int, length: int, keep: tuple[bool, ...],
    scratch: Space, out: Space,
) -> None:  # fmt: skip
    """Write what is wanted of some steps."""
    ll, a, m, E = out
    for column in range(min(SERIES_AT_ONCE, last - block)):
        for k in range(length):
            ll[block + column, start + k] = scratch[0][k, 0, column]
    if keep[0]:
        scatter(n, block, last, start, length, scratch[1], a)
    if keep[1]:
        scatter(n, block, last, start, length, scratch[2], m)
    if keep[2]:
        scatter(p, block, last, start, length, scratch[3], E)


@njit(**INLINE)
def hand_over(n: int, block: int, last: int, source: Matrix, starts: Matrix) -> None:
    """Leave predicted means of a block of series, and a one for the offsets, to later kernels."""
    for column in range(min(SERIES_AT_ONCE, last - block)):
        start = starts[block + column]
        for i in range(start.shape[0]):
            start[i] = source[i, column] if i < n else 0.0
        start[n] = 1.0


@cached(**DRIVER)
def shared_forward(
    first: int, last: int, params: Space, mean: Matrices, pattern: Arrays, y: Matrices, out: Space,
    starts: Matrix, keep: tuple[bool, ...], stop: int, space: Space,
) -> None:  # fmt: skip
    """Filter series that share a pattern up to step `stop`, whose predicted means are left."""
    A, b, _, C, d, _ = params
    slot, G, chol, rows, count = pattern
    Y, a_, m_, E_, ll_ = space
    n, p = C.shape[3], C.shape[2]
    for block in range(first, last, SERIES_AT_ONCE):
        before, volume, k = -1, 0.0, 0
        for start in range(0, stop, STEPS_IN_CACHE):
            length = min(STEPS_IN_CACHE, stop - start)
            gather(p, block, last, start, length, y, Y)
            for k in range(length):
                t = start + k
                i = slot[0, t]
                c = count[0, i]
                if i != before:
                    before, volume = i, log_volume(c, chol[0, i])
                if t == 0:
                    for column in range(SERIES_AT_ONCE):
                        own = mean[pick(min(block + column, last - 1), mean.shape[0])]
                        for r in range(n):
                            a_[0][r, column] = own[r, 0]
                else:
                    At, bt = A[0, pick(t, A.shape[1])], b[0, pick(t, b.shape[1])]
                    advance(n, At, bt, m_[k - 1 if k else STEPS_IN_CACHE - 1], a_[k])
                Ct, dt = C[0, pick(t, C.shape[1])], d[0, pick(t, d.shape[1])]
                for column in range(SERIES_AT_ONCE):
                    ll_[k, 0, column] = volume
                innovations(n, c, Ct, dt, rows[0, i], chol[0, i], Y[k], a_[k], E_[k], ll_[k, 0])
                correct(n, c, G[0, i], a_[k], E_[k], m_[k])
            write_steps(n, p, block, last, start, length, keep, (ll_, a_, m_, E_), out)
        if stop < y.shape[1]:
            advance(n, A[0, 0], b[0, 0], m_[(stop - 1) % STEPS_IN_CACHE], a_[0])
            hand_over(n, block, last, a_[0], starts)


@cached(**DRIVER)
def backward_maps(
    first: int, last: int, params: Space, y: Matrices, stored: Arrays, out: Arrays, spaces: Spaces
) -> None:
    """The smoother of the first series without its data: maps, factor and gain of every step."""
    A, _, LQ, C, _, R = params
    slot, L, F, G, chol, count = stored
    Z, Ze, B, factor, gain, shared = out
    space, maps = spaces
    W, x, U, _, _, _, order, old, _, _ = space
    n, p, q = A.shape[3], C.shape[2], LQ.shape[3]
    same = A.shape[1] == 1 and LQ.shape[1] == 1 and C.shape[1] == 1 and R.shape[1] == 1
    for s in range(first, last):
        steady = False
        clear(n, n, U)
        for t in range(y.shape[1] - 1, -1, -1):
            i, u = slot[s, t], t + 1
            shares = same and t < y.shape[1] - 1 and slot[s, u] == i and count[s, i] == p
            if steady and shares:
                shared[s, t] = shared[s, u]
                continue
            shared[s, t] = t
            if t < y.shape[1] - 1:
                j = slot[s, u]
                At, Lt = A[0, pick(u, A.shape[1])], LQ[0, pick(u, LQ.shape[1])]
                Ct, Rt = C[0, pick(u, C.shape[1])], R[0, pick(u, R.shape[1])]
                copy_matrix(n, n, U, old)
                o = observed(p, y[s, u], order)
                step_maps(
                    n, p, q, o, At, Lt, Ct, Rt, L[s, j], G[s, j], chol[s, j], U, space, Z[t],
                    Ze[t], maps[3],
                )  # fmt: skip
                for row in range(n):
                    for col in range(n):
                        U[row, col] = W[q + col, q + row] if col >= row else 0.0
                backward_gain(n, q, At, Lt, W, gain[s, t], x)
                steady = shares and is_steady(n, U, old)
            mean_map(n, F[s, i], U, space, B[t], factor[s, t])


@cached(**DRIVER)
def shared_backward(
    first: int, last: int, maps: Space, stored: Arrays, means: Space, states: Matrices,
    slots: tuple[int, int], steps: tuple[int, int], space: Space,
) -> None:  # fmt: skip
    """Smoothed means of series that share `maps`, from step `steps[0] - 1` back to `steps[1]`.

    `states[s, slot]` is what the future says of the last step to do; it is read from the first of
    `slots` and left in the second for the steps that remain. `means` are those of the filter, and
    where to write the smoothed ones.
    """
    Z, Ze, B = maps
    shared, slot, count, E = stored
    m, mean = means
    M, e, zeta, x = space
    n, p = m.shape[2], E.shape[2]
    for block in range(first, last, SERIES_AT_ONCE):
        for i in range(n):
            for column in range(SERIES_AT_ONCE):
                zeta[i, column] = states[min(block + column, last - 1), slots[0], i]
        for stop in range(steps[0], steps[1], -STEPS_IN_CACHE):
            start = max(stop - STEPS_IN_CACHE, steps[1])
            gather(n, block, last, start, stop - start, m, M)
            gather(p, block, last, start, stop - start, E, e)
            for t in range(stop - 1, start - 1, -1):
                affine(n, n, B[shared[0, t]], zeta, M[t - start], 1.0)
                if t > 0:
                    i = shared[0, t - 1]
                    clear(n, SERIES_AT_ONCE, x)
                    affine(n, n, Z[i], zeta, x, 1.0)
                    affine(n, count[0, slot[0, t]], Ze[i], e[t - start], x, 1.0)
                    copy_matrix(n, SERIES_AT_ONCE, x, zeta)
            scatter(n, block, last, start, stop - start, M, mean)
        for column in range(min(SERIES_AT_ONCE, last - block)):
            state = states[block + column, slots[1]]
            for i in range(state.shape[0]):
                state[i] = zeta[i, column] if i < n else 0.0


def shared_backward_space(n: int, p: int) -> tuple[np.ndarray[Any, Any], ...]:
    """Scratch of `shared_backward`: means, innovations, and what later steps say."""
    steps = (
        np.zeros((STEPS_IN_CACHE, n, SERIES_AT_ONCE)),
        np.zeros((STEPS_IN_CACHE, p, SERIES_AT_ONCE)),
    )
    return *steps, *column_blocks(n, n)


def column_blocks(*rows: int) -> tuple[np.ndarray[Any, Any], ...]:
    """Blocks of the given numbers of rows."""
    return tuple(np.zeros((size, SERIES_AT_ONCE)) for size in rows)
