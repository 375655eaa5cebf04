"""The conditioning check of doubtful answers: does the last digit of the inputs decide them?

Conditioning that leaves almost nothing of a deviation is harmless in most models (a vague start,
an exact sensor) and fatal in some, where the covariances, as rounded to float64, no longer hold
what the answer depends on. Only a second run with every number moved by one unit in its last place
tells them apart, and only doubtful models pay for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.model import GaussianInitial, LinearConditional, LinearParameters

_EPS = torch.finfo(torch.float64).eps
# A step that leaves less than this of a deviation makes the answer doubtful: beyond it, a change
# of 1e-16 of a covariance is felt in the fifth digit of what is left.
DOUBTFUL = 3e-6
# A third of what counts as wrong: 1e-6 of a log-likelihood, 1e-3 of a posterior deviation.
_TOTAL, _MOMENT = 3e-7, 3e-4
# A posterior deviation below this fraction of the state's size is not resolved in float64 anyway.
_RESOLVED = 1e-9


class Answer(NamedTuple):
    """What is compared: filtered and predicted moments, and the log-likelihood of each step."""

    mean: Tensor
    cov: Tensor
    predicted_mean: Tensor
    predicted_cov: Tensor
    log_likelihood: Tensor


def nudged(parameters: LinearParameters, y: Tensor) -> tuple[LinearParameters, Tensor]:
    """Move every number up or down by one unit in its last place, covariances symmetrically."""
    generator = torch.Generator().manual_seed(0)

    def move(x: Tensor) -> Tensor:
        signs = torch.randint(0, 2, x.shape, generator=generator) * 2.0 - 1.0
        return x.detach().double() * (1 + _EPS * signs.to(x.device, torch.float64))

    def move_cov(x: Tensor) -> Tensor:
        moved = move(x).tril()
        return moved + moved.tril(-1).mT

    start, transition, emission = parameters
    diffuse = None if start.diffuse is None else start.diffuse.detach().double()
    return LinearParameters(
        GaussianInitial(move(start.mean), move_cov(start.cov), diffuse),
        *(LinearConditional(move(A), move(b), move_cov(Q)) for A, b, Q in (transition, emission)),
    ), move(y)


def conditioning_check(
    bad: Tensor,
    worst: Tensor,
    parameters: LinearParameters,
    y: Tensor,
    again: Callable[[LinearParameters, Tensor], Answer],
    answer: Answer | None,
) -> Tensor:
    """Return which series are bad, those included whose answer the inputs' last digit decides.

    Args:
        bad: Which certainly are, `(series,)`.
        worst: Smallest part of a deviation that a step left of each.
        parameters: The model.
        y: The data.
        again: Filters a model and data, for the doubtful alone.
        answer: What it returns for these, if that is known already.
    """
    doubtful = ~bad & (worst < DOUBTFUL)
    if not bool(doubtful.any()):
        return bad
    first = again(parameters, y) if answer is None else answer
    return bad | doubtful & differ(first, again(*nudged(parameters, y)))


def differ(first: Answer, second: Answer) -> Tensor:
    """Return which series have answers further apart than rounding may explain, `(series,)`."""
    total, other = first.log_likelihood.sum(-1), second.log_likelihood.sum(-1)
    same = (total - other).abs() <= _TOTAL * total.abs()
    sizes = first.mean.abs() + first.predicted_mean.abs() + _deviations(first.predicted_cov)
    floor = _RESOLVED * sizes.nan_to_num(0.0, 0.0).amax(-2, keepdim=True)
    for i in (0, 2):
        unit = torch.maximum(_deviations(first[i + 1]), floor)
        mean_moved = (first[i] - second[i]).abs() > _MOMENT * unit
        scale = _MOMENT * unit[..., :, None] * unit[..., None, :]
        cov_moved = (first[i + 1] - second[i + 1]).abs() > scale
        same = same & ~mean_moved.any(-1).any(-1) & ~cov_moved.flatten(-2).any(-1).any(-1)
    return ~same


def _deviations(cov: Tensor) -> Tensor:
    return cov.diagonal(dim1=-2, dim2=-1).sqrt()
