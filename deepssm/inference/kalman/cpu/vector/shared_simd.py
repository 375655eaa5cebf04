"""Complete steps of many series that share their gains, in SIMD vectors of eight series.

The used of a vector are eight series. Eight steps at a time their numbers are transposed in
registers on the way in and out, so that memory is read and written once and in order. Steps move
by the folded recursion of `scalar/steady.py`, its matrices stored for `ops/simd_products.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numba import njit

from .....ops.arrays import (
    SIMD_WIDTH,
    Arrays,
    Batch,
    Matrices,
    Matrix,
    SimdArray,
    Space,
    Spaces,
    Vector,
)
from .....ops.cache import cached
from .....ops.simd import add_product, fill, get, put, simd_array, sub
from .....ops.simd_products import (
    fence,
    four_rows,
    one_row,
    read_register_block,
    stream_register_block,
    two_rows,
    write_register_block,
)
from .....ops.small_matrices import DRIVER, INLINE, SPLICE
from ..scalar.steady import fold, log_volume
from .sizes import BLOCK_STEPS

_REGISTER_BLOCK = SIMD_WIDTH * SIMD_WIDTH
SKIP, WRITE, STREAM = range(3)  # what to do with a result; see `way_of`
_STREAM_BYTES = (
    6 << 20
)  # bytes beyond which results leave the caches anyway; a reader of less pays more


@njit(**INLINE)
def lay_out(
    rows: int, cols: int, X: Matrix, sign: float, W: Vector, w: int, column: int, columns: int
) -> None:
    """Store `sign X` from column `column` on, in a matrix of `columns`, as `apply` reads it."""
    for r in range(rows):
        left, own = rows - r + r % 4, r % 4
        height = 4 if left >= 4 else (2 if left >= 2 and own < 2 else 1)
        own = 0 if height == 1 else own
        for j in range(cols):
            W[w + (r - own) * columns + (column + j) * height + own] = sign * X[r, j]


@cached(**DRIVER)
def fold_steps(
    slots: int, A: Matrix, C: Matrix, stored: Arrays, W: Matrix, volume: Vector, space: Spaces
) -> None:
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
def apply(
    rows: int, columns: int, W: Matrix, w: int, start: SimdArray, s: int, parts: Spaces,
    out: SimdArray, o: int,
) -> None:  # fmt: skip
    """`out = start + W x` for eight series, the rows of `W` in fours, a pair and a single one."""
    r = 0
    for _ in range(rows // 4):
        four_rows(W, w + r * columns, start, s + SIMD_WIDTH * r, parts, out, o + SIMD_WIDTH * r)
        r += 4
    if rows - r >= 2:
        two_rows(W, w + r * columns, start, s + SIMD_WIDTH * r, parts, out, o + SIMD_WIDTH * r)
        r += 2
    if r < rows:
        one_row(W, w + r * columns, start, s + SIMD_WIDTH * r, parts, out, o + SIMD_WIDTH * r)


@njit(**SPLICE)
def filter_step(
    n: int, p: int, k: int, W: Matrix, i: int, b: SimdArray, nothing: SimdArray, scratch: Space,
    want_m: bool,
) -> None:  # fmt: skip
    """Next predicted mean, innovation and filtered mean of step `k` of a block."""
    y, a, m, e = scratch
    now, own, columns = SIMD_WIDTH * n * k, SIMD_WIDTH * p * k, p + n
    x, w = ((y, own, p, 0), (a, now, n, p)), i * W.shape[1]
    apply(n, columns, W, w, b, 0, x, a, now + SIMD_WIDTH * n)
    apply(p, columns, W, w + n * columns, nothing, 0, x, e, own)
    if want_m:
        apply(n, p, W, w + columns * columns, a, now, ((e, own, p, 0),), m, now)


@njit(**SPLICE)
def density(p: int, k: int, volume: float, e: SimdArray, ll: SimdArray) -> None:
    """Log-density of step `k`."""
    total = fill(0.0)
    for i in range(p):
        x = get(e, k * p + i)
        total = add_product(x, x, total)
    put(ll, k, add_product(fill(-0.5), total, fill(volume)))


@njit(**SPLICE)
def read_block(p: int, s: int, t: int, used: int, y: Matrices, d: SimdArray, Y: SimdArray) -> None:
    """Observations of a block without their offsets."""
    T = y.shape[1]
    for i in range(p):
        read_register_block(
            y, (s * T + t) * p + SIMD_WIDTH * i, T * p, used, Y, _REGISTER_BLOCK * i
        )
    for k in range(BLOCK_STEPS):
        for i in range(p):
            put(Y, k * p + i, sub(get(Y, k * p + i), get(d, i)))


@njit(**SPLICE)
def write_block(width: int, s: int, t: int, used: int, X: SimdArray, out: Batch, way: int) -> None:
    """Write `width` numbers of each step of a block to `out`, `(series, time, width, 1)`."""
    T = out.shape[1]
    if way == STREAM:
        for i in range(width):
            stream_register_block(
                X, _REGISTER_BLOCK * i, out, (s * T + t) * width + SIMD_WIDTH * i, T * width, used
            )
    else:
        for i in range(width):
            write_register_block(
                X, _REGISTER_BLOCK * i, out, (s * T + t) * width + SIMD_WIDTH * i, T * width, used
            )


@njit(**SPLICE)
def write_results(
    n: int, p: int, s: int, t: int, used: int, scratch: Space, out: Space, keep: tuple[int, ...]
) -> None:
    """Write what is wanted of a block."""
    L, A, M, e = scratch
    ll, a, m, E, _ = out
    write_block(1, s, t, used, L, ll, WRITE)
    if keep[0] != SKIP:
        write_block(n, s, t, used, A, a, keep[0])
    if keep[1] != SKIP:
        write_block(n, s, t, used, M, m, keep[1])
    if keep[2] != SKIP:
        write_block(p, s, t, used, e, E, keep[2])


@njit(**SPLICE)
def spread(values: Vector, out: SimdArray) -> None:
    """Give all used the same numbers."""
    for i in range(values.shape[0]):
        put(out, i, fill(values[i]))


@cache
def shared_simd_kernel(sizes: tuple[int, int] | None = None) -> Callable[..., None]:
    """Compile the filter, for any sizes or, faster, for `sizes = (n, p)` alone.

    Args:
        sizes: States and observations as compile-time constants.
    """
    fixed = sizes is not None
    N, P = sizes if sizes is not None else (0, 0)

    @cached(**DRIVER)
    def filter_simd(
        first: int, last: int, y: Matrices, state: Matrix, steps: tuple[int, int], model: Spaces,
        out: Space, keep: tuple[int, ...], space: Space,
    ) -> None:  # fmt: skip
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
        for s in range(first, last, SIMD_WIDTH):
            used = min(SIMD_WIDTH, last - s)
            for i in range(0, size, SIMD_WIDTH):
                read_register_block(state, s * size + i, size, used, Z, SIMD_WIDTH * i)
            for i in range(n):
                put(A, i, get(Z, i))
            for block in range(steps[1]):
                t = steps[0] + BLOCK_STEPS * block
                read_block(p, s, t, used, y, less, Y)
                for k in range(BLOCK_STEPS):
                    i = slot[t + k]
                    filter_step(n, p, k, W, i, offset, nothing, (Y, A, M, e), keep[1] != SKIP)
                    density(p, k, volume[i], e, L)
                write_results(n, p, s, t, used, (L, A, M, e), out, keep)
                if keep[3] != SKIP:
                    stride = x.shape[1] * size
                    for i in range(0, size, SIMD_WIDTH):
                        to = s * stride + block * size + i
                        write_register_block(Z, SIMD_WIDTH * i, x, to, stride, used)
                for i in range(n):
                    put(A, i, get(A, BLOCK_STEPS * n + i))
                    put(Z, i, get(A, i))
            for i in range(0, size, SIMD_WIDTH):
                write_register_block(Z, SIMD_WIDTH * i, state, s * size + i, size, used)
        fence()

    return filter_simd


def shared_simd_space(n: int, p: int, size: int) -> tuple[np.ndarray, ...]:
    """Scratch of the filter; `size` is that of a state."""
    blocks = (
        BLOCK_STEPS * p,
        (BLOCK_STEPS + 1) * n,
        BLOCK_STEPS * n,
        BLOCK_STEPS * p,
        BLOCK_STEPS,
    )
    return tuple(map(simd_array, (n, p, p, *blocks, size)))


def way_of(out: np.ndarray, first: int, wanted: bool) -> int:
    """How to write `(series, time, width, 1)` from step `first` on.

    Large results go past the caches, where each series is made of whole cache lines.
    """
    if not wanted:
        return SKIP
    _, T, width, _ = out.shape
    places = (out.ctypes.data, out.itemsize * T * width, out.itemsize * first * width)
    whole = all(place % (SIMD_WIDTH * out.itemsize) == 0 for place in places)
    return STREAM if whole and out.nbytes >= _STREAM_BYTES else WRITE
