"""Steady steps of many complete series: eight steps are one matrix, whatever the sizes.

From the step on where the gain is steady a block of eight steps is linear in what it is
given: its observations, the mean it begins with, and a one for the offsets. What goes from block
to block is carried for eight series at a time; all else needs no order and is written series by
series, eight blocks at a time, so that results go to memory in one stream. No size of a model is
compiled in. The matrices are made in `block_matrices.py`; they are stored as
`(register blocks, columns, 8)`, and series are `(series, time, obs)`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .....ops.arrays import SIMD_WIDTH, Batch, Matrices, Space, Vector, Whole
from .....ops.cache import cached
from .....ops.simd_products import add_outer, product
from .....ops.small_matrices import DRIVER, SPLICE
from .sizes import BLOCK_STEPS


@njit(**SPLICE)
def place(x: Matrices, s: int, slot: int) -> tuple[int, int]:
    """Offset of `x[s, slot]`, and the stride from series to series; slots are used in turns."""
    return (s * x.shape[1] + slot % x.shape[1]) * x.shape[2], x.shape[1] * x.shape[2]


@cached(**DRIVER)
def sweep(
    first: int, last: int, y: Matrices, fixed: Matrices, moving: Matrices, W: Matrices, start: int,
    blocks: tuple[int, int, int], sizes: tuple[int, int], space: tuple[()],
) -> None:  # fmt: skip
    """Carry `moving` from block to block: its next value is `W` times the block's data.

    Slot `b` of `fixed` and `moving`, `(series, slots, size)`, belongs to block `b`. Forward
    `moving` goes from slot `b` to `b + 1`; backward (`blocks` counting down) from slot `b + 1` to
    `b`. `sizes` are how many of their numbers are used, and `W` has columns for the observations,
    `fixed` and `moving`. `start` is the first step of block 0.
    """
    T, p, columns = y.shape[1], y.shape[2], W.shape[1]
    begin, stop, way = blocks
    known, carried = sizes
    for s in range(first, last, SIMD_WIDTH):
        used = min(SIMD_WIDTH, last - s)
        for b in range(begin, stop, way):
            at, by = place(fixed, s, b)
            now, stride = place(moving, s, b if way > 0 else b + 1)
            then, _ = place(moving, s, b + 1 if way > 0 else b)
            data = (y, (s * T + start + BLOCK_STEPS * b) * p, T * p, BLOCK_STEPS * p, 0)
            before = (fixed, at, by, known, BLOCK_STEPS * p)
            state = (moving, now, stride, carried, BLOCK_STEPS * p + known)
            for i in range(W.shape[0]):
                k, parts = SIMD_WIDTH * i, (data, before, state)
                product(W, columns * k, parts, moving, then + k, stride, used)


@cached(**DRIVER)
def write(
    first: int, last: int, y: Matrices, x: Matrices, z: Matrices, W: Matrices, needed: Whole,
    start: int, blocks: tuple[int, int], sizes: tuple[int, int], out: Batch, space: tuple[()],
) -> None:  # fmt: skip
    """Write `out`, `(series, time, width, 1)`, of whole blocks: `W` times the block's data.

    Data are the first `needed[i]` observations, `x` of the block and `z` of the slot after it,
    as `sweep` leaves it on the way back.
    """
    T, p, columns, width = y.shape[1], y.shape[2], W.shape[1], W.shape[0]
    known, carried = sizes
    for s in range(first, last):
        for b in range(blocks[0], blocks[1], SIMD_WIDTH):
            used, t = min(SIMD_WIDTH, blocks[1] - b), s * T + start + BLOCK_STEPS * b
            at, _ = place(x, s, b)
            after, _ = place(z, s, b + 1)
            before = (x, at, x.shape[2], known, BLOCK_STEPS * p)
            state = (z, after, z.shape[2], carried, BLOCK_STEPS * p + known)
            for i in range(width):
                parts = ((y, t * p, BLOCK_STEPS * p, needed[i], 0), before, state)
                to = t * width + SIMD_WIDTH * i
                product(W, i * columns * SIMD_WIDTH, parts, out, to, BLOCK_STEPS * width, used)


def innovation_space(p: int) -> np.ndarray:
    """Scratch of `score_steady_blocks`."""
    return np.zeros((SIMD_WIDTH, p, SIMD_WIDTH))


@njit(**SPLICE)
def stretch(
    e: Matrices, r: Matrices, x: Matrices, offsets: tuple[int, int], strides: tuple[int, int, int],
    i: int, ends: tuple[int, int], used: int,
) -> tuple[Matrices, int, int, int]:  # fmt: skip
    """Eight numbers of each series: stretch `i` of `e`, then of `r`, then of `x`."""
    if i < ends[0]:
        return e, SIMD_WIDTH * i, strides[0], used
    if i < ends[1]:
        return r, offsets[0] + SIMD_WIDTH * (i - ends[0]), strides[1], used
    return x, offsets[1] + SIMD_WIDTH * (i - ends[1]), strides[2], used


@cached(**DRIVER)
def score_steady_blocks(
    first: int, last: int, y: Matrices, x: Matrices, r: Matrices, W: Space, start: int,
    blocks: int, n: int, weights: Vector, gy: Matrices, want_y: bool, spaces: Space,
) -> None:  # fmt: skip
    """Carry the adjoint `r` back through all blocks; sum products of all that it depends on.

    `x` are the means and ones that blocks begin with, `r` is `(series, 2, size)`. `W` makes
    innovations, a register block for each component, the next adjoint, and what `gy` is if
    `want_y`. `spaces` are innovations, weights of eight series, and the sums that are added to:
    `(e, r)` times `(e, r, x)`, where not implied by symmetry.
    """
    T, p = y.shape[1], y.shape[2]
    We, Wr, Ww = W
    e, scale, sums = spaces
    ends, lines = (p, p + Wr.shape[0]), SIMD_WIDTH * p
    size_e, size_r, size_w = We.shape[1], Wr.shape[1], Ww.shape[1]
    for s in range(first, last, SIMD_WIDTH):
        used = min(SIMD_WIDTH, last - s)
        for g in range(SIMD_WIDTH):
            scale[g] = weights[s + g] if g < used else 0.0
        for b in range(blocks - 1, -1, -1):
            t = (s * T + start + BLOCK_STEPS * b) * p
            at, by = place(x, s, b)
            now, stride = place(r, s, b + 1)
            then, _ = place(r, s, b)
            parts = ((y, t, T * p, BLOCK_STEPS * p, 0), (x, at, by, n + 1, BLOCK_STEPS * p))
            for i in range(p):
                k = SIMD_WIDTH * i
                product(We, size_e * k, parts, e, k, lines, used)
            back = ((e, 0, lines, BLOCK_STEPS * p, 0), (r, now, stride, n, BLOCK_STEPS * p))
            for i in range(Wr.shape[0]):
                k = SIMD_WIDTH * i
                product(Wr, size_r * k, back, r, then + k, stride, used)
            if want_y:
                for i in range(p):
                    k = SIMD_WIDTH * i
                    product(Ww, size_w * k, back, gy, t + k, T * p, used)
            where, strides = (now, at), (lines, stride, by)
            for i in range(ends[1]):
                left = stretch(e, r, x, where, strides, i, ends, used)
                for j in range(i, sums.shape[1] // SIMD_WIDTH):
                    right = stretch(e, r, x, where, strides, j, ends, used)
                    to = SIMD_WIDTH * (i * sums.shape[1] + j)
                    add_outer(left, right, scale, sums, to, sums.shape[1])
