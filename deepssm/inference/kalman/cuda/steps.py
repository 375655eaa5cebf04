"""The steps of the square-root Kalman filter for one CUDA thread a series.

The functions of the compiled loops are compiled anew, from the same source, for the other target.
Where a loop runs over rows that later indices depend on, each row is a function of its own that
calls the next, so that the compiler sees constants and keeps every matrix in registers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any, Protocol

import numpy as np
from numba.core.dispatcher import Dispatcher

from ....ops import small_matrices
from ....ops.arrays import Batch, Matrix, Vector
from ....ops.small_matrices import EPS, HALF_LOG_2PI
from ..cpu.scalar import predict as steps
from ..cpu.scalar import update


def _target() -> Any:  # noqa: ANN401
    try:
        from numba import cuda
    except ImportError:  # numba's own CUDA target is giving way to the package `numba-cuda`
        return None
    return cuda


cuda: Any = _target()
float64, int64 = np.float64, np.int64


class Kernel(Protocol):
    """A kernel of one thread a series, for `launch`."""

    def __getitem__(self, grid: tuple[Any, ...]) -> Callable[..., None]:
        """Return what runs it on a grid: blocks, threads of a block and maybe a stream."""
        ...


def simulated() -> bool:
    """Whether numba runs kernels in its simulator, on the CPU."""
    from numba import config

    return bool(getattr(config, "ENABLE_CUDASIM", 0))


def device(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function for calls from a kernel, always inlined.

    Fast arithmetic stays off: numba has all of it or none on this target, and all of it removes
    the tests for missing data.
    """
    options: dict[str, Any] = {} if simulated() else {"forceinline": True}
    return cuda.jit(device=True, fastmath=False, **options)(function)


@cache
def ported(function: Any) -> Callable[..., Any]:  # noqa: ANN401
    """Compile a function of the CPU's loops, and all that it calls, for a kernel.

    Args:
        function: What `numba.njit` returned.
    """
    source = function.py_func
    scope = dict(source.__globals__)
    for name in source.__code__.co_names:
        if isinstance(scope.get(name), Dispatcher):
            scope[name] = ported(scope[name])
    return device(FunctionType(source.__code__, scope, source.__name__, source.__defaults__))


@cache
def loading() -> tuple[Callable[..., None], Callable[..., None]]:
    """Return `load` and `save`, between arrays `(time, row, col, series)` and a thread's own.

    An axis of size one serves all steps or all series. Vectors are `(size, 1)` there, and have
    one axis here in `loading_vectors`.
    """

    @device
    def load(rows: int, cols: int, source: Batch, t: int, s: int, target: Matrix) -> None:
        u = t if source.shape[0] > 1 else 0
        v = s if source.shape[3] > 1 else 0
        for i in range(rows):
            for j in range(cols):
                target[i, j] = source[u, i, j, v]

    @device
    def save(rows: int, cols: int, source: Matrix, t: int, s: int, target: Batch) -> None:
        for i in range(rows):
            for j in range(cols):
                target[t, i, j, s] = source[i, j]

    return load, save


@cache
def loading_vectors() -> Callable[..., None]:
    """Return `load(size, source, t, s, target)` for a vector."""

    @device
    def load(size: int, source: Batch, t: int, s: int, target: Matrix) -> None:
        u = t if source.shape[0] > 1 else 0
        v = s if source.shape[3] > 1 else 0
        for i in range(size):
            target[i] = source[u, i, 0, v]

    return load


@cache
def covariance_writer(n: int) -> Callable[..., None]:
    """Return `write(factor, t, s, target)`: `target[t, :, :, s] = factor factor'`."""

    @device
    def write(factor: Matrix, t: int, s: int, target: Batch) -> None:
        for i in range(n):
            for j in range(i + 1):
                total = 0.0
                for r in range(n):
                    total += factor[i, r] * factor[j, r]
                target[t, i, j, s] = total
                target[t, j, i, s] = total

    return write


@cache
def prediction(n: int) -> Callable[..., None]:
    """Return `predict(A, b, LQ, m, F, W, a, L)`: the predicted mean `a` and factor `L`."""
    triangularise, mean = _reflections(0, n), ported(steps.predict_mean)

    @device
    def predict(
        A: Matrix, b: Vector, LQ: Matrix, m: Matrix, F: Matrix, W: Matrix, a: Matrix, L: Matrix
    ) -> None:
        mean(n, 0, A, b, m, a)
        for i in range(n):
            for j in range(n):
                total = 0.0
                for r in range(n):
                    total += A[i, r] * F[r, j]
                W[i, j] = total
                W[i, n + j] = LQ[i, j]
        triangularise(W)
        for i in range(n):
            for j in range(n):
                L[i, j] = W[i, j] if j <= i else 0.0

    return predict


def _reflections(i: int, n: int) -> Callable[..., None]:
    if i == n:
        return _nothing()
    reflect, others = ported(small_matrices.reflect), _reflections(i + 1, n)

    @device
    def triangularise(W: Matrix) -> None:
        reflect(W, i, i, n, 2 * n)
        others(W)

    return triangularise


@cache
def _nothing() -> Callable[..., None]:
    @device
    def nothing(W: Matrix) -> None:
        pass

    return nothing


@cache
def conditioning(n: int, p: int) -> Callable[..., tuple[float, float]]:
    """Return `condition(C, d, R, y, a, L, m, F)`, which fills the filtered `m` and `F`.

    It returns the log-density and what `kalman_update.condition` calls the smallest part. Here
    every component has its place, and missing ones are skipped where they stand.
    """
    components, width = _components(0, n, p), n + 1
    copy, decorrelate = ported(small_matrices.copy_matrix), ported(steps.decorrelate)
    smallest_part = ported(update.smallest_part)

    @device
    def condition(
        C: Matrix, d: Vector, R: Matrix, y: Vector, a: Matrix, L: Matrix, m: Matrix, F: Matrix
    ) -> tuple[float, float]:
        M, S = cuda.local.array((p, p), float64), cuda.local.array((p, p), float64)
        H, G = cuda.local.array((p, width), float64), cuda.local.array((n, p), float64)
        f, sums = cuda.local.array(n, float64), cuda.local.array(4, float64)
        order = cuda.local.array(p, int64)
        copy(n, 1, a, m)
        copy(n, n, L, F)
        for i in range(p):
            order[i] = i
            for j in range(p):
                S[i, j] = 0.0 if math.isnan(y[i]) or math.isnan(y[j]) else R[i, j]
        decorrelate(S, order, p, M)
        # Log-density, smallest part, product of variances not yet in it, whether anything is seen.
        sums[0], sums[1], sums[2], sums[3] = 0.0, 1.0, 1.0, 0.0
        components(C, d, R, y, L, m, F, M, H, f, G, sums)
        worst = sums[1]
        if sums[3] > 0.0:
            worst = min(worst, smallest_part(n, L, F))
        return sums[0] - 0.5 * math.log(sums[2]), math.sqrt(worst)

    return condition


def _components(i: int, n: int, p: int) -> Callable[..., None]:
    """Condition on component `i` and those after it, one decorrelated component at a time."""
    if i == p:
        return _no_component()
    others, admit = _components(i + 1, n, p), _admission(i, n, p)
    load_row = ported(update.load_row)
    scale_of_row, size_of_parts = ported(update.scale_of_row), ported(update.size_of_parts)

    @device
    def components(
        C: Matrix, d: Vector, R: Matrix, y: Vector, L: Matrix, m: Matrix, F: Matrix, M: Matrix,
        H: Matrix, f: Vector, G: Matrix, sums: Vector,
    ) -> None:  # fmt: skip
        if math.isnan(y[i]):
            for j in range(n + 1):
                H[i, j] = 0.0
        else:
            s = M[i, i]
            load_row(n, C, d, y, i, i, M, H)
            for j in range(n):
                f[j] = 0.0
                for r in range(n):
                    f[j] += F[r, j] * H[i, r]
                s += f[j] * f[j]
            v = H[i, n]
            for j in range(n):
                v -= H[i, j] * m[j, 0]
            scale = scale_of_row(n, C, R, L, i) if i > 0 else s
            sums[1] = min(sums[1], s / scale) if scale > 0.0 else 0.0
            size, limit = size_of_parts(n, H[i], m, y[i]), 8.0 * EPS * (n + p)
            if M[i, i] == 0.0 and s <= limit * limit * max(scale, size * size):
                sums[1] = 0.0  # without noise and known already: redundant, or impossible
                if abs(v) > 1e6 * EPS * size:
                    sums[0] = -math.inf
            else:
                admit(s, v, m, F, M, f, G, sums)
        others(C, d, R, y, L, m, F, M, H, f, G, sums)

    return components


def _admission(i: int, n: int, p: int) -> Callable[..., None]:
    """Move mean and factor by a component of variance `s` and innovation `v`."""
    gain_and_factor = ported(update.gain_and_factor)

    @device
    def admit(
        s: float, v: float, m: Matrix, F: Matrix, M: Matrix, f: Vector, G: Matrix, sums: Vector
    ) -> None:
        root = math.sqrt(s)
        gain_and_factor(n, F, f, root, M[i, i], G, i)
        e = v / root
        for j in range(n):
            m[j, 0] += G[j, i] * e
        sums[2] *= s
        if not 1e-200 < sums[2] < 1e200:
            sums[0] -= 0.5 * math.log(sums[2])
            sums[2] = 1.0
        sums[0] += -0.5 * e * e - HALF_LOG_2PI
        sums[3] = 1.0

    return admit


@cache
def _no_component() -> Callable[..., None]:
    @device
    def nothing(
        C: Matrix, d: Vector, R: Matrix, y: Vector, L: Matrix, m: Matrix, F: Matrix, M: Matrix,
        H: Matrix, f: Vector, G: Matrix, sums: Vector,
    ) -> None:  # fmt: skip
        pass

    return nothing
