"""The Kalman filter as a CUDA kernel of one thread a series.

Arrays have axes `(time or 1, row, col, series or 1)`, so that neighbouring threads read and write
neighbouring numbers. For small sizes all that changes from step to step is in registers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal

from ....ops.arrays import Batch, Matrix, Space, Vector
from .steps import (
    Kernel,
    conditioning,
    covariance_writer,
    cuda,
    device,
    float64,
    loading,
    loading_vectors,
    prediction,
)

Keep = Literal["nothing", "moments", "factors"]


@cache
def loading_step(n: int, p: int) -> tuple[Callable[..., None], ...]:
    """Return functions that load matrices or offsets of a step: transition's, then emission's."""
    load, vector = loading()[0], loading_vectors()

    @device
    def arrive(params: Space, t: int, s: int, A: Matrix, LQ: Matrix) -> None:
        load(n, n, params[0], t, s, A)
        load(n, n, params[2], t, s, LQ)

    @device
    def observe(params: Space, t: int, s: int, C: Matrix, R: Matrix) -> None:
        load(p, n, params[3], t, s, C)
        load(p, p, params[5], t, s, R)

    @device
    def offsets(params: Space, t: int, s: int, b: Vector, d: Vector) -> None:
        vector(n, params[1], t, s, b)
        vector(p, params[4], t, s, d)

    return arrive, observe, offsets


@cache
def filter_kernel(n: int, p: int, keep: Keep) -> Kernel:
    """Compile the filter of `n` states and `p` observations.

    The kernel takes `params = (A, b, LQ, C, d, R)`, `start = (m0, L0)`, `y` `(time, p, 1,
    series)`, and writes `ll` `(time, series)`, `worst` `(series,)` and, of four further arrays,
    filtered mean and covariance, predicted mean and covariance (`"moments"`), or predicted mean
    and factor (`"factors"`, the last two).
    """
    wide, moments, factors = 2 * n, keep == "moments", keep == "factors"
    (load, save), vector, write = loading(), loading_vectors(), covariance_writer(n)
    (arrive, observe, shift), predict = loading_step(n, p), prediction(n)
    condition = conditioning(n, p)

    @cuda.jit(fastmath=False)
    def run(
        params: Space, start: Space, y: Batch, ll: Matrix, worst: Vector, m_out: Batch,
        P_out: Batch, a_out: Batch, before_out: Batch,
    ) -> None:  # fmt: skip
        s = cuda.grid(1)
        if s >= y.shape[3]:
            return
        A, LQ = cuda.local.array((n, n), float64), cuda.local.array((n, n), float64)
        C, R = cuda.local.array((p, n), float64), cuda.local.array((p, p), float64)
        b, d = cuda.local.array(n, float64), cuda.local.array(p, float64)
        a, m = cuda.local.array((n, 1), float64), cuda.local.array((n, 1), float64)
        L, F = cuda.local.array((n, n), float64), cuda.local.array((n, n), float64)
        W, row = cuda.local.array((n, wide), float64), cuda.local.array(p, float64)
        load(n, 1, start[0], 0, s, a)
        load(n, n, start[1], 0, s, L)
        least = 1.0
        for t in range(y.shape[0]):
            # Read anew at each step, from a cache: in registers there is no room for them.
            arrive(params, t, s, A, LQ)
            observe(params, t, s, C, R)
            shift(params, t, s, b, d)
            if t > 0:
                predict(A, b, LQ, m, F, W, a, L)
            vector(p, y, t, s, row)
            ll[t, s], part = condition(C, d, R, row, a, L, m, F)
            least = min(least, part)
            if moments:
                save(n, 1, m, t, s, m_out)
                write(F, t, s, P_out)
                write(L, t, s, before_out)
            if factors:
                save(n, n, L, t, s, before_out)
            if moments or factors:
                save(n, 1, a, t, s, a_out)
        worst[s] = least

    return run
