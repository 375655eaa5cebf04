"""The two-filter smoother as a CUDA kernel of one thread a series.

What the future says of a state is carried as whitened equations, as in `cpu/scalar/smoother.py`,
whose steps are compiled here for the other target. The filter leaves predicted moments alone;
filtered ones are found again, which costs less than to write and read them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from ....ops import small_matrices
from ....ops.arrays import Batch, Matrix, Space, Vector
from ..cpu.scalar import smoother_equations as backward
from .filter import loading_step
from .steps import (
    Kernel,
    conditioning,
    covariance_writer,
    cuda,
    device,
    float64,
    int64,
    loading,
    loading_vectors,
    ported,
)


@cache
def receding(n: int, p: int) -> Callable[..., None]:
    """Return `recede(A, LQ, C, d, R, y, a, L, m, U, zeta, W, J)`: one step into the past.

    All arguments but the outputs `U, zeta` and `J`, the gain of the lag-one covariance, belong
    to the later step.
    """
    load_later_data, load_rows = ported(backward.load_later_data), ported(backward.load_rows)
    step_back, gain = ported(backward.step_back), ported(backward.backward_gain)
    read_equations = ported(backward.read_equations)

    @device
    def recede(
        A: Matrix, LQ: Matrix, C: Matrix, d: Vector, R: Matrix, y: Vector, a: Matrix, L: Matrix,
        m: Matrix, U: Matrix, zeta: Matrix, W: Matrix, J: Matrix,
    ) -> None:  # fmt: skip
        M, order = cuda.local.array((p, p), float64), cuda.local.array(p, int64)
        v, x = cuda.local.array(1, float64), cuda.local.array(n, float64)
        load_later_data(n, 0, n, U, zeta, m, a, W)
        o = load_rows(n, p, 0, n, C, d, R, y, a, L, order, M, v, W)
        step_back(n, 1, n, o, A, LQ, W, x)
        read_equations(n, 1, n, W, U, zeta)
        gain(n, n, A, LQ, W, J, x)

    return recede


@cache
def linking(n: int) -> Callable[..., None]:
    """Return `link(J, factor, t, s, target)`: `target[t, :, :, s] = J factor factor'`."""

    @device
    def link(J: Matrix, factor: Matrix, t: int, s: int, target: Batch) -> None:
        for i in range(n):
            for j in range(n):
                total = 0.0
                for r in range(n):
                    half = 0.0
                    for c in range(n):
                        half += J[i, c] * factor[c, r]
                    total += half * factor[j, r]
                target[t, i, j, s] = total

    return link


@cache
def smoother_kernel(n: int, p: int) -> Kernel:
    """Compile the smoother.

    The kernel takes `params`, `y`, and predicted means and factors, as the filter's kernel takes
    and leaves them, and writes smoothed means `(time, n, 1, series)`, covariances and lag-one
    covariances `(time, n, n, series)`; entry 0 of the last is left as it is.
    """
    high, wide = 2 * n + 1, 2 * n + p
    (load, save), vector, write = loading(), loading_vectors(), covariance_writer(n)
    (arrive, observe, shift), condition = loading_step(n, p), conditioning(n, p)
    recede, link, combine = receding(n, p), linking(n), ported(backward.combine)
    clear = ported(small_matrices.clear)

    @cuda.jit(fastmath=False)
    def run(
        params: Space, y: Batch, a_in: Batch, L_in: Batch, mean_out: Batch, cov_out: Batch,
        cross_out: Batch,
    ) -> None:  # fmt: skip
        s = cuda.grid(1)
        if s >= y.shape[3]:
            return
        A, LQ = cuda.local.array((n, n), float64), cuda.local.array((n, n), float64)
        C, R = cuda.local.array((p, n), float64), cuda.local.array((p, p), float64)
        b, d = cuda.local.array(n, float64), cuda.local.array(p, float64)
        a, m = cuda.local.array((n, 1), float64), cuda.local.array((n, 1), float64)
        L, F = cuda.local.array((n, n), float64), cuda.local.array((n, n), float64)
        U, J = cuda.local.array((n, n), float64), cuda.local.array((n, n), float64)
        zeta, mean = cuda.local.array((n, 1), float64), cuda.local.array((n, 1), float64)
        W, row = cuda.local.array((high, wide), float64), cuda.local.array(p, float64)
        factor = cuda.local.array((n, n), float64)
        clear(n, n, U)
        clear(n, 1, zeta)
        last = y.shape[0] - 1
        for t in range(last, -1, -1):
            if t < last:
                arrive(params, t + 1, s, A, LQ)
                recede(A, LQ, C, d, R, row, a, L, m, U, zeta, W, J)
            observe(params, t, s, C, R)
            shift(params, t, s, b, d)
            vector(p, y, t, s, row)
            load(n, 1, a_in, t, s, a)
            load(n, n, L_in, t, s, L)
            condition(C, d, R, row, a, L, m, F)
            combine(n, 1, m, F, U, zeta, W, mean, factor)
            save(n, 1, mean, t, s, mean_out)
            write(factor, t, s, cov_out)
            if t < last:
                link(J, factor, t + 1, s, cross_out)

    return run
