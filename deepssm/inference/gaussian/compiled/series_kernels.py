"""Reads steps of series into numbers, and writes them back."""

from __future__ import annotations

from numba import njit

from ....ops.arrays import Matrices, Matrix, Vector
from ....ops.lanes import get_lane, lanes_of, load, number, put_lane, store
from ....ops.small_matrices import pick
from .step_kernels import INLINE


@njit(**INLINE)
def gather(source: Matrices, first: int, count: int, t: int, size: int, X: Vector) -> None:
    """Read step `t` of the series from `first` on; the last one stands in for those past it."""
    for s in range(lanes_of(X)):
        series = pick(min(first + s, count - 1), source.shape[0])
        for i in range(size):
            put_lane(X, i, s, source[series, pick(t, source.shape[1]), i])


@njit(**INLINE)
def scatter(X: Vector, size: int, first: int, count: int, t: int, target: Matrices) -> None:
    """Write step `t` of the series from `first` on, if anybody wants it."""
    if target.shape[0] == 0:
        return
    for s in range(min(lanes_of(X), count - first)):
        for i in range(size):
            target[first + s, t, i] = get_lane(X, i, s)


@njit(**INLINE)
def scatter_cov(
    n: int, L: Vector, C: Vector, first: int, count: int, t: int, target: Matrices
) -> None:
    """Write `L L'` of lower triangular factors."""
    if target.shape[0] == 0:
        return
    for i in range(n):
        for j in range(i + 1):
            value = number(L, 0.0)
            for m in range(j + 1):
                value += load(L, i * n + m) * load(L, j * n + m)
            store(C, i * n + j, value)
            store(C, j * n + i, value)
    scatter(C, n * n, first, count, t, target)


@njit(**INLINE)
def scatter_one(x: Vector, X: Vector, first: int, count: int, t: int, target: Matrix) -> None:
    """Write one number of step `t` of the series from `first` on."""
    store(X, 0, x)
    for s in range(min(lanes_of(X), count - first)):
        target[first + s, t] = get_lane(X, 0, s)
