"""Pushes a Gaussian through a step of a model, and predicts."""

from __future__ import annotations

from numba import njit

from ....ops.arrays import Matrix, Spaces, Vector
from ....ops.lanes import lanes_of, load, put_lane, store
from ....ops.small_matrices import pick
from .step_kernels import (
    COLUMNS,
    GIVEN,
    INLINE,
    INSIDE,
    NOISE,
    OUT,
    RULE,
    TAYLOR,
    UNSCENTED,
    VARIANCE,
    evaluate,
    flip_row,
    join_unscented,
    join_weighted,
    lay_averaged_noise,
    lower,
    push_taylor,
)


@njit(**INLINE)
def width_of(side: Spaces) -> int:
    """Columns of a pushed step: slope, spread of the rule, noise."""
    whole, points = side[0], side[4]
    spread = 0
    if whole[RULE] == UNSCENTED:
        spread = whole[INSIDE]
    elif whole[RULE] != TAYLOR:
        spread = points.shape[0]
    return whole[INSIDE] + spread + whole[COLUMNS]


@njit(**INLINE)
def room_of(side: Spaces) -> int:
    """Entries of scratch that `push` takes."""
    whole, points = side[0], side[4]
    inside, out = whole[INSIDE], whole[OUT]
    values = out * (2 + inside + whole[COLUMNS])
    return 2 * inside + inside * inside + values + 4 * out + out * points.shape[0]


@njit(**INLINE)
def push(
    side: Spaces, n: int, m: Vector, L: Vector, u: Vector, noise: Vector, W: Vector, mean: Vector,
    room: Vector,
) -> None:  # fmt: skip
    """Push `N(m, L L')` through a step: its mean, and slope and spread side by side in `W`."""
    whole, angles, real, p, points, weights, _, inner = side
    inside, out = whole[INSIDE], whole[OUT]
    z, La = room[:inside], room[inside : inside * (inside + 1)]
    a = inside * (inside + 1)
    x = room[a : a + inside]
    a += inside
    centre = room[a : a + out]
    a += out
    averaged = room[a : a + 2 * out]
    a += 2 * out
    D = room[a : a + out * points.shape[0]]
    values = room[a + out * points.shape[0] :]
    lay_inside(inside, n, m, L, inner, z, La)
    width = width_of(side)
    if whole[RULE] == TAYLOR:
        push_taylor(whole, p, noise, z, u, La, values, W, width, mean)
        return
    source = noise
    if whole[NOISE] == VARIANCE:
        source = averaged
    evaluate(whole, angles, p, points, weights, z, u, La, values, D, x, centre, averaged)
    if whole[RULE] == UNSCENTED:
        join_unscented(whole, real, D, centre, W, width, mean)
    else:
        join_weighted(whole, points, weights, D, centre, W, width, mean)
    lay_averaged_noise(whole, source, W, width, width - whole[COLUMNS])


@njit(**INLINE)
def lay_inside(
    inside: int, n: int, m: Vector, L: Vector, inner: Matrix, z: Vector, La: Vector
) -> None:
    """Put the state and the noise inside a function side by side."""
    for a in range(inside):
        if a < n:
            store(z, a, load(m, a))
        else:
            store(z, a, 0.0)
        for b in range(inside):
            at = a * inside + b
            if a < n and b < n:
                store(La, at, load(L, a * n + b))
            elif a >= n and b >= n:
                store(La, at, inner[a - n, b - n])
            else:
                store(La, at, 0.0)


@njit(**INLINE)
def lay_given(side: Spaces, first: int, count: int, t: int, again: bool, noise: Vector) -> None:
    """Read the given noise of a step, unless it is that of the last step."""
    whole, factor = side[0], side[6]
    if whole[NOISE] != GIVEN or not (again or factor.shape[1] > 1):
        return
    for s in range(lanes_of(noise)):
        series = pick(min(first + s, count - 1), factor.shape[0])
        for i in range(whole[OUT]):
            for j in range(whole[COLUMNS]):
                value = factor[series, pick(t, factor.shape[1]), i, j]
                put_lane(noise, i * whole[COLUMNS] + j, s, value)


@njit(**INLINE)
def predict(
    n: int, W: Vector, width: int, narrow: bool, joint: bool, L: Vector, gain: Vector, rest: Vector
) -> None:
    """`[slope, spread]` to its factor; with `joint`, also `e_{t-1} = gain e_t + rest n`."""
    rows = n
    if joint:
        rows = 2 * n
        for i in range(n):
            for j in range(width):
                store(W, (n + i) * width + j, 0.0)
            store(W, (n + i) * width + i, 1.0)
    for i in range(n):
        last = width
        if narrow:
            last = n + i + 1
        flip_row(W, width, i, i, i + 1, last, i + 1, rows)
    for i in range(n):
        for j in range(n):
            if j <= i:
                store(L, i * n + j, load(W, i * width + j))
            else:
                store(L, i * n + j, 0.0)
            if joint:
                store(gain, i * n + j, load(W, (n + i) * width + j))
    if joint:
        lower(n, W[n * width :], width, n, width, n, rest)
