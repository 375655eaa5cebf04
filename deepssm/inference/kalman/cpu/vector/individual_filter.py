"""The square-root Kalman filter for eight series at a time, each with gaps of its own.

One vector instruction serves eight series, which costs what one costs. A missing component is one
whose row, innovation and density are zero in its entry. Noise must be regular: redundant
components are left to the scalar loop of `kalman/cpu/scalar/filter.py`.

Source: as `kalman/cpu/scalar/filter.py` and `kalman/cpu/scalar/update.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from .....ops.arrays import (
    SIMD_WIDTH,
    Arrays,
    Matrices,
    SimdArray,
    SimdValue,
    Space,
    Spaces,
    Whole,
)
from .....ops.cache import cached
from .....ops.simd import (
    add,
    add_product,
    any_less,
    div,
    exponent,
    fill,
    get,
    mantissa,
    mul,
    put,
    root,
    simd_array,
    sub,
    sub_product,
    where_less,
    where_number,
)
from .....ops.small_matrices import DRIVER, EPS, HALF_LOG_2PI
from .individual_steps import (
    CALLED,
    copy_simd,
    gather,
    gram_simd,
    log_simd,
    reflect_simd,
    rows_at,
    scatter,
)


def filter_space(n: int, p: int, q: int) -> tuple[Any, ...]:
    """Scratch of `individual_forward`: model, decorrelated noise, state, and work space.

    Args:
        n: States.
        p: Observations.
        q: Noise directions.
    """
    square = n * n
    model = (square, n, n * q, p * n, p, p * p)
    noise = (p * p, p, p * n, p)
    state = (n, square, n, square)
    work = (n * (n + q), n, p, 1, 1, square)
    groups = tuple(tuple(map(simd_array, x)) for x in (model, noise, state, work))
    return *groups, np.zeros(SIMD_WIDTH, np.int64), np.zeros(SIMD_WIDTH, np.int64)


@njit(**CALLED)
def decorrelate_simd(p: int, R: SimdArray, Y: SimdArray, M: SimdArray, D: SimdArray) -> SimdValue:
    """`R = M D M'` on the rows that each entry observes; return the smallest share of a pivot."""
    least = fill(1.0)
    for i in range(p):
        own = get(R, i * p + i)
        for j in range(i + 1):
            total = get(R, i * p + j)
            if i != j:
                total = where_number(get(Y, i), total, fill(0.0))
                total = where_number(get(Y, j), total, fill(0.0))
            for r in range(j):
                total = sub_product(mul(get(M, i * p + r), get(M, j * p + r)), get(D, r), total)
            if i == j:
                put(D, i, total)
                part = div(total, own)
                least = where_less(part, least, part, least)
            else:
                put(M, i * p + j, div(total, get(D, j)))
    return least


@njit(**CALLED)
def whiten_rows(n: int, p: int, mixed: bool, model: Space, noise: Space, Y: SimdArray) -> None:
    """Rows `H` and data `Z` of decorrelated components; the data of a missing one are NaN."""
    _, _, _, C, d, _ = model
    M, _, H, Z = noise
    for i in range(p):
        z = sub(get(Y, i), get(d, i))
        for j in range(n):
            put(H, i * n + j, get(C, i * n + j))
        if mixed:
            for r in range(i):
                weight = get(M, i * p + r)
                z = sub_product(weight, where_number(get(Z, r), get(Z, r), fill(0.0)), z)
                for j in range(n):
                    at = i * n + j
                    put(H, at, sub_product(weight, get(H, r * n + j), get(H, at)))
        put(Z, i, z)


@njit(**CALLED)
def predict_simd(n: int, q: int, model: Space, state: Space, W: SimdArray) -> None:
    """`a = A m + b`, `L L' = A F F' A' + LQ LQ'` with `LQ` and `L` lower triangular."""
    A, b, LQ, _, _, _ = model
    a, L, m, F = state
    width = n + q
    for i in range(n):
        total = get(b, i)
        for r in range(n):
            total = add_product(get(A, i * n + r), get(m, r), total)
        put(a, i, total)
        for j in range(n):
            total = fill(0.0)
            for r in range(n):
                total = add_product(get(A, i * n + r), get(F, r * n + j), total)
            put(W, i * width + j, total)
        for j in range(q):
            put(W, i * width + n + j, get(LQ, i * q + j))
    for i in range(n):
        reflect_simd(W, width, i, i, min(n + i + 1, width), n)
    for i in range(n):
        for j in range(n):
            put(L, i * n + j, get(W, i * width + j) if j <= i else fill(0.0))


@njit(**CALLED)
def predicted_variance(n: int, p: int, i: int, model: Space, L: SimdArray) -> SimdValue:
    """Variance of one component before any other of its step is known."""
    _, _, _, C, _, R = model
    total = get(R, i * p + i)
    for j in range(n):
        f = fill(0.0)
        for r in range(j, n):
            f = add_product(get(C, i * n + r), get(L, r * n + j), f)
        total = add_product(f, f, total)
    return total


@njit(**CALLED)
def update_factor(
    n: int, f: SimdArray, inverse: SimdValue, shrink: SimdValue, e: SimdValue, m: SimdArray,
    F: SimdArray,
) -> None:  # fmt: skip
    """Move the mean by the gain times `e`, and take what was learnt out of the factor."""
    for i in range(n):
        total = fill(0.0)
        for j in range(n):
            total = add_product(get(F, i * n + j), get(f, j), total)
        total = mul(total, inverse)
        put(m, i, add_product(total, e, get(m, i)))
        total = mul(total, shrink)
        for j in range(n):
            put(F, i * n + j, sub_product(total, get(f, j), get(F, i * n + j)))


@njit(**CALLED)
def smallest_left(n: int, L: SimdArray, F: SimdArray, worst: SimdValue) -> SimdValue:
    """The smaller of `worst` and what an update leaves of a state's variance."""
    for i in range(n):
        before, after = fill(0.0), fill(0.0)
        for j in range(n):
            x, z = get(L, i * n + j), get(F, i * n + j)
            before, after = add_product(x, x, before), add_product(z, z, after)
        if any_less(after, mul(worst, before)):
            part = div(after, before)
            worst = where_less(part, worst, part, worst)
    return worst


@njit(**CALLED)
def condition_simd(
    n: int, p: int, model: Space, noise: Space, state: Space, f: SimdArray, worst: SimdArray
) -> SimdValue:
    """Condition `a, L` on one observation, to `m, F`; return its log-density.

    `worst` keeps the smallest fraction of a variance that any step has left.
    """
    _, D, H, Z = noise
    a, L, m, F = state
    copy_simd(n, a, 0, m, 0)
    copy_simd(n * n, L, 0, F, 0)
    zero, one = fill(0.0), fill(1.0)
    power, volume, ll, least = zero, one, zero, get(worst, 0)
    for i in range(p):
        v, s = get(Z, i), get(D, i)
        for j in range(n):
            total = fill(0.0)
            for r in range(n):
                total = add_product(get(F, r * n + j), get(H, i * n + r), total)
            total = where_number(get(Z, i), total, zero)
            s = add_product(total, total, s)
            put(f, j, total)
            v = sub_product(get(H, i * n + j), get(m, j), v)
        if i > 0:
            scale = mul(least, predicted_variance(n, p, i, model, L))
            scale = where_number(get(Z, i), scale, zero)
            if any_less(s, scale):
                part = div(mul(s, least), scale)
                least = where_less(s, scale, part, least)
        deviation = root(s)
        inverse = div(one, deviation)
        shrink = div(one, add(deviation, root(get(D, i))))
        e = where_number(get(Z, i), mul(v, inverse), zero)
        update_factor(n, f, inverse, shrink, e, m, F)
        ll = sub(ll, mul(fill(0.5), mul(e, e)))
        ll = sub(ll, where_number(get(Z, i), fill(HALF_LOG_2PI), zero))
        volume = mul(volume, where_number(get(Z, i), mantissa(s), one))
        power = add(power, where_number(get(Z, i), exponent(s), zero))
    put(worst, 0, smallest_left(n, L, F, least))
    return sub_product(fill(0.5), log_simd(volume, power), ll)


@njit(**CALLED)
def load_model(sources: Space, series: Whole, times: Whole, model: Space) -> None:
    """Lay out the matrices of one step."""
    for i in range(len(sources)):
        gather(sources[i], series, times, model[i])


@njit(**CALLED)
def at_step(t: int, series: Whole, origin: Whole, time: int, times: Whole) -> None:
    """Which time of its series each entry has reached."""
    for entry in range(SIMD_WIDTH):
        times[entry] = min(origin[entry] + t, time - 1)


@cached(**DRIVER)
def individual_forward(first: int, last: int, base: int, plan: Arrays, sources: Space,
                       start: Space, y: Matrices, out: Spaces, keep: tuple[bool, ...],
                       space: Spaces) -> None:  # fmt: skip
    """Filter the groups of eight entries from `base + first` to `base + last`.

    `plan` says which series a entry is, which time its step 0 is, and from which of its steps to
    which it counts. `keep` says whether moments, and what a smoother needs, are written.
    """
    series, origin, begin, until, steps, mark = plan
    ll, worst, moments, trace, marks = out
    model, noise, state, work, times, rows = space
    W, f, Y, total, least, P = work
    M, D = noise[0], noise[1]
    a, L, m, F = state
    n, p, mixed, varying = a.shape[0], Y.shape[0], keep[2], keep[3]
    q = W.shape[0] // n - n
    for h in range(first, last):
        g = base + h
        for t in range(steps):
            at_step(t, series[g], origin[g], y.shape[1], times)
            gather(y, series[g], times, Y)
            if t == 0 or varying:
                load_model(sources, series[g], times, model)
            if mixed or t == 0 or varying:
                lost = decorrelate_simd(p, model[5], Y, M, D)
                if any_less(lost, fill(8.0 * EPS * p)):
                    worst[g, 0] = -1.0  # a redundant component
                    break
            if t == 0:
                gather(start[0], series[g], times, a)
                gather(start[1], series[g], times, L)
            else:
                predict_simd(n, q, model, state, W)
            for entry in range(SIMD_WIDTH):
                if t == begin[g, entry]:
                    least[0, entry] = 1.0
            for i in range(2):
                if t == mark[i]:
                    copy_simd(n, a, 0, marks[i], 0)
                    copy_simd(n * n, L, 0, marks[i], n)
            whiten_rows(n, p, mixed, model, noise, Y)
            put(total, 0, condition_simd(n, p, model, noise, state, f, least))
            rows_at(t, y.shape[1], series[g], origin[g], begin[g], until[g], rows)
            scatter(total, rows, ll)
            if keep[0]:
                write_moments(n, state, P, rows, moments)
            if keep[1]:
                place = (h * steps + t) * (2 * n + n * n)
                copy_simd(n, a, 0, trace, place)
                copy_simd(n, m, 0, trace, place + n)
                copy_simd(n * n, F, 0, trace, place + 2 * n)
        else:
            for entry in range(SIMD_WIDTH):
                worst[g, entry] = least[0, entry]


@njit(**CALLED)
def write_moments(n: int, state: Space, P: SimdArray, rows: Whole, moments: Space) -> None:
    """Write filtered and predicted moments of a step."""
    a, L, m, F = state
    copy_simd(n, m, 0, P, 0)
    scatter(P, rows, moments[0])
    copy_simd(n, a, 0, P, 0)
    scatter(P, rows, moments[1])
    gram_simd(n, F, P)
    scatter(P, rows, moments[2])
    gram_simd(n, L, P)
    scatter(P, rows, moments[3])
