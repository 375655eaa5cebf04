"""The compiled exact filter on whole series: results with the data's batch, dtype and device."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.model import LinearParameters
from ...core.results import Filtered, Smoothed
from .conditioning import Answer, conditioning_check
from .cpu import moments
from .cpu.problem import Pass, Problem, prepare
from .diffuse import posterior_mix


def filtered(parameters: LinearParameters, y: Tensor) -> Filtered:
    """Return filtered and predicted moments and the log-likelihood of each step.

    Args:
        parameters: The model.
        y: `(*batch, time, obs)`, NaN where missing.
    """
    problem = prepare(parameters, y)
    answer, result = moments.filtered(problem)
    return Filtered(
        *(_restore(x, problem, y) for x in answer),
        ill_conditioned=_ill_conditioned(parameters, y, problem, result, answer),
    )


def smoothed(parameters: LinearParameters, y: Tensor) -> Smoothed:
    """Return smoothed moments and lag-one covariances; arguments as in `filtered`."""
    problem = prepare(parameters, y)
    (mean, cov, cross), result = moments.smoothed(problem)
    return Smoothed(
        mean=_restore(mean, problem, y),
        cov=_restore(cov, problem, y),
        cross_cov=_restore(cross, problem, y),
        log_likelihood=_restore(torch.from_numpy(result.log_likelihood), problem, y),
        ill_conditioned=_ill_conditioned(parameters, y, problem, result),
    )


def smoothed_mean(parameters: LinearParameters, y: Tensor) -> Tensor:
    """Return smoothed means alone, `(*batch, time, state)`; arguments as in `filtered`."""
    problem = prepare(parameters, y)
    return _restore(moments.smoothed(problem)[0][0], problem, y)


def _ill_conditioned(
    parameters: LinearParameters,
    y: Tensor,
    problem: Problem,
    result: Pass,
    answer: Answer | None = None,
) -> Tensor:
    def again(parameters: LinearParameters, y: Tensor) -> Answer:
        return moments.filtered(prepare(parameters, y))[0]

    bad, worst = _certainly_bad(problem, result), torch.from_numpy(result.worst)
    bad = conditioning_check(bad, worst, parameters, y, again, answer)
    return bad.reshape(problem.batch).to(y.device)


def _restore(x: Tensor, problem: Problem, y: Tensor) -> Tensor:
    """Give back the batch axes, the dtype and the device of the data."""
    x = x.expand(problem.sizes.series, *x.shape[1:]) if x.shape[:1] == (1,) else x
    return x.reshape(*problem.batch, *x.shape[1:]).to(y.device, y.dtype)


def _certainly_bad(problem: Problem, result: Pass) -> Tensor:
    """Redundant rows, impossible data, diffuse directions that the data leave open."""
    bad = torch.from_numpy(result.worst == 0.0).expand(problem.sizes.series)
    # A sum is finite only if every step is, and costs a fraction of looking at each.
    bad = bad | ~torch.from_numpy(result.log_likelihood).sum(-1).isfinite()
    if problem.sizes.k and problem.sizes.time:
        bad = bad | posterior_mix(torch.from_numpy(result.info[:, -1]))[1].any(-1)
    return bad
