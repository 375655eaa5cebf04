"""Running the compiled kernels: one series at a time, or many that share their second moments."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import numpy as np

from .kalman_arrays import Pass, Problem, allocate, in_threads

Arrays = tuple[np.ndarray, ...]
# Steps with one gain that pay for the matrices of their blocks.
_WORTHWHILE = 16
_FEW = 256


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


class Keep(NamedTuple):
    """Which means of every step a caller needs: predicted, filtered, innovations."""

    predicted: bool
    filtered: bool
    innovations: bool


NOTHING, MOMENTS = Keep(False, False, False), Keep(True, True, False)
SMOOTHER, SCORE = Keep(True, True, True), Keep(True, False, True)


def run_forward(problem: Problem, keep: Keep) -> Pass:
    """Run the filter; second moments are kept with any of the means."""
    size = problem.sizes
    if size.series == 0 or size.time == 0:
        return allocate(size, size.time)
    if alike(problem):
        first = _first_series(problem)
        pattern = _run(first, store=True)
        if _regular(first, pattern):
            return _run_shared(problem, pattern, keep)
    return _run(problem, store=any(keep))


def shares_moments(problem: Problem, result: Pass) -> bool:
    """True when the second moments of the first series are those of all."""
    return problem.sizes.series > result.slot.shape[0]


def covariances(
    problem: Problem, slot: np.ndarray, factor: np.ndarray, out: np.ndarray | None = None
) -> np.ndarray:
    """`L L'` of the factor in each step's slot, `(series or 1, time, n, n)`."""
    from .kalman_moments import gram

    cov = np.empty((*slot.shape, *factor.shape[2:])) if out is None else out
    in_threads(gram, problem.sizes._replace(series=slot.shape[0]), slot, factor, cov)
    return cov


def run_backward(problem: Problem, result: Pass) -> Backward:
    """Run the smoother on the results of `run_forward(..., store=True)`."""
    from .kalman_moments import cross_covariances

    alike = shares_moments(problem, result)
    smoother = _smooth_shared if alike else _smooth
    mean, factor, gain, shared = smoother(problem, result)
    room = np.empty((2, *shared.shape, *factor.shape[2:]))
    cov, cross = room[0], room[1]
    covariances(problem, shared, factor, cov)
    cross[:, :1] = 0.0
    size = problem.sizes._replace(series=cov.shape[0])
    in_threads(cross_covariances, size, shared, gain, cov, cross)
    return Backward(mean, cov, cross)


def _run(problem: Problem, *, store: bool) -> Pass:
    size = problem.sizes
    if not store:
        return run_with(problem, allocate(size, 2))
    out = run_with(problem, allocate(size, size.time, factor_slots(problem)))
    return run_with(problem, allocate(size, size.time)) if (out.worst < 0).any() else out


def factor_slots(problem: Problem) -> int:
    """Room for factors: few where they soon repeat themselves, for fresh memory is slow."""
    A, _, LQ, C, _, R = problem.params
    constant = all(x.shape[1] == 1 for x in (A, LQ, C, R))
    # A finite sum means that nothing is missing; one series speaks for all, as this is a guess.
    repeats = constant and math.isfinite(problem.y[0].sum())
    return min(_FEW if repeats else problem.sizes.time, problem.sizes.time)


def run_with(problem: Problem, out: Pass) -> Pass:
    """Run the filter series by series into `out`, whose means have a step each or are scratch."""
    from .kalman_kernels import forward_kernel, forward_space

    size = problem.sizes
    store = out.a.shape[1] == size.time
    flat = tuple(x.reshape(size.series, -1) for x in (problem.y, out.a, out.m, out.E))
    arguments = (problem.params, problem.start, problem.y, tuple(out), flat, store)
    kernel = forward_kernel(size.constants)
    in_threads(kernel, size, *arguments, space=lambda: forward_space(*size[2:]))
    return out


def alike(problem: Problem) -> bool:
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


def _run_shared(problem: Problem, pattern: Pass, keep: Keep) -> Pass:
    from .kalman_shared import forward_tiles, shared_forward

    size = problem.sizes
    S, T, n, p = size.series, size.time, size.n, size.p
    ll = np.empty((S, T))
    a, m = _means(problem, keep)
    E = np.empty((S, T if keep.innovations else 1, p, 1))
    moments = (pattern.slot, pattern.G, pattern.chol, pattern.rows, pattern.count)
    flat = tuple(x.reshape(S, -1) for x in (problem.y, a, m, E))
    tail, steps = _settled_from(problem, pattern), np.empty(T, np.int64)
    arguments = (problem.params, problem.start[0], moments, problem.y, (ll, a, m, E), flat)
    kernel = shared_forward((n, p) if size.constants else None)
    space = partial(forward_tiles, n, p)
    in_threads(kernel, size, *arguments, tuple(keep), tail, steps, space=space)
    info = np.empty((S, T, 0, 1))
    return pattern._replace(log_likelihood=ll, a=a, m=m, E=E, info=info)


def _means(problem: Problem, keep: Keep) -> Arrays:
    S, T, n = problem.sizes[:3]
    if keep.predicted and keep.filtered:
        # One block for both, since a fresh page of memory costs as much as hundreds of numbers.
        return tuple(np.empty((2, S, T, n, 1)))
    return tuple(np.empty((S, T if kept else 1, n, 1)) for kept in keep[:2])


def _settled_from(problem: Problem, pattern: Pass) -> int:
    """First step from which on every gain is that of the last step, or the number of steps."""
    slot, T = pattern.slot[0], problem.sizes.time
    if any(x.shape[1] > 1 for x in problem.params) or pattern.count[0, slot[-1]] < problem.sizes.p:
        return T
    other = np.flatnonzero(slot != slot[-1])
    tail = max(1, int(other[-1]) + 1 if other.size else 0)
    return tail if T - tail >= _WORTHWHILE else T


def _smooth(problem: Problem, result: Pass) -> Arrays:
    slots, T = result.F.shape[1], problem.sizes.time
    found = _smooth_with(problem, result, min(T, 3 * slots))
    return found if (found[3] >= 0).all() else _smooth_with(problem, result, T)


def _smooth_with(problem: Problem, result: Pass, slots: int) -> Arrays:
    from .kalman_backward import backward_kernel, backward_space

    size, r = problem.sizes, result
    factor, gain = np.empty((2, size.series, slots, size.n, size.n))
    mean, shared = np.empty_like(r.m), np.zeros_like(r.slot)
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
    mean, (factor, gain) = np.empty_like(r.m), np.empty((2, 1, T, n, n))
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
