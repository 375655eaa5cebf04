"""The two-filter square-root smoother for eight series at a time, each with gaps of its own.

The future is carried as `n` whitened equations, stored transposed, one unknown a row. A step back
adds the rows of an observation, makes the equations triangular and takes the process noise out of
them by reflections, which leave most of what the noise has itself at zero.

Source: as `kalman/cpu/scalar/smoother.py`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .....ops.arrays import SIMD_WIDTH, Arrays, Matrices, SimdArray, Space, Spaces
from .....ops.cache import cached
from .....ops.simd import (
    add_product,
    div,
    fill,
    get,
    mul,
    put,
    root,
    simd_array,
    sub,
    sub_product,
    where_number,
)
from .....ops.small_matrices import DRIVER
from .individual_filter import at_step, decorrelate_simd, load_model, whiten_rows
from .individual_steps import (
    CALLED,
    clear_simd,
    copy_simd,
    eliminate_simd,
    gather,
    gram_simd,
    reflect_simd,
    rows_at,
    scatter,
)


def smoother_space(n: int, p: int, q: int) -> tuple[tuple[np.ndarray, ...], ...]:
    """Scratch of `individual_backward` beside `individual_forward`'s: equations and moments.

    Args:
        n: States.
        p: Observations.
        q: Noise directions.
    """
    big = max(n, q)
    equations = ((n + 1) * (n + p), (q + n + 1) * n, (q + n + 1) * big, big)
    moments = (n, n * n, n * n, n * n, n * n)
    return tuple(map(simd_array, equations)), tuple(map(simd_array, moments))


@njit(**CALLED)
def add_rows(n: int, p: int, noise: Space, past: Space, W: SimdArray) -> None:
    """Base the equations at the predicted mean, and append the whitened observation."""
    _, D, H, Z = noise
    a, m, width = past[0], past[1], n + p
    for e in range(n):
        total = get(W, n * width + e)
        for j in range(n):
            total = add_product(get(W, j * width + e), sub(get(m, j), get(a, j)), total)
        put(W, n * width + e, total)
    zero = fill(0.0)
    for i in range(p):
        z = get(Z, i)
        weight = where_number(z, div(fill(1.0), root(get(D, i))), zero)
        v = where_number(z, z, zero)
        for j in range(n):
            h = get(H, i * n + j)
            v = sub_product(h, get(a, j), v)
            put(W, j * width + n + i, mul(weight, h))
        put(W, n * width + n + i, mul(weight, v))


@njit(**CALLED)
def step_back_simd(
    n: int, p: int, q: int, model: Space, W: SimdArray, V: SimdArray, X: SimdArray
) -> None:
    """Make the equations triangular, express them in the state before, take the noise out."""
    A, LQ, width = model[0], model[2], n + p
    for j in range(n):
        reflect_simd(W, width, j, j, width, n + 1)
    for e in range(n):
        for r in range(q):
            total = fill(0.0)
            for j in range(max(e, r), n):
                total = add_product(get(W, j * width + e), get(LQ, j * q + r), total)
            put(V, r * n + e, total)
        for r in range(n):
            total = fill(0.0)
            for j in range(e, n):
                total = add_product(get(W, j * width + e), get(A, j * n + r), total)
            put(V, (q + r) * n + e, total)
        put(V, (q + n) * n + e, get(W, n * width + e))
    eliminate_simd(q, n, q + n + 1, V, X)
    for r in range(n + 1):
        copy_simd(n, V, (q + r) * n, W, r * width)


@njit(**CALLED)
def gain_simd(n: int, q: int, model: Space, X: SimdArray, x: SimdArray, J: SimdArray) -> None:
    """`J` with `Cov(z_t, z_{t-1} | y) = J Cov(z_{t-1} | y)`, from a step back."""
    A, LQ = model[0], model[2]
    for j in range(n):
        for i in range(q - 1, -1, -1):
            total = get(X, (q + j) * q + i)
            for r in range(i + 1, q):
                total = sub_product(get(X, r * q + i), get(x, r), total)
            put(x, i, mul(total, get(X, i * q + i)))
        for i in range(n):
            total = get(A, i * n + j)
            for r in range(min(i + 1, q)):
                total = sub_product(get(LQ, i * q + r), get(x, r), total)
            put(J, i * n + j, total)


@njit(**CALLED)
def combine_simd(
    n: int, p: int, past: Space, W: SimdArray, V: SimdArray, X: SimdArray, mean: SimdArray,
    S: SimdArray,
) -> None:  # fmt: skip
    """Smoothed mean and factor: the filtered ones, conditioned on the equations of the future."""
    _, m, F = past
    width = n + p
    for e in range(n):
        for j in range(n):
            total = fill(0.0)
            for r in range(n):
                total = add_product(get(F, r * n + j), get(W, r * width + e), total)
            put(V, j * n + e, total)
        put(V, n * n + e, get(W, n * width + e))
    eliminate_simd(n, n, n + 1, V, X)
    for i in range(n):
        at = get(m, i)
        for j in range(n):
            total = get(F, i * n + j)
            for r in range(j):
                total = sub_product(get(S, i * n + r), get(X, j * n + r), total)
            total = mul(total, get(X, j * n + j))
            put(S, i * n + j, total)
            at = add_product(total, get(X, n * n + j), at)
        put(mean, i, at)


@njit(**CALLED)
def cross_simd(n: int, J: SimdArray, P: SimdArray, out: SimdArray) -> None:
    """`out = J P`."""
    for i in range(n):
        for j in range(n):
            total = fill(0.0)
            for r in range(n):
                total = add_product(get(J, i * n + r), get(P, r * n + j), total)
            put(out, i * n + j, total)


@cached(**DRIVER)
def individual_backward(
    first: int, last: int, base: int, plan: Arrays, sources: Space, y: Matrices, out: Spaces,
    keep: tuple[bool, ...], spaces: Spaces,
) -> None:  # fmt: skip
    """Smooth groups of eight entries; see `individual_forward`."""
    series, origin, begin, until, steps, mark = plan
    means, covs, crosses, trace, marks = out
    (model, noise, past, work, times, rows), (W, V, X, x), (mean, S, P, J, cross) = spaces
    a, _, m, F = past
    Y = work[2]
    n, p, mixed, varying = a.shape[0], Y.shape[0], keep[2], keep[3]
    q = model[2].shape[0] // n
    past = (a, m, F)
    for h in range(first, last):
        g = base + h
        clear_simd(W.shape[0], W)
        for t in range(steps - 1, -1, -1):
            if t < steps - 1:
                at_step(t + 1, series[g], origin[g], y.shape[1], times)
                gather(y, series[g], times, Y)
                if t == steps - 2 or varying:
                    load_model(sources, series[g], times, model)
                if mixed or t == steps - 2 or varying:
                    decorrelate_simd(p, model[5], Y, noise[0], noise[1])
                whiten_rows(n, p, mixed, model, noise, Y)
                add_rows(n, p, noise, past, W)
                step_back_simd(n, p, q, model, W, V, X)
                gain_simd(n, q, model, X, x, J)
            place = (h * steps + t) * (2 * n + n * n)
            copy_simd(n, trace, place, a, 0)
            copy_simd(n, trace, place + n, m, 0)
            copy_simd(n * n, trace, place + 2 * n, F, 0)
            for i in range(2):
                if t == mark[i]:
                    for r in range(n + 1):
                        copy_simd(n, W, r * (n + p), marks[i], r * n)
            combine_simd(n, p, past, W, V, X, mean, S)
            gram_simd(n, S, P)
            cross_simd(n, J, P, cross)
            rows_at(t, y.shape[1], series[g], origin[g], begin[g], until[g], rows)
            scatter(mean, rows, means)
            scatter(P, rows, covs)
            if t == steps - 1:
                continue
            for entry in range(SIMD_WIDTH):
                rows[entry] += 1 if rows[entry] >= 0 else 0
            scatter(cross, rows, crosses)
