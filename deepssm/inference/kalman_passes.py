"""Running the compiled kernels: one series at a time, or many that share their second moments."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .kalman_arrays import Pass, Problem, Sizes, allocate, in_threads

Arrays = tuple[np.ndarray, ...]


class Backward(NamedTuple):
    """What the smoother leaves behind.

    Attributes:
        mean: Smoothed mean and slopes in the diffuse coefficients, `(series, time, n, 1 + k)`.
        cov: Smoothed covariance given those, `(series or 1, time, n, n)`.
        cross: Lag-one covariance, entry 0 zero, `(series or 1, time, n, n)`.
    """

    mean: np.ndarray
    cov: np.ndarray
    cross: np.ndarray


def run_forward(problem: Problem, *, store: bool) -> Pass:
    """Run the filter; keep every step only if `store`."""
    size = problem.sizes
    if size.series == 0 or size.time == 0:
        return allocate(size, size.time)
    if _alike(problem):
        first = _first_series(problem)
        pattern = _run(first, store=True)
        if _regular(first, pattern):
            return _run_shared(problem, pattern, store=store)
    return _run(problem, store=store)


def shares_moments(problem: Problem, result: Pass) -> bool:
    """True when the second moments of the first series are those of all."""
    return problem.sizes.series > result.slot.shape[0]


def covariances(problem: Problem, slot: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """`L L'` of the factor in each step's slot, `(series or 1, time, n, n)`."""
    from .kalman_moments import gram

    cov = np.empty((*slot.shape, *factor.shape[2:]))
    in_threads(gram, problem.sizes._replace(series=slot.shape[0]), slot, factor, cov)
    return cov


def run_backward(problem: Problem, result: Pass) -> Backward:
    """Run the smoother on the results of `run_forward(..., store=True)`."""
    from .kalman_moments import cross_covariances

    alike = shares_moments(problem, result)
    smoother = _smooth_shared if alike else _smooth
    mean, factor, gain, shared = smoother(problem, result)
    cov = covariances(problem, shared, factor)
    cross = np.zeros_like(cov)
    size = problem.sizes._replace(series=cov.shape[0])
    in_threads(cross_covariances, size, shared, gain, cov, cross)
    return Backward(mean, cov, cross)


def _run(problem: Problem, *, store: bool) -> Pass:
    from .kalman_kernels import forward_kernel, forward_space

    size = problem.sizes
    out = allocate(size, size.time if store else 2)
    arguments = (problem.params, problem.start, problem.y, tuple(out), store)
    kernel = forward_kernel(size.constants)
    in_threads(kernel, size, *arguments, space=lambda: forward_space(*size[2:]))
    return out


def _alike(problem: Problem) -> bool:
    """True when all series have the same proper model and the same pattern of gaps."""
    size = problem.sizes
    if size.series == 1 or size.k or any(x.shape[0] > 1 for x in problem.params + problem.start):
        return False
    gaps = np.isnan(problem.y)
    return bool((gaps == gaps[:1]).all())


def _first_series(problem: Problem) -> Problem:
    return problem._replace(y=problem.y[:1], sizes=problem.sizes._replace(series=1))


def _regular(first: Problem, pattern: Pass) -> bool:
    """True when every observed component had a pivot of its own."""
    seen = (~np.isnan(first.y[0])).sum(-1)
    return bool((pattern.count[0][pattern.slot[0]] == seen).all())


def _run_shared(problem: Problem, pattern: Pass, *, store: bool) -> Pass:
    from .kalman_shared import forward_tiles, shared_forward

    size = problem.sizes
    out = allocate(size if store else Sizes(size.series, size.time, 0, 0, 0, 0), size.time)
    moments = (pattern.slot, pattern.G, pattern.chol, pattern.rows, pattern.count)
    arguments = (problem.params, problem.start[0], moments, problem.y)
    kept = (out.log_likelihood, out.a, out.m, out.E)
    n, p = size.n, size.p
    kernel = shared_forward((n, p) if size.constants else None)
    in_threads(kernel, size, *arguments, kept, store, space=lambda: forward_tiles(n, p))
    return pattern._replace(
        log_likelihood=out.log_likelihood, a=out.a, m=out.m, E=out.E, info=out.info
    )


def _smooth(problem: Problem, result: Pass) -> Arrays:
    from .kalman_backward import backward_kernel, backward_space

    size, r = problem.sizes, result
    mean, factor, gain = np.empty_like(r.m), np.empty_like(r.F), np.empty_like(r.F)
    shared = np.zeros_like(r.slot)
    stored = (r.slot, r.a, r.L, r.m, r.F, r.G, r.chol, r.E, r.count)
    arguments = (problem.params, problem.y, stored, (mean, factor, gain, shared))
    kernel = backward_kernel(size.constants)
    in_threads(kernel, size, *arguments, space=lambda: backward_space(*size[2:]))
    return mean, factor, gain, shared


def _smooth_shared(problem: Problem, result: Pass) -> Arrays:
    from .kalman_backward import backward_space
    from .kalman_shared import backward_maps, lanes, shared_backward

    size, r = problem.sizes, result
    T, n, p = size.time, size.n, size.p
    mean, factor, gain = np.empty_like(r.m), np.empty_like(r.F), np.empty_like(r.F)
    shared, maps = np.zeros_like(r.slot), _blocks(T, (n, n), (n, p), (n, n))
    moments = (r.slot, r.L, r.F, r.G, r.chol, r.count)
    first = _first_series(problem)
    outputs = (*maps, factor, gain, shared)
    arguments = (first.params, first.y, moments, outputs)
    in_threads(backward_maps, first.sizes, *arguments, space=lambda: backward_space(*size[2:]))
    arguments = (maps, shared, r.slot, r.count, r.m, r.E, mean)
    in_threads(shared_backward, size, *arguments, space=lambda: lanes(n, n, p))
    return mean, factor, gain, shared


def _blocks(time: int, *shapes: tuple[int, ...]) -> Arrays:
    return tuple(np.empty((time, *shape)) for shape in shapes)
