"""Many series with one model and one pattern of gaps: second moments once, means side by side.

Factors and gains do not depend on the data, so they are computed for the first series alone; the
means of a block of series then move together, one lane a series.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from .....ops.cache import cached
from .....ops.small_matrices import DRIVER, INLINE, SPLICE, clear, copy_matrix, pick
from ..scalar.predict import observed, settled
from ..scalar.smoother import backward_gain, mean_map, step_maps
from ..scalar.steady import log_volume

TILE = 8  # steps that are worked on in the fastest cache
WIDTH = 32  # lanes of a block: wide enough that the compiler makes loops over lanes vectors


@njit(**INLINE)
def affine(rows, cols, A, x, out, sign):  # noqa: ANN001, ANN201
    """`out += sign A x` for a block of columns."""
    for i in range(rows):
        for j in range(cols):
            a = sign * A[i, j]
            for lane in range(WIDTH):
                out[i, lane] += a * x[j, lane]


@njit(**INLINE)
def affine_t(rows, cols, A, x, out, sign):  # noqa: ANN001, ANN201
    """`out += sign A' x` for a block of columns, `A` with `cols` rows."""
    for j in range(cols):
        for i in range(rows):
            a = sign * A[j, i]
            for lane in range(WIDTH):
                out[i, lane] += a * x[j, lane]


@njit(**INLINE)
def spread(rows, values, out):  # noqa: ANN001, ANN201
    """`out[:, lane] = values`."""
    for i in range(rows):
        for lane in range(WIDTH):
            out[i, lane] = values[i]


@njit(**INLINE)
def gather(width, series, last, first, steps, source, out):  # noqa: ANN001, ANN201
    """Copy a tile to `out[time, row, lane]`; lanes past the end repeat the last series."""
    for lane in range(WIDTH):
        s = min(series + lane, last - 1)
        for t in range(steps):
            for r in range(width):
                out[t, r, lane] = source[s, first + t, r]


@njit(**INLINE)
def scatter(width, series, last, first, steps, source, out):  # noqa: ANN001, ANN201
    """Copy a tile back, series by series, so that each is written in order."""
    for lane in range(min(WIDTH, last - series)):
        for t in range(steps):
            for r in range(width):
                out[series + lane, first + t, r, 0] = source[t, r, lane]


@njit(**INLINE)
def advance(n, A, b, m, a):  # noqa: ANN001, ANN201
    """`a = A m + b` for a block of columns."""
    spread(n, b, a)
    affine(n, n, A, m, a, 1.0)


@njit(**INLINE)
def innovations(n, c, C, d, rows, chol, y, a, e, ll):  # noqa: ANN001, ANN201
    """Whitened innovations of a block, and minus half their squares."""
    for r in range(c):
        row, inverse = rows[r], 1.0 / chol[r, r]
        offset = d[row]
        for lane in range(WIDTH):
            e[r, lane] = y[row, lane] - offset
        for j in range(n):
            weight = C[row, j]
            for lane in range(WIDTH):
                e[r, lane] -= weight * a[j, lane]
        for j in range(r):
            weight = chol[r, j]
            for lane in range(WIDTH):
                e[r, lane] -= weight * e[j, lane]
        for lane in range(WIDTH):
            total = e[r, lane] * inverse
            e[r, lane] = total
            ll[lane] -= 0.5 * total * total


@njit(**INLINE)
def correct(n, c, G, a, e, m):  # noqa: ANN001, ANN201
    """`m = a + G e` for a block of columns."""
    copy_matrix(n, WIDTH, a, m)
    affine(n, c, G, e, m, 1.0)


def forward_tiles(n: int, p: int) -> tuple[np.ndarray[Any, Any], ...]:
    """Scratch of `shared_forward`: observations, means, innovations, log-likelihoods of a tile."""
    return tuple(np.zeros((TILE, size, WIDTH)) for size in (p, n, n, p, 1))


@njit(**SPLICE)
def keep_tile(n, p, block, last, start, length, keep, tile, out):  # noqa: ANN001, ANN201
    """Write what is wanted of a tile."""
    ll, a, m, E = out
    for lane in range(min(WIDTH, last - block)):
        for k in range(length):
            ll[block + lane, start + k] = tile[0][k, 0, lane]
    if keep[0]:
        scatter(n, block, last, start, length, tile[1], a)
    if keep[1]:
        scatter(n, block, last, start, length, tile[2], m)
    if keep[2]:
        scatter(p, block, last, start, length, tile[3], E)


@njit(**INLINE)
def hand_over(n, block, last, source, starts):  # noqa: ANN001, ANN201
    """Leave the predicted means of a block of series, and a one for the offsets, to the tail."""
    for lane in range(min(WIDTH, last - block)):
        start = starts[block + lane]
        for i in range(start.shape[0]):
            start[i] = source[i, lane] if i < n else 0.0
        start[n] = 1.0


@cached(**DRIVER)
def shared_forward(first, last, params, mean, pattern, y, out, starts, keep, tail, space):  # noqa: ANN001, ANN201
    """Filter series that share a pattern up to step `tail`, whose predicted means are kept."""
    A, b, _, C, d, _ = params
    slot, G, chol, rows, count = pattern
    Y, a_, m_, E_, ll_ = space
    n, p = C.shape[3], C.shape[2]
    for block in range(first, last, WIDTH):
        before, volume, k = -1, 0.0, 0
        for start in range(0, tail, TILE):
            length = min(TILE, tail - start)
            gather(p, block, last, start, length, y, Y)
            for k in range(length):
                t = start + k
                i = slot[0, t]
                c = count[0, i]
                if i != before:
                    before, volume = i, log_volume(c, chol[0, i])
                if t == 0:
                    spread(n, mean[0, :, 0], a_[0])
                else:
                    At, bt = A[0, pick(t, A.shape[1])], b[0, pick(t, b.shape[1])]
                    advance(n, At, bt, m_[k - 1 if k else TILE - 1], a_[k])
                Ct, dt = C[0, pick(t, C.shape[1])], d[0, pick(t, d.shape[1])]
                for lane in range(WIDTH):
                    ll_[k, 0, lane] = volume
                innovations(n, c, Ct, dt, rows[0, i], chol[0, i], Y[k], a_[k], E_[k], ll_[k, 0])
                correct(n, c, G[0, i], a_[k], E_[k], m_[k])
            keep_tile(n, p, block, last, start, length, keep, (ll_, a_, m_, E_), out)
        if tail < y.shape[1]:
            advance(n, A[0, 0], b[0, 0], m_[(tail - 1) % TILE], a_[0])
            hand_over(n, block, last, a_[0], starts)


@cached(**DRIVER)
def backward_maps(first, last, params, y, stored, out, spaces):  # noqa: ANN001, ANN201
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
            repeats = same and t < y.shape[1] - 1 and slot[s, u] == i and count[s, i] == p
            if steady and repeats:
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
                steady = repeats and settled(n, U, old)
            mean_map(n, F[s, i], U, space, B[t], factor[s, t])


@cached(**DRIVER)
def shared_backward(first, last, maps, stored, means, states, slots, steps, space):  # noqa: ANN001, ANN201
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
    for block in range(first, last, WIDTH):
        for i in range(n):
            for lane in range(WIDTH):
                zeta[i, lane] = states[min(block + lane, last - 1), slots[0], i]
        for stop in range(steps[0], steps[1], -TILE):
            start = max(stop - TILE, steps[1])
            gather(n, block, last, start, stop - start, m, M)
            gather(p, block, last, start, stop - start, E, e)
            for t in range(stop - 1, start - 1, -1):
                affine(n, n, B[shared[0, t]], zeta, M[t - start], 1.0)
                if t > 0:
                    i = shared[0, t - 1]
                    clear(n, WIDTH, x)
                    affine(n, n, Z[i], zeta, x, 1.0)
                    affine(n, count[0, slot[0, t]], Ze[i], e[t - start], x, 1.0)
                    copy_matrix(n, WIDTH, x, zeta)
            scatter(n, block, last, start, stop - start, M, mean)
        for lane in range(min(WIDTH, last - block)):
            state = states[block + lane, slots[1]]
            for i in range(state.shape[0]):
                state[i] = zeta[i, lane] if i < n else 0.0


def backward_tiles(n: int, p: int) -> tuple[np.ndarray[Any, Any], ...]:
    """Scratch of `shared_backward`: means and innovations of a tile, and what the future says."""
    tiles = (np.zeros((TILE, n, WIDTH)), np.zeros((TILE, p, WIDTH)))
    return *tiles, *lanes(n, n)


def lanes(*rows: int) -> tuple[np.ndarray[Any, Any], ...]:
    """Blocks of the given numbers of rows."""
    return tuple(np.zeros((size, WIDTH)) for size in rows)
