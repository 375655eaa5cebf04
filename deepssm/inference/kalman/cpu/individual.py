"""Series with gaps of their own, eight at a time: which problems, and how they are laid out.

Each entry of a SIMD vector takes a series or, where there are few, a stretch of one. A stretch
starts from the model's first state some steps early and ends some steps late, by when filter and
smoother have forgotten how they started. This is checked at every seam, to the last digits: each
stretch must arrive at what the next one started to count from. Else the scalar loop does the work.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ....ops.arrays import SIMD_WIDTH
from ....ops.threads import in_threads
from .problem import Pass, Problem, Sizes, allocate

Arrays = tuple[np.ndarray, ...]

# Compiling takes seconds, once; larger states outgrow the fastest memory.
_STEPS_WORTH_SIMD, _MOST_ROWS = 10_000, 24
# Share of steps with gaps below which the scalar loop, whose gains become steady, is faster.
_FREQUENT, _SAMPLE = 0.01, 64
# Steps a stretch starts early, at the least, and as a share of the series.
_EARLY, _SHARE = 128, 64
_SEAM, _ROUNDING = 1e-12, 16 * np.finfo(float).eps
_CACHE_BYTES = 1 << 22  # bytes of what the smoother reads again


class Plan(NamedTuple):
    """Which part of the data each entry takes, `(groups, 8)` unless said otherwise.

    Attributes:
        series: Which series. origin: The time of its first step.
        begin: First of its steps that counts. until: First that does not count any more.
        steps: Number of steps, the same in all entries.
        seam: Two steps; a entry is at the second where the next entry is at the first.
    """

    series: np.ndarray
    origin: np.ndarray
    begin: np.ndarray
    until: np.ndarray
    steps: int
    seam: tuple[int, int]


def individual_log_likelihood(problem: Problem) -> Pass | None:
    """Return log-likelihoods and `worst`, or `None` where the scalar loop should do the work.

    Args:
        problem: A model and its data.
    """
    return _run(problem, None, None) if has_individual_moments(problem) else None


def individual_filter(problem: Problem) -> tuple[Pass, Arrays] | None:
    """Filter; return also filtered and predicted means, then their covariances.

    Args:
        problem: A model and its data.
    """
    if not has_individual_moments(problem):
        return None
    (mean, predicted), (cov, predicted_cov) = _pairs(problem.sizes)
    moments = (mean, predicted, cov, predicted_cov)
    result = _run(problem, moments, None)
    return result and (result, tuple(_shaped(x, problem.sizes) for x in moments))


def individual_smoother(problem: Problem) -> tuple[Pass, Arrays] | None:
    """Smooth; return also means, covariances and lag-one covariances.

    Args:
        problem: A model and its data.
    """
    if not has_individual_moments(problem):
        return None
    (mean, _), (cov, cross) = _pairs(problem.sizes)
    cross[:: problem.sizes.time] = 0.0
    moments = (mean, cov, cross)
    result = _run(problem, None, moments)
    return result and (result, tuple(_shaped(x, problem.sizes) for x in moments))


def has_individual_moments(problem: Problem) -> bool:
    """True for long data of small states, most of whose steps have second moments of their own."""
    size = problem.sizes
    if not size.series or size.k or size.n + size.p > _MOST_ROWS:
        return False
    if size.series * size.time < _STEPS_WORTH_SIMD:
        return False
    if size.time < 3 or not (_varies(problem) or _gaps_are_frequent(problem.y)):
        return False
    R = problem.params[5]
    return bool(np.diagonal(R, axis1=-2, axis2=-1).all())


def _varies(problem: Problem) -> bool:
    return any(problem.params[i].shape[1] > 1 for i in (0, 2, 3, 5))


def _gaps_are_frequent(y: np.ndarray) -> bool:
    """Look at a sample; a finite sum means that nothing is missing there, and is found fastest."""
    sample = y[:: max(1, len(y) // _SAMPLE), :: max(1, y.shape[1] // _SAMPLE)]
    if math.isfinite(sample.sum()):
        return False
    return bool(np.isnan(sample.sum(-1)).mean() > _FREQUENT)


def plan_of(size: Sizes, *, late: bool) -> Plan:
    """Deal series, or stretches of a few, to entries.

    Args:
        size: Sizes of the problem.
        late: Whether stretches must end late, for a smoother.
    """
    parts = max(1, SIMD_WIDTH // size.series)
    early = max(_EARLY, size.time // _SHARE)
    length = (size.time - 1 - early * (1 + late)) // parts
    if length < early:
        parts = 1
    groups = -(-size.series * parts // SIMD_WIDTH)
    entry = np.arange(SIMD_WIDTH * groups).reshape(groups, SIMD_WIDTH)
    series, part = np.minimum(entry // parts, size.series - 1), entry % parts
    used = entry < size.series * parts
    if parts == 1:
        until = np.where(used, size.time, 0)
        return Plan(series, 0 * entry, 0 * entry, until, size.time, (-1, -1))
    first = size.time - 1 - length * parts - early * late
    steps = size.time - length * (parts - 1)
    begin = np.where(part > 0, first, 0)
    until = np.where(part < parts - 1, first + length, steps)
    return Plan(series, length * part, begin, until * used, steps, (first, first + length))


def _run(problem: Problem, filtered: Arrays | None, smoothed: Arrays | None) -> Pass | None:
    from ....ops.simd import simd_array
    from .vector.individual_filter import filter_space, individual_forward
    from .vector.individual_smoother import individual_backward, smoother_space

    size, (sources, start, mixed, varying) = problem.sizes, _laid_out(problem)
    n, sizes = size.n, (size.n, size.p, size.q)
    plan = plan_of(size, late=smoothed is not None)
    groups, block = len(plan.series), plan.steps * (n * n + 2 * n)
    ll, worst = np.empty((size.series * size.time, 1)), np.empty((groups, SIMD_WIDTH))
    at_once = groups if smoothed is None else max(1, _CACHE_BYTES // (8 * SIMD_WIDTH * block))
    trace = simd_array(1 if smoothed is None else min(at_once, groups) * block)
    seams = [simd_array(n * n + n) for _ in range(4)]
    keep = (filtered is not None, smoothed is not None, mixed, varying)
    outputs = (ll, worst, filtered or (ll,) * 4, trace, (seams[0], seams[1]))
    for base in range(0, groups, at_once):
        some = size._replace(series=min(at_once, groups - base))
        arguments = (base, tuple(plan), sources, start, problem.y, outputs, keep)
        in_threads(individual_forward, some, *arguments, space=lambda: filter_space(*sizes))
        if smoothed is not None:
            outputs_back = (*smoothed, trace, (seams[2], seams[3]))
            arguments = (base, tuple(plan), sources, problem.y, outputs_back, keep)
            space = partial(_both, filter_space, smoother_space, sizes)
            in_threads(individual_backward, some, *arguments, space=space)
    if (worst < 0).any() or plan.seam[0] >= 0 and not _forgotten(plan, n, seams):
        return None
    parts = plan.series.size // size.series if plan.seam[0] >= 0 else 1
    least = worst.reshape(-1)[: size.series * parts].reshape(-1, parts).min(-1)
    result = allocate(size._replace(time=0), 0)
    return result._replace(log_likelihood=ll.reshape(size.series, size.time), worst=least)


def _both(
    first: Callable[..., Any], second: Callable[..., Any], sizes: tuple[int, int, int]
) -> tuple[Any, ...]:
    return first(*sizes), *second(*sizes)


def _pairs(size: Sizes) -> tuple[np.ndarray, np.ndarray]:
    """Room for two means and two covariances, in as few blocks of fresh memory as possible."""
    rows = size.series * size.time
    return np.empty((2, rows, size.n)), np.empty((2, rows, size.n**2))


def _shaped(x: np.ndarray, size: Sizes) -> np.ndarray:
    """Means with the axis for slopes that the scalar loop has; covariances as matrices."""
    last = (size.n, 1 if x.shape[-1] == size.n and size.n > 1 else size.n)
    return x.reshape(size.series, size.time, *last)


def _laid_out(problem: Problem) -> tuple[Arrays, Arrays, bool, bool]:
    """Entries of each parameter in a row; whether `R` is not diagonal, whether any varies."""
    R = problem.params[5]
    mixed = bool((R != R * np.eye(R.shape[-1])).any())
    varying = any(x.shape[1] > 1 for x in problem.params)
    sources = tuple(x.reshape(*x.shape[:2], -1) for x in problem.params)
    start = tuple(x.reshape(x.shape[0], 1, -1) for x in problem.start)
    return sources, start, mixed, varying


def _forgotten(plan: Plan, n: int, seams: list[np.ndarray]) -> bool:
    """True when each stretch arrives at what the next one started to count from."""
    later = np.flatnonzero(plan.begin[0, 1:] > 0) + 1
    seen = [x.reshape(-1, n, SIMD_WIDTH)[..., later - i % 2] for i, x in enumerate(seams)]
    (mean, L), (other, M) = ((x[0], x[1:]) for x in seen[:2])
    deviation = np.sqrt(np.square(L).sum(1))
    zeros = np.zeros_like(mean)
    size = np.divide(np.abs(mean), deviation, out=zeros, where=deviation > 0).max(0)
    limit = _SEAM + _ROUNDING * size
    close = (np.abs(mean - other) <= limit * deviation).all()
    close &= (np.abs(L - M) <= _SEAM * deviation[:, None]).all()
    before, after = seen[2:]
    weights = np.append(deviation, np.ones_like(deviation[:1]), 0)[:, None]
    scale = 1.0 + np.abs(before[:n] * weights[:n]).sum(0)
    close &= (np.abs(before - after) * weights <= limit * scale).all()
    return bool(close)
