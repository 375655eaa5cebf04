"""The forward pass of a Gaussian filter over series, one or eight side by side."""

from __future__ import annotations

import math

from numba import njit

from ....ops.arrays import Arrays, Matrices, Matrix, Spaces, Vector, Whole
from ....ops.cache import cached
from ....ops.lanes import (  # fmt: skip
    lanes_of,
    load,
    number,
    put_lane,
    size_of,
    some_less,
    store,
    where_less,
)
from ....ops.small_matrices import DRIVER, pick
from .condition_kernels import observe, shift_mean, shrink
from .push_kernels import lay_given, predict, push, width_of
from .series_kernels import gather, scatter, scatter_cov, scatter_one
from .step_kernels import ANGLES, COLUMNS, FACTOR, INLINE, INSIDE, NOISE, OUT, RULE, TAYLOR
from .update_kernels import ITERATIONS, JOINT, MOVES, again_about, update


@njit(**INLINE)
def state_space(work: Vector, n: int) -> Spaces:
    """Cut mean, factor, two of each for scratch, covariance, gain and rest out of `work`."""
    q = n * n
    return (
        work[:n], work[n : n + q], work[n + q : 2 * n + q], work[2 * n + q : 2 * n + 2 * q],
        work[2 * n + 2 * q : 2 * n + 3 * q], work[2 * n + 3 * q : 2 * n + 4 * q],
        work[2 * n + 4 * q : 2 * n + 5 * q], work[2 * n + 5 * q :],
    )  # fmt: skip


@njit(**INLINE)
def step_space(work: Vector, n: int, p: int, width: int, inputs: int, F: Spaces, H: Spaces
               ) -> Spaces:  # fmt: skip
    """Cut a pushed transition, both noises, inputs, observation and a number out of `work`."""
    a = 2 * n * width
    b = a + n * F[0][COLUMNS]
    c = b + p * H[0][COLUMNS]
    d = c + inputs
    e = d + p
    return work[:a], work[a:b], work[b:c], work[c:d], work[d:e], work[e : e + 1], work[e + 1 :]


@njit(**INLINE)
def update_space(work: Vector, n: int, p: int, width: int) -> Spaces:
    """Cut what `update` reads and writes out of `work`, and what is left for pushing."""
    a = p * width
    b = a + p * (width + p)
    c = b + p * p
    d = c + (n + 1) * p
    e = d + (n + 1) * p
    f = e + p
    g = f + 3 * p
    h = g + 2
    i = h + n * n
    space = (
        work[:a], work[a:b], work[b:c], work[c:d], work[d:e], work[e:f], work[f : f + p],
        work[f + p : f + 2 * p], work[f + 2 * p : g], work[g:h], work[h:i], work[i : i + n],
        work[i + n : i + 2 * n],
    )  # fmt: skip
    return space, work[i + 2 * n :]


@njit(**INLINE)
def see(
    H: Spaces, rules: Whole, numbers: Vector, n: int, width: int, obs: Vector, u: Vector,
    noise: Vector, state: Spaces, space: Spaces, room: Vector,
) -> tuple[Vector, bool]:  # fmt: skip
    """Condition the state on what is observed of `obs`; return density and exact rows."""
    m, L, x, X, _, _, _, _ = state
    W, _, _, _, _, h, v, seen, _, _, T, shift, row = space
    taylor, exact, score = H[0][RULE] == TAYLOR, False, number(m, 0.0)
    for k in range(rules[ITERATIONS]):
        if k == 0:
            push(H, n, m, L, u, noise, W, h, room)
        else:
            shift_mean(n, m, L, shift, x)
            if taylor:
                push(H, n, x, L, u, noise, W, h, room)
            else:
                shrink(n, L, T, X)
                push(H, n, x, X, u, noise, W, h, room)
            again_about(n, H[0][OUT], W, width, T, shift, taylor, row, h)
        missing = observe(H[0][OUT], obs, h, H[1], H[0][ANGLES] > 0, v, seen)
        score, known = update(H, rules, numbers, n, width, missing, space)
        exact = exact or known
    shift_mean(n, m, L, shift, x)
    shrink(n, L, T, X)
    for i in range(n):
        store(m, i, load(x, i))
    for i in range(n * n):
        store(L, i, load(X, i))
    return score, exact


@njit(**INLINE)
def nothing_seen(n: int, space: Spaces) -> None:
    """The posterior of whitened coordinates is the prior itself."""
    T, shift = space[10], space[11]
    for i in range(n):
        store(shift, i, 0.0)
        for j in range(n):
            store(T, i * n + j, 0.0)
        store(T, i * n + i, 1.0)


@njit(**INLINE)
def something(p: int, obs: Vector) -> bool:
    """Tell whether some component of some series is there."""
    some = False
    for i in range(p):
        some = some or some_less(size_of(load(obs, i)), math.inf)
    return some


@njit(**INLINE)
def lay_trust(p: int, obs: Vector, some: bool, space: Spaces) -> None:
    """Put the trust in each component into `v`: NaN where nothing is observed."""
    v, seen, scale = space[6], space[7], space[8]
    for i in range(p):
        kept = number(v, math.nan)
        if some:
            weight = load(scale, i) * load(scale, i)
            kept = where_less(1.0, weight, 1.0, weight) * load(seen, i)
        store(v, i, where_less(size_of(load(obs, i)), math.inf, kept, math.nan))


@njit(**INLINE)
def lay_start(mean0: Matrix, factor0: Matrices, group: int, count: int, state: Spaces) -> None:
    """Read the starts of the series from `group` on."""
    m, L, n = state[0], state[1], mean0.shape[1]
    for s in range(lanes_of(m)):
        series = pick(min(group + s, count - 1), mean0.shape[0])
        other = pick(min(group + s, count - 1), factor0.shape[0])
        for i in range(n):
            put_lane(m, i, s, mean0[series, i])
            for j in range(n):
                put_lane(L, i * n + j, s, factor0[other, i, j])


@njit(**INLINE)
def move(
    F: Spaces, n: int, width: int, joint: bool, u: Vector, noise: Vector, W: Vector, state: Spaces,
    room: Vector,
) -> None:  # fmt: skip
    """Predict one step ahead."""
    m, L, x, _, _, gain, rest, _ = state
    narrow = F[0][RULE] == TAYLOR and F[0][COLUMNS] == n and F[0][INSIDE] == n
    push(F, n, m, L, u, noise, W, x, room)
    predict(n, W, width, narrow and F[0][NOISE] != FACTOR, joint, L, gain, rest)
    for i in range(n):
        store(m, i, load(x, i))


@cached(**DRIVER)
def forward_all(
    start: int, stop: int, y: Matrices, u: Matrices, mean0: Matrix, factor0: Matrices,
    F: Spaces, H: Spaces, rules: Whole, numbers: Vector, work: Vector, out: Arrays,
) -> int:  # fmt: skip
    """Filter series `start` to `stop`; return how many steps met an observation without noise."""
    means, covs, ahead, ahead_covs, scores, trust = out[:6]
    factors, ahead_factors, gains, rests, pivots, shifts = out[6:]
    count, p, n, inputs = y.shape[0], y.shape[2], mean0.shape[1], u.shape[2]
    width_f, width_h, joint, bad = width_of(F), width_of(H), rules[JOINT] > 0, 0
    state = state_space(work, n)
    W, noise_f, noise_h, drive, obs, one, left = step_space(state[7], n, p, width_f, inputs, F, H)
    space, room = update_space(left, n, p, width_h)
    m, L, C = state[0], state[1], state[4]
    for group in range(start, stop, lanes_of(m)):
        lay_start(mean0, factor0, group, count, state)
        for t in range(y.shape[1]):
            gather(u, group, count, t, inputs, drive)
            if t > 0 or rules[MOVES] > 0:
                lay_given(F, group, count, t, t < 2, noise_f)
                move(F, n, width_f, joint, drive, noise_f, W, state, room)
            scatter(m, n, group, count, t, ahead)
            scatter_cov(n, L, C, group, count, t, ahead_covs)
            scatter(L, n * n, group, count, t, ahead_factors)
            lay_given(H, group, count, t, t == 0, noise_h)
            gather(y, group, count, t, p, obs)
            score, some = number(m, 0.0), something(p, obs)
            if some:
                score, exact = see(
                    H, rules, numbers, n, width_h, obs, drive, noise_h, state, space, room
                )
                bad += int(exact)
            elif joint:
                nothing_seen(n, space)
            scatter(m, n, group, count, t, means)
            scatter_cov(n, L, C, group, count, t, covs)
            scatter_one(score, one, group, count, t, scores)
            scatter(L, n * n, group, count, t, factors)
            if trust.shape[0] > 0:
                lay_trust(p, obs, some, space)
                scatter(space[6], p, group, count, t, trust)
            if joint:
                scatter(state[5], n * n, group, count, t, gains)
                scatter(state[6], n * n, group, count, t, rests)
                scatter(space[10], n * n, group, count, t, pivots)
                scatter(space[11], n, group, count, t, shifts)
    return bad
