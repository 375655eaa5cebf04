"""The moments a filter returns, from the factors its kernel leaves behind.

Where every series has factors of its own at every step, a few series at a time are filtered and
their covariances written, so that the factors live in one small piece of memory.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ....core.diffuse import Diffuse, combined
from ....core.gaussian import outer
from ..conditioning import Answer
from ..dense.serves import dense_serves
from ..diffuse import (
    cross_spread,
    diffuse_moments,
    posterior_mix,
    proper_and_diffuse,
    steps_left_open,
)
from .individual import has_individual_moments, individual_filter
from .problem import Pass, Problem, allocate
from .run import (
    MOMENTS,
    Backward,
    covariances,
    factor_slots,
    folded,
    folded_smoother,
    run_forward,
    run_smoother,
    run_with,
    shares_covariances,
)

_SERIES_PER_THREAD = 16


def filtered(problem: Problem) -> tuple[Answer, Pass]:
    """Run the filter; of the second result `log_likelihood`, `worst` and `info` may be used."""
    found = (
        individual_filter(problem)
        if has_individual_moments(problem) and not shares_covariances(problem)
        else None
    )
    if found is not None:
        result, (m, a, cov, predicted_cov) = found[0], map(torch.from_numpy, found[1])
        ll = torch.from_numpy(result.log_likelihood)
        return Answer(m[..., 0], cov, a[..., 0], predicted_cov, ll), result
    parts = folded(problem)
    if parts is not None:
        head, (tail, rest) = moments(parts.head, parts.result), filtered(parts.tail)
        answer = Answer(*(torch.cat(x, 1) for x in zip(head, _each(tail, head), strict=True)))
        return answer, parts.result._replace(worst=np.minimum(parts.result.worst, rest.worst))
    if dense_serves(problem) and not shares_covariances(problem):
        return _of_larger_states(problem)
    size = problem.sizes
    if size.series > _SERIES_PER_THREAD and size.time > 0 and not size.k:
        if factor_slots(problem) == size.time and not shares_covariances(problem):
            return _in_turns(problem)
    result = run_forward(problem, MOMENTS)
    return moments(problem, result), result


def _each(answer: Answer, like: Answer) -> Answer:
    """Repeat moments that all series share."""
    return Answer(*(x.expand(y.shape[0], *x.shape[1:]) for x, y in zip(answer, like, strict=True)))


class SmoothedMoments(NamedTuple):
    """Of all steps, `(series, time, ...)`.

    Attributes:
        mean: Means. cov: Covariances. cross: Lag-one covariances, entry 0 zero.
        diffuse: What a diffuse start leaves open.
    """

    mean: Tensor
    cov: Tensor
    cross: Tensor
    diffuse: Diffuse | None


def smoothed(problem: Problem) -> tuple[SmoothedMoments, Pass]:
    """Run the smoother; of the second result `log_likelihood`, `worst` and `info` may be used."""
    parts = folded(problem) if dense_serves(problem, smoother=True) else None
    both = None if parts is None else folded_smoother(parts)
    if parts is None or both is None:
        result, found = run_smoother(problem)
        return _smoothed(problem, result, found), result
    head, tail = both
    first = _smoothed(parts.whole, *head)
    last = (torch.from_numpy(x) for x in (tail[1].mean[..., 0], tail[1].cov, tail[1].cross))
    # The head ends with the tail's first step; the lag-one covariance into it is the head's.
    mean, cov, cross = (torch.cat((x[:, :-1], y), 1) for x, y in zip(first[:3], last, strict=True))
    cross[:, parts.length] = first.cross[:, -1]
    passes = (parts.result, tail[0])
    ll = np.concatenate([x.log_likelihood for x in passes], 1)
    worst = np.minimum(*(x.worst for x in passes))
    found = SmoothedMoments(mean, cov, cross, None)
    return found, parts.result._replace(log_likelihood=ll, worst=worst)


def _smoothed(problem: Problem, result: Pass, found: Backward) -> SmoothedMoments:
    columns, cov, cross = (torch.from_numpy(x) for x in found)
    if problem.sizes.k == 0 or problem.sizes.time == 0:
        return SmoothedMoments(columns[..., 0], cov, cross, None)
    mix, undetermined = posterior_mix(torch.from_numpy(result.info[:, -1:]))
    given = columns[..., 1:], cov, mix[..., 1:, 1:], undetermined
    parts = proper_and_diffuse(*given)
    mean = (columns @ mix[..., :1])[..., 0]
    cross = cross_spread(given[0], cross, *given[2:])
    left = parts if bool(undetermined.any()) else None
    return SmoothedMoments(mean, combined(*parts), cross, left)


def moments(problem: Problem, result: Pass) -> Answer:
    """Return filtered and predicted moments of a run that stored its means."""
    room = np.empty((2, *result.slot.shape, *result.F.shape[2:]))
    cov = covariances(problem, result.slot, result.F, room[0])
    return _answer(problem, result, cov, covariances(problem, result.slot, result.L, room[1]))


def _of_larger_states(problem: Problem) -> tuple[Answer, Pass]:
    from ..dense import filtering

    if problem.sizes.k:
        result = filtering.run(problem, filtering.SMOOTHER).result
        return moments(problem, result), result
    result = filtering.run(problem, filtering.MOMENTS).result
    cov, predicted_cov = (filtering.spread_slots(result.slot, x) for x in (result.F, result.L))
    return _answer(problem, result, cov, predicted_cov), result


def _answer(problem: Problem, result: Pass, filtered: np.ndarray, predicted: np.ndarray) -> Answer:
    a, m = torch.from_numpy(result.a), torch.from_numpy(result.m)
    cov, predicted_cov = torch.from_numpy(filtered), torch.from_numpy(predicted)
    ll = torch.from_numpy(result.log_likelihood)
    if problem.sizes.k == 0:
        return Answer(m[..., 0], cov, a[..., 0], predicted_cov, ll)
    info = torch.from_numpy(result.info)
    before = torch.cat((torch.zeros_like(info[:, :1]), info[:, :-1]), 1)
    now = diffuse_moments(m, cov, *posterior_mix(info))
    return Answer(*now, *diffuse_moments(a, predicted_cov, *posterior_mix(before)), ll)


def diffuse_parts(problem: Problem, result: Pass) -> tuple[Diffuse | None, Diffuse | None]:
    """Return what a diffuse start leaves open of filtered and predicted states.

    Args:
        problem: A model with a diffuse start.
        result: A run that stored its means.
    """
    if problem.sizes.time == 0 or problem.sizes.series == 0:
        return None, None
    info = torch.from_numpy(result.info)
    count = steps_left_open(posterior_mix(info)[1])
    before = torch.cat((torch.zeros_like(info[:, :1]), info[:, :count]), 1)
    return (
        _open_part(result, result.m, result.F, info[:, :count]) if count else None,
        _open_part(result, result.a, result.L, before[:, : problem.sizes.time]),
    )


def _open_part(result: Pass, mean: np.ndarray, factor: np.ndarray, info: Tensor) -> Diffuse:
    steps = info.shape[1]
    series = np.arange(mean.shape[0])[:, None]
    cov = outer(torch.from_numpy(factor[series, result.slot[:, :steps]]))
    mix, undetermined = posterior_mix(info)
    slopes = torch.from_numpy(mean[:, :steps, :, 1:])
    return proper_and_diffuse(slopes, cov, mix[..., 1:, 1:], undetermined)


def _in_turns(problem: Problem) -> tuple[Answer, Pass]:
    S, T, n = problem.sizes.series, problem.sizes.time, problem.sizes.n
    covs, means = np.empty((2, S, T, n, n)), np.empty((2, S, T, n, 1))
    ll, worst = np.empty((S, T)), np.ones(S)
    at_once = _SERIES_PER_THREAD * torch.get_num_threads()
    scratch = allocate(problem.sizes._replace(series=at_once), T)
    for first in range(0, S, at_once):
        own = slice(first, first + at_once)
        some = _part(problem, own)
        room = Pass(*(x[: some.sizes.series] for x in scratch))
        out = room._replace(
            log_likelihood=ll[own], worst=worst[own], a=means[1, own], m=means[0, own]
        )
        run_with(some, out)
        covariances(some, out.slot, out.F, covs[0, own])
        covariances(some, out.slot, out.L, covs[1, own])
    (mean, predicted_mean), (cov, predicted_cov) = map(torch.from_numpy, (means[..., 0], covs))
    answer = Answer(mean, cov, predicted_mean, predicted_cov, torch.from_numpy(ll))
    return answer, scratch._replace(log_likelihood=ll, worst=worst)


def _part(problem: Problem, own: slice) -> Problem:
    def part(x: np.ndarray) -> np.ndarray:
        return x if x.shape[0] == 1 else x[own]

    y = problem.y[own]
    mean, factor = problem.start
    return problem._replace(
        params=tuple(map(part, problem.params)),
        start=(part(mean), part(factor)),
        y=y,
        sizes=problem.sizes._replace(series=len(y)),
    )
