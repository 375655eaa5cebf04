"""Settled steps of many complete series: eight steps are one matrix, whatever the sizes.

From the step on where the gain repeats itself a block of eight steps is linear in what it is
given: its observations, the mean it begins with, and a one for the offsets. What goes from block
to block is carried for eight series at a time; all else needs no order and is written series by
series, eight blocks at a time, so that results go to memory in one stream. No size of a model is
compiled in. The matrices are made in `block_matrices.py`; they are stored as
`(tiles, columns, 8)`, and series are `(series, time, obs)`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .....ops.cache import cached
from .....ops.simd_products import LANES, add_outer, product
from .....ops.small_matrices import DRIVER, SPLICE

BLOCK = LANES  # steps of a block


def slots(rows: int) -> int:
    """A number of rows that fills vectors."""
    return -(-rows // LANES) * LANES


@njit(**SPLICE)
def place(x, s, slot):  # noqa: ANN001, ANN201
    """Offset of `x[s, slot]`, and the stride from series to series; slots are used in turns."""
    return (s * x.shape[1] + slot % x.shape[1]) * x.shape[2], x.shape[1] * x.shape[2]


@cached(**DRIVER)
def sweep(first, last, y, fixed, moving, W, start, blocks, sizes, _):  # noqa: ANN001, ANN201
    """Carry `moving` from block to block: its next value is `W` times the block's data.

    Slot `b` of `fixed` and `moving`, `(series, slots, size)`, belongs to block `b`. Forward
    `moving` goes from slot `b` to `b + 1`; backward (`blocks` counting down) from slot `b + 1` to
    `b`. `sizes` are how many of their numbers are used, and `W` has columns for the observations,
    `fixed` and `moving`. `start` is the first step of block 0.
    """
    T, p, columns = y.shape[1], y.shape[2], W.shape[1]
    begin, stop, way = blocks
    known, carried = sizes
    for s in range(first, last, LANES):
        lanes = min(LANES, last - s)
        for b in range(begin, stop, way):
            at, by = place(fixed, s, b)
            now, stride = place(moving, s, b if way > 0 else b + 1)
            then, _ = place(moving, s, b + 1 if way > 0 else b)
            data = (y, (s * T + start + BLOCK * b) * p, T * p, BLOCK * p, 0)
            before = (fixed, at, by, known, BLOCK * p)
            state = (moving, now, stride, carried, BLOCK * p + known)
            for i in range(W.shape[0]):
                parts = (data, before, state)
                product(W, i * columns * LANES, parts, moving, then + LANES * i, stride, lanes)


@cached(**DRIVER)
def write(first, last, y, x, z, W, needed, start, blocks, sizes, out, _):  # noqa: ANN001, ANN201
    """Write `out`, `(series, time, width, 1)`, of whole blocks: `W` times the block's data.

    Data are the first `needed[tile]` observations, `x` of the block and `z` of the slot after it,
    as `sweep` leaves it on the way back.
    """
    T, p, columns, width = y.shape[1], y.shape[2], W.shape[1], W.shape[0]
    known, carried = sizes
    for s in range(first, last):
        for b in range(blocks[0], blocks[1], LANES):
            lanes, t = min(LANES, blocks[1] - b), s * T + start + BLOCK * b
            at, _ = place(x, s, b)
            after, _ = place(z, s, b + 1)
            before = (x, at, x.shape[2], known, BLOCK * p)
            state = (z, after, z.shape[2], carried, BLOCK * p + known)
            for i in range(width):
                parts = ((y, t * p, BLOCK * p, needed[i], 0), before, state)
                to = t * width + LANES * i
                product(W, i * columns * LANES, parts, out, to, BLOCK * width, lanes)


def innovation_space(p: int) -> np.ndarray:
    """Scratch of `score_tail`."""
    return np.zeros((LANES, p, LANES))


@njit(**SPLICE)
def stretch(e, r, x, offsets, strides, i, ends, lanes):  # noqa: ANN001, ANN201
    """Eight numbers of each lane: stretch `i` of `e`, then of `r`, then of `x`."""
    if i < ends[0]:
        return e, LANES * i, strides[0], lanes
    if i < ends[1]:
        return r, offsets[0] + LANES * (i - ends[0]), strides[1], lanes
    return x, offsets[1] + LANES * (i - ends[1]), strides[2], lanes


@cached(**DRIVER)
def score_tail(first, last, y, x, r, W, start, blocks, n, weights, gy, want_y, spaces):  # noqa: ANN001, ANN201
    """Carry the adjoint `r` back through all blocks; sum products of all that it depends on.

    `x` are the means and ones that blocks begin with, `r` is `(series, 2, size)`. `W` makes
    innovations, a tile for each component, the next adjoint, and what `gy` is if `want_y`.
    `spaces` are innovations, weights of eight series, and the sums that are added to: `(e, r)`
    times `(e, r, x)`, where not implied by symmetry.
    """
    T, p = y.shape[1], y.shape[2]
    We, Wr, Ww = W
    e, scale, sums = spaces
    ends = (p, p + Wr.shape[0])
    for s in range(first, last, LANES):
        lanes = min(LANES, last - s)
        for g in range(LANES):
            scale[g] = weights[s + g] if g < lanes else 0.0
        for b in range(blocks - 1, -1, -1):
            t = (s * T + start + BLOCK * b) * p
            at, by = place(x, s, b)
            now, stride = place(r, s, b + 1)
            then, _ = place(r, s, b)
            parts = ((y, t, T * p, BLOCK * p, 0), (x, at, by, n + 1, BLOCK * p))
            for i in range(p):
                product(We, i * We.shape[1] * LANES, parts, e, LANES * i, LANES * p, lanes)
            back = ((e, 0, LANES * p, BLOCK * p, 0), (r, now, stride, n, BLOCK * p))
            for i in range(Wr.shape[0]):
                product(Wr, i * Wr.shape[1] * LANES, back, r, then + LANES * i, stride, lanes)
            if want_y:
                for i in range(p):
                    product(Ww, i * Ww.shape[1] * LANES, back, gy, t + LANES * i, T * p, lanes)
            where, strides = (now, at), (LANES * p, stride, by)
            for i in range(ends[1]):
                left = stretch(e, r, x, where, strides, i, ends, lanes)
                for j in range(i, sums.shape[1] // LANES):
                    right = stretch(e, r, x, where, strides, j, ends, lanes)
                    to = LANES * (i * sums.shape[1] + j)
                    add_outer(left, right, scale, sums, to, sums.shape[1])
