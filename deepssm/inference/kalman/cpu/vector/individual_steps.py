"""Building blocks of the Kalman kernels that run eight series at a time.

What they do is what their scalar namesakes in `scalar/predict.py` and `scalar/update.py` do. All
matrices are row by row in arrays of SIMD vectors, so an entry is `X[i * width + j]`.
"""

from __future__ import annotations

import math
from typing import Any

from numba import njit

from .....ops.arrays import SIMD_WIDTH, Matrices, Matrix, SimdArray, SimdValue, Whole
from .....ops.simd import (
    add,
    add_product,
    div,
    exponent,
    fill,
    get,
    mantissa,
    mul,
    put,
    put_at,
    root,
    sub_product,
    transpose,
    where_less,
    with_sign,
)
from .....ops.small_matrices import UNDERFLOW, pick

_LN2 = math.log(2.0)
# Not inlined by force: a call costs little beside eight series, and compiling half as long.
CALLED: dict[str, Any] = {"error_model": "numpy", "_nrt": False}


@njit(**CALLED)
def gather(source: Matrices, series: Whole, times: Whole, X: SimdArray) -> None:
    """Lay the entries of the entries' series and times out side by side.

    `source` is `(series or 1, time or 1, entries)`.
    """
    for entry in range(SIMD_WIDTH):
        row = source[pick(series[entry], source.shape[0]), pick(times[entry], source.shape[1])]
        for i in range(source.shape[2]):
            X[i, entry] = row[i]


@njit(**CALLED)
def scatter(X: SimdArray, rows: Whole, out: Matrix) -> None:
    """Write entries to `rows` of `out`, `(rows, entries)`, but for negative ones; change `X`."""
    entries = out.shape[1]
    whole = entries - entries % SIMD_WIDTH
    for i in range(0, whole, SIMD_WIDTH):
        transpose(X, i)
    for entry in range(SIMD_WIDTH):
        row = rows[entry]
        if row >= 0:
            for i in range(0, whole, SIMD_WIDTH):
                put_at(out[row], i, get(X, i + entry))
            for i in range(whole, entries):
                out[row, i] = X[i, entry]


@njit(**CALLED)
def rows_at(
    t: int, time: int, series: Whole, origin: Whole, begin: Whole, until: Whole, rows: Whole
) -> None:
    """Rows `(series, time)` of the entries that count at step `t`, negative for others."""
    for entry in range(SIMD_WIDTH):
        counts = begin[entry] <= t < until[entry]
        rows[entry] = series[entry] * time + origin[entry] + t if counts else -1


@njit(**CALLED)
def copy_simd(count: int, source: SimdArray, start: int, target: SimdArray, place: int) -> None:
    """`target[place:place+count] = source[start:start+count]`."""
    for i in range(count):
        put(target, place + i, get(source, start + i))


@njit(**CALLED)
def clear_simd(count: int, X: SimdArray) -> None:
    """`X[:count] = 0`."""
    for i in range(count):
        put(X, i, fill(0.0))


@njit(**CALLED)
def reflect_simd(W: SimdArray, width: int, i: int, first: int, last: int, rows: int) -> None:
    """Zero `W[i, first+1:last]` by a reflection of the columns, and make `W[i, first] >= 0`."""
    square = fill(0.0)
    for j in range(first, last):
        w = get(W, i * width + j)
        square = add_product(w, w, square)
    one, head = fill(1.0), get(W, i * width + first)
    limit = fill(UNDERFLOW)
    norm = root(square)
    pivot = add(head, with_sign(norm, head))
    beta = where_less(
        square, limit, fill(0.0), div(one, mul(norm, mul(pivot, with_sign(one, pivot))))
    )
    flip = with_sign(one, mul(fill(-1.0), pivot))
    put(W, i * width + first, pivot)
    for r in range(i + 1, rows):
        dot = fill(0.0)
        for j in range(first, last):
            dot = add_product(get(W, i * width + j), get(W, r * width + j), dot)
        dot = mul(dot, beta)
        for j in range(first, last):
            at = r * width + j
            put(W, at, sub_product(dot, get(W, i * width + j), get(W, at)))
        put(W, r * width + first, mul(flip, get(W, r * width + first)))
    put(W, i * width + first, where_less(square, limit, fill(0.0), norm))
    for j in range(first + 1, last):
        put(W, i * width + j, fill(0.0))


@njit(**CALLED)
def eliminate_simd(count: int, equations: int, rows: int, V: SimdArray, X: SimdArray) -> None:
    """Take `count` unknowns of `N(0, I)` out of whitened `equations`, stored one unknown a row.

    The first `count` rows of `V` belong to them. `X[r, i]` is what row `r` has in the triangular
    equation for unknown `i`; `X[i, i]` is the reciprocal of what that unknown has itself.
    """
    for i in range(count):
        square = fill(1.0)
        for e in range(equations):
            f = get(V, i * equations + e)
            square = add_product(f, f, square)
        norm, one = root(square), fill(1.0)
        beta = div(one, add(norm, square))
        inverse = add_product(beta, norm, beta)
        put(X, i * count + i, inverse)
        for r in range(i + 1, rows):
            dot = fill(0.0)
            for e in range(equations):
                dot = add_product(get(V, i * equations + e), get(V, r * equations + e), dot)
            put(X, r * count + i, mul(dot, inverse))
            dot = mul(dot, beta)
            for e in range(equations):
                at = r * equations + e
                put(V, at, sub_product(dot, get(V, i * equations + e), get(V, at)))


@njit(**CALLED)
def gram_simd(n: int, F: SimdArray, P: SimdArray) -> None:
    """`P = F F'`."""
    for i in range(n):
        for j in range(i + 1):
            total = fill(0.0)
            for r in range(n):
                total = add_product(get(F, i * n + r), get(F, j * n + r), total)
            put(P, i * n + j, total)
            put(P, j * n + i, total)


@njit(**CALLED)
def log_simd(x: SimdValue, shift: SimdValue) -> SimdValue:
    """`log x + shift log 2` for normal positive numbers, by the series of the area tangent."""
    one = fill(1.0)
    high, m = add(exponent(x), shift), mantissa(x)
    above = where_less(fill(math.sqrt(2.0)), m, one, fill(0.0))
    high = add(high, above)
    m = sub_product(mul(fill(0.5), above), m, m)
    s = div(add(m, fill(-1.0)), add(m, one))
    square = mul(s, s)
    total = fill(1.0 / 23.0)
    for i in range(10, -1, -1):
        total = add_product(total, square, fill(1.0 / (2 * i + 1)))
    return add_product(fill(_LN2), high, mul(fill(2.0), mul(s, total)))
