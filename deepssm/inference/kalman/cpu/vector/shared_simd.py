"""Complete steps of many series that share their gains, filtered eight series abreast.

The lanes of a vector are eight series. Eight steps at a time their numbers are transposed in
registers on the way in and out, so that memory is read and written once and in order. Steps move
by the folded recursion of `scalar/steady.py`, its matrices stored for `ops/simd_products.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numba import njit

from .....ops.cache import cached
from .....ops.simd import add_product, fill, get, lane_array, put, sub
from .....ops.simd_products import (
    LANES,
    fence,
    four_rows,
    one_row,
    read_tile,
    stream_tile,
    two_rows,
    write_tile,
)
from .....ops.small_matrices import DRIVER, INLINE, SPLICE
from ..scalar.steady import fold, log_volume

BLOCK = LANES  # steps of a block
_TILE = LANES * LANES
SKIP, WRITE, STREAM = range(3)  # what to do with a result; see `way_of`
_LARGE = 6 << 20  # bytes beyond which results leave the caches anyway; a reader of less pays more


@njit(**INLINE)
def lay_out(rows, cols, X, sign, W, w, column, columns):  # noqa: ANN001, ANN201
    """Store `sign X` from column `column` on, in a matrix of `columns`, as `apply` reads it."""
    for r in range(rows):
        left, own = rows - r + r % 4, r % 4
        height = 4 if left >= 4 else (2 if left >= 2 and own < 2 else 1)
        own = 0 if height == 1 else own
        for j in range(cols):
            W[w + (r - own) * columns + (column + j) * height + own] = sign * X[r, j]


@cached(**DRIVER)
def fold_steps(slots, A, C, stored, W, volume, space):  # noqa: ANN001, ANN201
    """Write what a complete step does with the gain of each of the first slots.

    Rows of `W[i]` are the next predicted mean and the innovation, by observation and mean, then
    the gain; `volume` is the log-density of a zero innovation.
    """
    G, chol, count = stored
    folded, _ = space
    V, H, M, B = folded[:4]
    n, p = C.shape[1], C.shape[0]
    for i in range(slots):
        if count[0, i] < p:
            continue
        fold(n, p, A, C, G[0, i], chol[0, i], folded)
        lay_out(n, p, B, 1.0, W[i], 0, 0, p + n)
        lay_out(n, n, M, 1.0, W[i], 0, p, p + n)
        lay_out(p, p, V, 1.0, W[i], n * (p + n), 0, p + n)
        lay_out(p, n, H, -1.0, W[i], n * (p + n), p, p + n)
        lay_out(n, p, G[0, i], 1.0, W[i], (n + p) * (p + n), 0, p)
        volume[i] = log_volume(p, chol[0, i])


@njit(**SPLICE)
def apply(rows, columns, W, w, start, s, parts, out, o):  # noqa: ANN001, ANN201
    """`out = start + W x` for eight series, the rows of `W` in fours, a pair and a single one."""
    r = 0
    for _ in range(rows // 4):
        four_rows(W, w + r * columns, start, s + LANES * r, parts, out, o + LANES * r)
        r += 4
    if rows - r >= 2:
        two_rows(W, w + r * columns, start, s + LANES * r, parts, out, o + LANES * r)
        r += 2
    if r < rows:
        one_row(W, w + r * columns, start, s + LANES * r, parts, out, o + LANES * r)


@njit(**SPLICE)
def filter_step(n, p, k, W, i, b, nothing, tiles, want_m):  # noqa: ANN001, ANN201
    """Next predicted mean, innovation and filtered mean of step `k` of a block."""
    y, a, m, e = tiles
    now, own, columns = LANES * n * k, LANES * p * k, p + n
    x, w = ((y, own, p, 0), (a, now, n, p)), i * W.shape[1]
    apply(n, columns, W, w, b, 0, x, a, now + LANES * n)
    apply(p, columns, W, w + n * columns, nothing, 0, x, e, own)
    if want_m:
        apply(n, p, W, w + columns * columns, a, now, ((e, own, p, 0),), m, now)


@njit(**SPLICE)
def density(p, k, volume, e, ll):  # noqa: ANN001, ANN201
    """Log-density of step `k`."""
    total = fill(0.0)
    for i in range(p):
        x = get(e, k * p + i)
        total = add_product(x, x, total)
    put(ll, k, add_product(fill(-0.5), total, fill(volume)))


@njit(**SPLICE)
def read_block(p, s, t, lanes, y, d, Y):  # noqa: ANN001, ANN201
    """Observations of a block without their offsets."""
    T = y.shape[1]
    for i in range(p):
        read_tile(y, (s * T + t) * p + LANES * i, T * p, lanes, Y, _TILE * i)
    for k in range(BLOCK):
        for i in range(p):
            put(Y, k * p + i, sub(get(Y, k * p + i), get(d, i)))


@njit(**SPLICE)
def write_block(width, s, t, lanes, X, out, way):  # noqa: ANN001, ANN201
    """Write `width` numbers of each step of a block to `out`, `(series, time, width, 1)`."""
    T = out.shape[1]
    if way == STREAM:
        for i in range(width):
            stream_tile(X, _TILE * i, out, (s * T + t) * width + LANES * i, T * width, lanes)
    else:
        for i in range(width):
            write_tile(X, _TILE * i, out, (s * T + t) * width + LANES * i, T * width, lanes)


@njit(**SPLICE)
def write_results(n, p, s, t, lanes, tiles, out, keep):  # noqa: ANN001, ANN201
    """Write what is wanted of a block."""
    L, A, M, e = tiles
    ll, a, m, E, _ = out
    write_block(1, s, t, lanes, L, ll, WRITE)
    if keep[0] != SKIP:
        write_block(n, s, t, lanes, A, a, keep[0])
    if keep[1] != SKIP:
        write_block(n, s, t, lanes, M, m, keep[1])
    if keep[2] != SKIP:
        write_block(p, s, t, lanes, e, E, keep[2])


@njit(**SPLICE)
def spread(values, out):  # noqa: ANN001, ANN201
    """Give all lanes the same numbers."""
    for i in range(values.shape[0]):
        put(out, i, fill(values[i]))


@cache
def abreast_kernel(sizes: tuple[int, int] | None = None) -> Callable[..., None]:
    """Compile the filter, for any sizes or, faster, for `sizes = (n, p)` alone.

    Args:
        sizes: States and observations as compile-time constants.
    """
    fixed = sizes is not None
    N, P = sizes if sizes is not None else (0, 0)

    @cached(**DRIVER)
    def filter_abreast(first, last, y, state, steps, model, out, keep, space):  # noqa: ANN001, ANN202
        """Filter `steps`, `(start, blocks)`, from `state` on; leave the next predicted mean there.

        `state` is `(series, size)`, a predicted mean and a one. `keep` says what to do with
        predicted means, filtered means, innovations and the state at the start of each block.
        """
        W, slot, volume, b, d = model
        offset, less, nothing, Y, A, M, e, L, Z = space
        n, p = (N, P) if fixed else (b.shape[0], d.shape[0])
        size, x = state.shape[1], out[4]
        spread(b, offset)
        spread(d, less)
        for s in range(first, last, LANES):
            lanes = min(LANES, last - s)
            for i in range(0, size, LANES):
                read_tile(state, s * size + i, size, lanes, Z, LANES * i)
            for i in range(n):
                put(A, i, get(Z, i))
            for block in range(steps[1]):
                t = steps[0] + BLOCK * block
                read_block(p, s, t, lanes, y, less, Y)
                for k in range(BLOCK):
                    i = slot[t + k]
                    filter_step(n, p, k, W, i, offset, nothing, (Y, A, M, e), keep[1] != SKIP)
                    density(p, k, volume[i], e, L)
                write_results(n, p, s, t, lanes, (L, A, M, e), out, keep)
                if keep[3] != SKIP:
                    stride = x.shape[1] * size
                    for i in range(0, size, LANES):
                        to = s * stride + block * size + i
                        write_tile(Z, LANES * i, x, to, stride, lanes)
                for i in range(n):
                    put(A, i, get(A, BLOCK * n + i))
                    put(Z, i, get(A, i))
            for i in range(0, size, LANES):
                write_tile(Z, LANES * i, state, s * size + i, size, lanes)
        fence()

    return filter_abreast


def abreast_space(n: int, p: int, size: int) -> tuple[np.ndarray, ...]:
    """Scratch of the filter; `size` is that of a state."""
    blocks = (BLOCK * p, (BLOCK + 1) * n, BLOCK * n, BLOCK * p, BLOCK)
    return tuple(map(lane_array, (n, p, p, *blocks, size)))


def way_of(out: np.ndarray, first: int, wanted: bool) -> int:
    """How to write `(series, time, width, 1)` from step `first` on.

    Large results go past the caches, where each series is made of whole cache lines.
    """
    if not wanted:
        return SKIP
    _, T, width, _ = out.shape
    places = (out.ctypes.data, out.itemsize * T * width, out.itemsize * first * width)
    whole = all(place % (LANES * out.itemsize) == 0 for place in places)
    return STREAM if whole and out.nbytes >= _LARGE else WRITE
