"""The compiled exact filter on whole series: results with the data's batch, dtype and device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...core.diffuse import Diffuse
from ...core.model import LinearParameters
from ...core.results import Filtered, Smoothed
from .conditioning import Answer, cancels, conditioning_check
from .cpu import moments
from .cpu.problem import Pass, Problem, prepare
from .diffuse import hardly_determined


def filtered(parameters: LinearParameters, y: Tensor) -> Filtered:
    """Return filtered and predicted moments and the log-likelihood of each step.

    Args:
        parameters: The model.
        y: `(*batch, time, obs)`, NaN where missing.
    """
    problem = prepare(parameters, y)
    answer, result = moments.filtered(problem)
    found = Filtered(
        *(_restore(x, problem, y) for x in answer),
        ill_conditioned=_ill_conditioned(parameters, y, problem, result, answer, _filter_again),
    )
    if problem.sizes.k:
        now, before = moments.diffuse_parts(problem, result)
        found.diffuse = _restore_diffuse(now, problem, y)
        found.predicted_diffuse = _restore_diffuse(before, problem, y)
    return found


def smoothed(parameters: LinearParameters, y: Tensor) -> Smoothed:
    """Return smoothed moments and lag-one covariances; arguments as in `filtered`."""
    problem = prepare(parameters, y)
    (mean, cov, cross, diffuse), result = moments.smoothed(problem)
    moved = Answer(mean, cov, mean, cov, torch.from_numpy(result.log_likelihood))
    answer = Smoothed(
        mean=_restore(mean, problem, y),
        cov=_restore(cov, problem, y),
        cross_cov=_restore(cross, problem, y),
        log_likelihood=_restore(torch.from_numpy(result.log_likelihood), problem, y),
        ill_conditioned=_ill_conditioned(parameters, y, problem, result, moved, _smooth_again),
    )
    answer.diffuse = _restore_diffuse(diffuse, problem, y)
    return answer


def smoothed_mean(parameters: LinearParameters, y: Tensor) -> Tensor:
    """Return smoothed means alone, `(*batch, time, state)`; arguments as in `filtered`."""
    problem = prepare(parameters, y)
    return _restore(moments.smoothed(problem)[0].mean, problem, y)


def _ill_conditioned(
    parameters: LinearParameters,
    y: Tensor,
    problem: Problem,
    result: Pass,
    answer: Answer,
    again: Callable[[LinearParameters, Tensor], Answer],
) -> Tensor:
    bad, worst = _certainly_bad(problem, result), torch.from_numpy(result.worst)
    suspicious = None
    if max(problem.sizes.n, problem.sizes.p) > 1 and problem.sizes.time and problem.sizes.series:
        A, _, LQ, C, _, R = problem.params
        suspicious = torch.from_numpy(cancels((A, LQ), (C, R), answer))
    bad = conditioning_check(bad, worst, parameters, y, again, answer, suspicious)
    return bad.reshape(problem.batch).to(y.device)


def _filter_again(parameters: LinearParameters, y: Tensor) -> Answer:
    return moments.filtered(prepare(parameters, y))[0]


def _smooth_again(parameters: LinearParameters, y: Tensor) -> Answer:
    (mean, cov, _, _), result = moments.smoothed(prepare(parameters, y))
    return Answer(mean, cov, mean, cov, torch.from_numpy(result.log_likelihood))


def _restore_diffuse(found: Diffuse | None, problem: Problem, y: Tensor) -> Diffuse | None:
    return found if found is None else Diffuse(*(_restore(x, problem, y) for x in found))


def _restore(x: Tensor, problem: Problem, y: Tensor) -> Tensor:
    """Give back the batch axes, the dtype and the device of the data."""
    x = x.expand(problem.sizes.series, *x.shape[1:]) if x.shape[:1] == (1,) else x
    return x.reshape(*problem.batch, *x.shape[1:]).to(y.device, y.dtype)


def _certainly_bad(problem: Problem, result: Pass) -> Tensor:
    """Redundant rows, impossible data, diffuse directions that round-off may have determined."""
    bad = torch.from_numpy(result.worst == 0.0).expand(problem.sizes.series)
    # A sum is finite only if every step is, and costs a fraction of looking at each.
    bad = bad | ~torch.from_numpy(result.log_likelihood).sum(-1).isfinite()
    if problem.sizes.k and problem.sizes.time:
        bad = bad | hardly_determined(torch.from_numpy(result.info[:, -1, :, :-1]))
    return bad
