"""One step of a Gaussian filter in whitened coordinates: push, predict, condition.

Arrays of numbers are flat, `(entries,)` for one series or `(entries, 8)` for eight side by side; a
matrix lies in one row by row, and what is called `width` is the length of its rows.
"""

from __future__ import annotations

import math
from typing import Any

from numba import njit

from ....ops.arrays import Matrix, Vector, Whole
from ....ops.lanes import (  # fmt: skip
    floor,
    lanes_of,
    load,
    number,
    root,
    size_of,
    some_less,
    store,
    where_less,
    with_sign,
)
from ....ops.small_matrices import FASTMATH, UNDERFLOW
from ....ops.tracing.calls import call_step

# No doors from Python: they would take a third of the compiler's time.
INLINE: dict[str, Any] = {
    "fastmath": FASTMATH, "error_model": "numpy",
    "no_cpython_wrapper": True, "no_cfunc_wrapper": True, "_nrt": False,
}  # fmt: skip
TWO_PI = 2.0 * math.pi
TAYLOR, WEIGHTED, UNSCENTED = 0, 1, 2
"""Rules: Jacobian at the mean, points of positive weight, pairs of points about the centre."""
GIVEN, VARIANCE, FACTOR = 0, 1, 2
"""Where noise comes from: given beside the step, or its variances or a factor that it computes."""
RULE, INSIDE, OUT, NOISE, COLUMNS, DIAGONAL, ADDRESS, ANGLES = range(8)
"""Whole numbers of a side: rule; size of the state with noise inside; outputs; source, columns and
form of the noise; address of the step; whether some output is an angle."""
SQUARE, PART = 0, 1
"""Numbers of a side: of the unscented rule."""


@njit(**INLINE)
def flip_row(
    W: Vector, width: int, i: int, c: int, first: int, last: int, above: int, below: int
) -> None:
    """Zero `W[i, first:last]` against `W[i, c] >= 0` by reflecting rows `above` to `below`."""
    head, at = load(W, i * width + c), i * width
    square = head * head
    for j in range(first, last):
        square += load(W, at + j) * load(W, at + j)
    norm = root(square)
    top = head + with_sign(norm, head)
    scale = norm * size_of(top)
    beta = where_less(scale, UNDERFLOW, 0.0, 1.0 / scale)
    flip = with_sign(1.0, 0.0 - top)
    for r in range(above, below):
        row = r * width
        dot = top * load(W, row + c)
        for j in range(first, last):
            dot += load(W, at + j) * load(W, row + j)
        dot = dot * beta
        for j in range(first, last):
            store(W, row + j, load(W, row + j) - dot * load(W, at + j))
        store(W, row + c, flip * (load(W, row + c) - dot * top))
    store(W, at + c, norm)
    for j in range(first, last):
        store(W, at + j, 0.0)


@njit(**INLINE)
def shortest(x: Vector) -> Vector:
    """Bring a difference of angles to `[-pi, pi)`."""
    return x - TWO_PI * floor((x + math.pi) * (1.0 / TWO_PI))


@njit(**INLINE)
def times_factor(
    J: Vector, first: int, L: Vector, rows: int, n: int, W: Vector, width: int
) -> None:
    """`W[:, :n] = J L` for a lower triangular `L`; `J` begins at entry `first`."""
    for i in range(rows):
        for j in range(n):
            store(W, i * width + j, 0.0)
        for m in range(n):
            slope = load(J, first + i * n + m)
            # Jacobians have zeros, which one series can pass by; NaN is none.
            if lanes_of(W) == 1 and some_less(size_of(slope), 1e-320):
                continue
            for j in range(m + 1):
                at = i * width + j
                store(W, at, load(W, at) + slope * load(L, m * n + j))


@njit(**INLINE)
def lay_noise(
    whole: Whole, noise: Vector, values: Vector, W: Vector, width: int, first: int
) -> None:
    """Write the factor of a Taylor step's noise into the columns of `W` from `first` on."""
    out, columns = whole[OUT], whole[COLUMNS]
    for i in range(out):
        for j in range(columns):
            at = i * width + first + j
            if whole[NOISE] == GIVEN:
                store(W, at, load(noise, i * columns + j))
            elif whole[NOISE] == FACTOR:
                store(W, at, load(values, out + i * columns + j))
            else:
                store(W, at, 0.0)
        if whole[NOISE] == VARIANCE:
            variance = load(values, out + i)
            safe = root(where_less(0.0, variance, variance, 0.0))
            store(W, i * width + first + i, safe)


@njit(**INLINE)
def push_taylor(
    whole: Whole, p: Vector, noise: Vector, z: Vector, u: Vector, L: Vector, values: Vector,
    W: Vector, width: int, mean: Vector,
) -> None:  # fmt: skip
    """`mean = f(z)`, `W = [J L, noise]`."""
    n, out = whole[INSIDE], whole[OUT]
    call_step(whole[ADDRESS], z, u, p, p, values)
    extra = 0
    if whole[NOISE] == VARIANCE:
        extra = out
    elif whole[NOISE] == FACTOR:
        extra = out * whole[COLUMNS]
    for i in range(out):
        store(mean, i, load(values, i))
    times_factor(values, out + extra, L, out, n, W, width)
    lay_noise(whole, noise, values, W, width, n)


@njit(**INLINE)
def lay_point(points: Matrix, i: int, n: int, z: Vector, L: Vector, x: Vector) -> None:
    """`x = z + L points[i]`."""
    for a in range(n):
        value = load(z, a)
        for b in range(a + 1):
            if points[i, b] != 0.0:
                value += load(L, a * n + b) * points[i, b]
        store(x, a, value)


@njit(**INLINE)
def evaluate(
    whole: Whole, angles: Whole, p: Vector, points: Matrix, weights: Vector, z: Vector, u: Vector,
    L: Vector, values: Vector, D: Vector, x: Vector, centre: Vector, noise: Vector,
) -> None:  # fmt: skip
    """Put differences of `f` at the points from its value at the first into `D`, a row a point.

    Where outputs are angles the differences are from the value at the mean itself, the short way
    round. Variances of the noise are averaged into `noise`.
    """
    n, out = whole[INSIDE], whole[OUT]
    about_mean = whole[ANGLES] > 0
    if about_mean:
        call_step(whole[ADDRESS], z, u, p, p, values)
        for o in range(out):
            store(centre, o, load(values, o))
    for i in range(points.shape[0]):
        lay_point(points, i, n, z, L, x)
        call_step(whole[ADDRESS], x, u, p, p, values)
        for o in range(out):
            if i == 0 and not about_mean:
                store(centre, o, load(values, o))
            step = load(values, o) - load(centre, o)
            if about_mean and angles[o] != 0:
                step = shortest(step)
            store(D, i * out + o, step)
        if whole[NOISE] == VARIANCE:
            for o in range(out):
                variance = load(values, out + o)
                if i == 0:
                    store(noise, o, variance)
                    store(noise, out + o, variance)
                else:
                    more = weights[i] * (variance - load(noise, out + o))
                    store(noise, o, load(noise, o) + more)


@njit(**INLINE)
def lay_averaged_noise(whole: Whole, noise: Vector, W: Vector, width: int, first: int) -> None:
    """Write the factor of the noise of a rule by points, given or averaged."""
    out, columns = whole[OUT], whole[COLUMNS]
    for i in range(out):
        for j in range(columns):
            value = number(noise, 0.0)
            if whole[NOISE] == GIVEN:
                value = load(noise, i * columns + j)
            store(W, i * width + first + j, value)
        if whole[NOISE] == VARIANCE:
            variance = load(noise, i)
            safe = root(where_less(0.0, variance, variance, 0.0))
            store(W, i * width + first + i, safe)


@njit(**INLINE)
def join_weighted(
    whole: Whole, points: Matrix, weights: Vector, D: Vector, centre: Vector, W: Vector,
    width: int, mean: Vector,
) -> None:  # fmt: skip
    """Mean, slope and spread of points with positive weights; see `rules.weighted`."""
    n, out, count = whole[INSIDE], whole[OUT], points.shape[0]
    for o in range(out):
        at = o * width
        shift = number(D, 0.0)
        for b in range(n):
            store(W, at + b, 0.0)
        for i in range(count):
            part = weights[i] * load(D, i * out + o)
            shift += part
            for b in range(n):
                if points[i, b] != 0.0:
                    store(W, at + b, load(W, at + b) + part * points[i, b])
        store(mean, o, load(centre, o) + shift)
        for i in range(count):
            left = load(D, i * out + o) - shift
            for b in range(n):
                if points[i, b] != 0.0:
                    left -= load(W, at + b) * points[i, b]
            store(W, at + n + i, left * math.sqrt(weights[i]))


@njit(**INLINE)
def join_unscented(
    whole: Whole, real: Vector, D: Vector, centre: Vector, W: Vector, width: int, mean: Vector
) -> None:
    """Mean, slope and spread of pairs of points about the first; see `rules.unscented`."""
    n, out = whole[INSIDE], whole[OUT]
    square, part = real[SQUARE], real[PART]
    scale = 1.0 / math.sqrt(square)
    for o in range(out):
        at = o * width
        shift = number(D, 0.0)
        for b in range(n):
            plus, minus = load(D, (1 + b) * out + o), load(D, (1 + n + b) * out + o)
            store(W, at + b, (plus - minus) * (0.5 * scale))
            even = (plus + minus) * 0.5
            shift += even
            store(W, at + n + b, even)
        shift = shift * (1.0 / square)
        store(mean, o, load(centre, o) + shift)
        for b in range(n):
            store(W, at + n + b, (load(W, at + n + b) - part * shift) * scale)


@njit(**INLINE)
def lower(rows: int, W: Vector, width: int, first: int, last: int, n: int, out: Vector) -> None:
    """Triangularise columns `first` to `last` of `W` and copy them as `n` by `n`."""
    for i in range(rows):
        if first + i < last:
            flip_row(W, width, i, first + i, first + i + 1, last, i + 1, rows)
    for i in range(rows):
        for j in range(n):
            if j <= i and first + j < last:
                store(out, i * n + j, load(W, i * width + first + j))
            else:
                store(out, i * n + j, 0.0)
