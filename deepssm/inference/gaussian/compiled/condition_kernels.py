"""Conditions whitened coordinates on whitened observations: the collapsed update.

Source: Bierman (1977), Factorization Methods for Discrete Sequential Estimation, chapter 5; the
residual rides along as a row of its own, so that no large numbers are subtracted.
"""

from __future__ import annotations

from numba import njit

from ....ops.arrays import Vector, Whole
from ....ops.lanes import load, log, number, root, some_less, store, where_less, where_number
from ....ops.small_matrices import HALF_LOG_2PI
from .step_kernels import INLINE, shortest


@njit(**INLINE)
def whiten(
    n: int, p: int, W: Vector, width: int, R: Vector, diagonal: bool, v: Vector, scale: Vector,
    seen: Vector, A: Vector,
) -> None:  # fmt: skip
    """`A[:n] = (R^-1 slope)'` and `A[n] = R^-1 v`, zeros where nothing is seen."""
    for i in range(p):
        inverse = load(scale, i) * load(seen, i) / load(R, i * p + i)
        for b in range(n):
            store(A, b * p + i, load(W, i * width + b) * inverse)
        store(A, n * p + i, load(v, i) * inverse)
        if not diagonal:
            inverse = load(seen, i) / load(R, i * p + i)
            for j in range(i):
                factor = load(R, i * p + j) * inverse
                for b in range(n + 1):
                    at = b * p + i
                    store(A, at, load(A, at) - factor * load(A, b * p + j))


@njit(**INLINE)
def absorb(
    n: int, p: int, A: Vector, R: Vector, scale: Vector, seen: Vector, T: Vector, shift: Vector,
    distance: Vector,
) -> Vector:  # fmt: skip
    """Condition `e` on whitened rows: `I + A A' = T T'`, `T` upper triangular; return the density.

    `T^-T` is the factor of what is left of `e`, lower triangular, and `shift` its mean.
    """
    pivots, total = number(A, 1.0), number(A, 0.0)
    for i in range(n - 1, -1, -1):
        square, at = number(A, 1.0), i * p
        for k in range(p):
            square += load(A, at + k) * load(A, at + k)
        norm = root(square)
        top = norm + 1.0
        beta = 1.0 / (norm * top)
        for r in range(i):
            store(T, r * n + i, absorb_row(p, A, at, r * p, beta) * top)
        store(T, i * n + i, norm)
        store(shift, i, absorb_row(p, A, at, n * p, beta) * top)
        pivots = pivots * norm
        if i % 4 == 3:
            total -= log(pivots)
            pivots = number(A, 1.0)
    total -= log(pivots)
    left, count = number(A, 0.0), number(A, 0.0)
    pivots = number(A, 1.0)
    for k in range(p):
        value = load(A, n * p + k)
        left += value * value
        count += load(seen, k)
        part = load(R, k * p + k) / load(scale, k)
        pivots = pivots * where_less(load(seen, k), 0.5, 1.0, part)
        if k % 4 == 3:
            total -= log(pivots)
            pivots = number(A, 1.0)
    store(distance, 0, left)
    store(distance, 1, count)
    solve_upper_transposed(n, T, shift)
    return total - log(pivots) - 0.5 * left - HALF_LOG_2PI * count


@njit(**INLINE)
def absorb_row(p: int, A: Vector, pivot: int, row: int, beta: Vector) -> Vector:
    """Take out of one row what it shares with the pivot's."""
    dot = number(A, 0.0)
    for k in range(p):
        dot += load(A, pivot + k) * load(A, row + k)
    dot = dot * beta
    for k in range(p):
        store(A, row + k, load(A, row + k) - dot * load(A, pivot + k))
    return dot


@njit(**INLINE)
def solve_upper_transposed(n: int, T: Vector, x: Vector) -> None:
    """`x = T^-T x`."""
    for i in range(n):
        value = load(x, i)
        for j in range(i):
            value -= load(T, j * n + i) * load(x, j)
        store(x, i, value / load(T, i * n + i))


@njit(**INLINE)
def shrink(n: int, L: Vector, T: Vector, X: Vector) -> None:
    """`X = L T^-T`, all lower triangular."""
    for r in range(n):
        for j in range(n - 1, r, -1):
            store(X, r * n + j, 0.0)
        for j in range(r, -1, -1):
            value = load(L, r * n + j)
            for i in range(j + 1, r + 1):
                value -= load(X, r * n + i) * load(T, j * n + i)
            store(X, r * n + j, value / load(T, j * n + j))


@njit(**INLINE)
def shift_mean(n: int, m: Vector, L: Vector, shift: Vector, x: Vector) -> None:
    """`x = m + L shift`."""
    for a in range(n):
        value = load(m, a)
        for b in range(a + 1):
            value += load(L, a * n + b) * load(shift, b)
        store(x, a, value)


@njit(**INLINE)
def observe(p: int, y: Vector, mean: Vector, angles: Whole, wraps: bool, v: Vector, seen: Vector
            ) -> bool:  # fmt: skip
    """`v = y - mean`, 0 where `y` is NaN; return whether some component is missing."""
    missing = False
    for i in range(p):
        value = load(y, i)
        there = where_number(value, value, number(y, 1.0), 0.0)
        left = where_number(value, value, value - load(mean, i), 0.0)
        if wraps and angles[i] != 0:
            left = shortest(left) * there
        store(v, i, left)
        store(seen, i, there)
        missing = missing or some_less(there, 0.5)
    return missing
