"""Running the compiled kernels: one series at a time, or many that share their second moments."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from ....ops.threads import in_threads
from ..dense.model import part_of
from ..dense.serves import dense_serves
from .folding import Folded, first_known, fold, is_known, lengths, with_later, worth_folding
from .individual import individual_log_likelihood, individual_smoother
from .problem import Pass, Problem, allocate
from .shared import run_shared, smooth_shared

if TYPE_CHECKING:
    from ..dense.backward import Equations

Arrays = tuple[np.ndarray, ...]
_FIRST_SLOTS = 256
_LARGE = 12  # states from which on whole matrix products are faster than a loop


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
    """Run the filter; second moments are stored with any of the means."""
    size = problem.sizes
    if size.series == 0 or size.time == 0:
        return allocate(size, size.time)
    parts = None if any(keep) else folded(problem)
    if parts is not None:
        tail = run_forward(parts.tail, keep)
        ll = np.concatenate((parts.result.log_likelihood, tail.log_likelihood), 1)
        worst = np.minimum(parts.result.worst, tail.worst)
        return parts.result._replace(log_likelihood=ll, worst=worst)
    pattern = shared_pattern(problem)
    if pattern is not None:
        return run_shared(problem, pattern, keep)
    return run_alone(problem, keep)


def run_alone(problem: Problem, keep: Keep) -> Pass:
    """As `run_forward`, with moments of its own for each series and diffuse starts unfolded."""
    if dense_serves(problem):
        return _dense(problem, any(keep))
    found = None if any(keep) else individual_log_likelihood(problem)
    return _run(problem, store=any(keep)) if found is None else found


def folded(problem: Problem) -> Folded | None:
    """Filter the head of a problem with a diffuse start; `None` where folding does not pay."""
    if not worth_folding(problem):
        return None
    if dense_serves(problem):
        from ..dense.filtering import run_head

        found = run_head(problem, is_known)
        return fold(problem, *found) if found and found[1] < problem.sizes.time else None
    for length in lengths(problem):
        head = part_of(problem, 0, length)
        result = run_alone(head, SMOOTHER)
        if is_known(result, length - 1):
            return fold(problem, result, first_known(result, length - 1))
    return None


def run_smoother(problem: Problem) -> tuple[Pass, Backward]:
    """Run filter and smoother; of the first result `log_likelihood`, `worst`, `info` are set."""
    pattern = shared_pattern(problem)
    if pattern is not None:
        result, found = smooth_shared(problem, pattern)
        return result, _second_moments(problem, *found)
    if not problem.sizes.k and dense_serves(problem, smoother=True):
        return dense_smoother(problem)
    found = individual_smoother(problem)
    if found is not None:
        return found[0], Backward(*found[1])
    result = run_forward(problem, SMOOTHER)
    return result, _second_moments(problem, *_smooth(problem, result))


def shared_pattern(problem: Problem) -> Pass | None:
    """Run the first of several series, if its second moments are those of all."""
    size = problem.sizes
    if size.series == 0 or size.time == 0 or not shares_covariances(problem):
        return None
    first = _first_series(problem)
    if dense_serves(first):
        pattern = _dense(first, True)
    else:
        pattern = _start_alone(first) or _run(first, store=True)
    return pattern if _regular(first, pattern) else None


def dense_smoother(problem: Problem) -> tuple[Pass, Backward]:
    """As `run_smoother`, for larger states."""
    result, found, _ = _dense_smoother(problem)
    return result, found


def folded_smoother(parts: Folded) -> tuple[tuple[Pass, Backward], tuple[Pass, Backward]] | None:
    """Run the smoother of both parts; `None` where the tail says too much of its start.

    Returns:
        Those of the head, which ends with the first step of the tail, and of the tail.
    """
    result, found, said = _dense_smoother(parts.tail)
    if any(x is None for x in said):
        return None
    U, zeta = (np.stack(x) for x in zip(*(x for x in said if x is not None), strict=True))
    head = with_later(parts.whole, parts.length, U, zeta, parts.tail.start[0][..., 0])
    first = run_alone(head, SMOOTHER)
    return (first, _second_moments(head, *_smooth(head, first))), (result, found)


def _dense_smoother(problem: Problem) -> tuple[Pass, Backward, list[Equations | None]]:
    from ..dense import backward, filtering

    run = filtering.run(problem, filtering.SMOOTHER)
    found, said = backward.smooth(problem, run, cross=True)
    return run.result, Backward(*found), said


def covariances(
    problem: Problem, slot: np.ndarray, factor: np.ndarray, out: np.ndarray | None = None
) -> np.ndarray:
    """`L L'` of the factor in each step's slot, `(series or 1, time, n, n)`."""
    from .scalar.covariances import gram

    cov = np.empty((*slot.shape, *factor.shape[2:])) if out is None else out
    if factor.shape[-1] >= _LARGE:
        return _large_covariances(slot, factor, cov)
    in_threads(gram, problem.sizes._replace(series=slot.shape[0]), slot, factor, cov)
    return cov


def _large_covariances(slot: np.ndarray, factor: np.ndarray, out: np.ndarray) -> np.ndarray:
    """`L L'` of each step as whole products, once for each slot that is used."""
    for s, steps in enumerate(slot):
        if (np.diff(steps) == 1).all():
            L = factor[s, steps[0] : steps[-1] + 1]
            torch.bmm(
                *(torch.from_numpy(x) for x in (L, L.swapaxes(1, 2))), out=torch.from_numpy(out[s])
            )
        else:
            used, place = np.unique(steps, return_inverse=True)
            L = factor[s, used]
            np.take(L @ L.swapaxes(-1, -2), place, 0, out=out[s], mode="clip")
    return out


def _second_moments(
    problem: Problem, mean: np.ndarray, factor: np.ndarray, gain: np.ndarray, shared: np.ndarray
) -> Backward:
    """Covariances from the factors and gains that each step uses."""
    from .scalar.covariances import cross_covariances

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


def _dense(problem: Problem, store: bool) -> Pass:
    from ..dense.filtering import LIKELIHOOD, PATTERN, run

    return run(problem, PATTERN if store else LIKELIHOOD).result


def factor_slots(problem: Problem) -> int:
    """Room for factors: few where they soon become steady, for fresh memory is slow."""
    A, _, LQ, C, _, R = problem.params
    constant = all(x.shape[1] == 1 for x in (A, LQ, C, R))
    # A finite sum means that nothing is missing; one series speaks for all, as this is a guess.
    steady = constant and math.isfinite(problem.y[0].sum())
    return min(_FIRST_SLOTS if steady else problem.sizes.time, problem.sizes.time)


def run_with(problem: Problem, out: Pass) -> Pass:
    """Run the filter series by series into `out`, whose means have a step each or are scratch."""
    from .scalar.filter import forward_kernel, forward_space

    size = problem.sizes
    store = out.a.shape[1] == size.time
    flat = tuple(x.reshape(size.series, -1) for x in (problem.y, out.a, out.m, out.E))
    arguments = (problem.params, problem.start, problem.y, tuple(out), flat, store)
    kernel = forward_kernel(size.constants)
    in_threads(kernel, size, *arguments, space=lambda: forward_space(*size[2:]))
    return out


def shares_covariances(problem: Problem) -> bool:
    """True when all series have the same proper model and the same pattern of gaps."""
    size = problem.sizes
    if (
        size.series == 1
        or size.k
        or any(x.shape[0] > 1 for x in (*problem.params, problem.start[1]))
    ):
        return False
    # A finite sum means that nothing is missing.
    if math.isfinite(torch.from_numpy(problem.y).sum()):
        return True
    gaps = np.isnan(problem.y)
    return bool((gaps == gaps[:1]).all())


def _first_series(problem: Problem) -> Problem:
    return problem._replace(y=problem.y[:1], sizes=problem.sizes._replace(series=1))


def _start_alone(first: Problem) -> Pass | None:
    """Second moments of a complete series whose gain is soon steady, from its first steps."""
    T = first.sizes.time
    if not factor_slots(first) == _FIRST_SLOTS < T:
        return None
    short = first._replace(
        y=first.y[:, :_FIRST_SLOTS], sizes=first.sizes._replace(time=_FIRST_SLOTS)
    )
    found = run_with(short, allocate(short.sizes, _FIRST_SLOTS))
    last = found.slot[0, -1]
    if last != found.slot[0, -2]:
        return None
    return found._replace(slot=np.append(found.slot, np.full((1, T - _FIRST_SLOTS), last), 1))


def _regular(first: Problem, pattern: Pass) -> bool:
    """True when every observed component had a pivot of its own."""
    seen = (~np.isnan(first.y[0])).sum(-1)
    return bool((pattern.count[0][pattern.slot[0]] == seen).all())


def _smooth(problem: Problem, result: Pass) -> Arrays:
    slots, T = result.F.shape[1], problem.sizes.time
    found = _smooth_with(problem, result, min(T, 3 * slots))
    return found if (found[3] >= 0).all() else _smooth_with(problem, result, T)


def _smooth_with(problem: Problem, result: Pass, slots: int) -> Arrays:
    from .scalar.smoother import backward_kernel, backward_space

    size, r = problem.sizes, result
    factor, gain = np.empty((2, size.series, slots, size.n, size.n))
    mean, shared = np.empty_like(r.m), np.zeros_like(r.slot)
    stored = (r.slot, r.a, r.L, r.m, r.F, r.G, r.chol, r.E, r.count)
    arguments = (problem.params, problem.y, stored, (mean, factor, gain, shared))
    kernel = backward_kernel(size.constants)
    in_threads(kernel, size, *arguments, space=lambda: backward_space(*size[2:]))
    return mean, factor, gain, shared
