"""The backward pass of the smoother, in the whitened coordinates of the forward pass."""

from __future__ import annotations

from numba import njit

from ....ops.arrays import Arrays, Spaces, Vector
from ....ops.cache import cached
from ....ops.lanes import lanes_of, load, number, store
from ....ops.small_matrices import DRIVER
from .condition_kernels import shift_mean, solve_upper_transposed
from .series_kernels import gather, scatter, scatter_cov
from .step_kernels import INLINE, lower


@njit(**INLINE)
def product(n: int, A: Vector, B: Vector, transposed: bool, C: Vector, width: int) -> None:
    """`C = A B`, or `A B'`; rows of `C` are `width` long."""
    for i in range(n):
        for j in range(n):
            value = number(A, 0.0)
            for m in range(n):
                if transposed:
                    value += load(A, i * n + m) * load(B, j * n + m)
                else:
                    value += load(A, i * n + m) * load(B, m * n + j)
            store(C, i * width + j, value)


@njit(**INLINE)
def solve_rows(n: int, T: Vector, S: Vector) -> None:
    """`S = T^-T S` for an upper triangular `T`."""
    for i in range(n):
        for j in range(i):
            factor = load(T, j * n + i)
            for k in range(n):
                store(S, i * n + k, load(S, i * n + k) - factor * load(S, j * n + k))
        for k in range(n):
            store(S, i * n + k, load(S, i * n + k) / load(T, i * n + i))


@njit(**INLINE)
def smooth_space(work: Vector, n: int) -> Spaces:
    """Cut three vectors, seven square matrices and a wide one out of `work`."""
    q, a = n * n, 3 * n
    return (
        work[:n], work[n : 2 * n], work[2 * n : a], work[a : a + q], work[a + q : a + 2 * q],
        work[a + 2 * q : a + 3 * q], work[a + 3 * q : a + 4 * q], work[a + 4 * q : a + 5 * q],
        work[a + 5 * q : a + 6 * q], work[a + 6 * q : a + 7 * q], work[a + 7 * q : a + 9 * q],
    )  # fmt: skip


@njit(**INLINE)
def step_back(n: int, space: Spaces) -> None:
    """Carry centre and scatter of `e_t` over to `e_{t-1}`; put the cross term into `X`."""
    centre, vector, shift, scatter_t, L, P, gain, rest, T, X, W = space
    solve_upper_transposed(n, T, centre)
    for i in range(n):
        store(centre, i, load(centre, i) + load(shift, i))
    solve_rows(n, T, scatter_t)
    # `L` is the factor of the step before by now, `P` that of the prediction.
    product(n, P, scatter_t, False, X, n)
    product(n, L, gain, False, T, n)
    product(n, T, scatter_t, False, P, n)
    product(n, X, P, True, T, n)
    for i in range(n):
        value = number(centre, 0.0)
        for j in range(n):
            value += load(gain, i * n + j) * load(centre, j)
        store(vector, i, value)
    for i in range(n):
        store(centre, i, load(vector, i))
        for j in range(n):
            store(W, i * 2 * n + n + j, load(rest, i * n + j))
    product(n, gain, scatter_t, False, W, 2 * n)
    lower(n, W, 2 * n, 0, 2 * n, n, scatter_t)


@cached(**DRIVER)
def backward_all(start: int, stop: int, forward: Arrays, work: Vector, out: Arrays) -> None:
    """Smooth series `start` to `stop`."""
    means, factors, ahead_factors, gains, rests, pivots, shifts = forward
    smoothed, covs, crosses = out
    count, time, n = means.shape
    q, space = n * n, smooth_space(work, n)
    centre, vector, shift, scatter_t, L, P, gain, rest, T, X, _ = space
    for group in range(start, stop, lanes_of(work)):
        for i in range(n):
            store(centre, i, 0.0)
            for j in range(n):
                store(scatter_t, i * n + j, 0.0)
            store(scatter_t, i * n + i, 1.0)
        gather(factors, group, count, time - 1, q, L)
        for t in range(time - 1, -1, -1):
            gather(means, group, count, t, n, shift)
            shift_mean(n, shift, L, centre, vector)
            scatter(vector, n, group, count, t, smoothed)
            product(n, L, scatter_t, False, X, n)
            scatter_cov(n, X, T, group, count, t, covs)
            if t == 0:
                for i in range(q):
                    store(T, i, 0.0)
            else:
                gather(pivots, group, count, t, q, T)
                gather(shifts, group, count, t, n, shift)
                gather(ahead_factors, group, count, t, q, P)
                gather(gains, group, count, t, q, gain)
                gather(rests, group, count, t, q, rest)
                gather(factors, group, count, t - 1, q, L)
                step_back(n, space)
            scatter(T, q, group, count, t, crosses)
