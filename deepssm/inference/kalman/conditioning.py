"""The conditioning check of doubtful answers: does the last digit of the inputs decide them?

Conditioning that leaves almost nothing of a deviation is harmless in most models (a vague start,
an exact sensor) and fatal in some, where the covariances, as rounded to float64, no longer hold
what the answer depends on. Only a second run with every number moved by one unit in its last place
tells them apart, and only doubtful models pay for it. Doubtful too are coordinates so skew that
states' parts cancel in what is predicted of them or of an observation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...core.model import GaussianInitial, LinearConditional, LinearParameters

_EPS = torch.finfo(torch.float64).eps
# A step that leaves less than this of a deviation makes the answer doubtful: beyond it, a change
# of 1e-16 of a covariance is felt in the fifth digit of what is left.
DOUBTFUL = 3e-6
# So do parts of a deviation this many times larger than what is left of them.
_CANCELS = 1e4
# Where to look for that: one step says little of others, all steps say the same again and again.
_STEPS_OF_FEW, _STEPS_OF_MANY, _FEW = 8, 2, 16
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


def cancels(
    transition: tuple[np.ndarray, np.ndarray],
    emission: tuple[np.ndarray, np.ndarray],
    cov: np.ndarray,
    predicted_cov: np.ndarray,
) -> np.ndarray:
    """Return which series have states or observations that are small differences of large parts.

    Looks at some steps, spread evenly on a logarithmic scale.

    Args:
        transition: `A` and a factor of `Q`, `(series or 1, time or 1, n, n or q)`.
        emission: `C` and `R`.
        cov: Of states given some data, `(series or 1, time, n, n)`.
        predicted_cov: Of states given less or as much.

    Returns:
        `(series or 1,)`.
    """
    (A, LQ), (C, R) = transition, emission
    series, time, n = predicted_cov.shape[:3]
    count = _STEPS_OF_FEW if series <= _FEW else _STEPS_OF_MANY
    now = np.unique(np.geomspace(1, time - 1, count).astype(int)) if time > 1 else np.zeros(1, int)
    A, LQ, C, R = (x if x.shape[1] == 1 else x[:, now] for x in (A, LQ, C, R))
    before, P = cov[:, np.maximum(now - 1, 0)], predicted_cov[:, now]
    sd, left = _sd(before), _sd(P)
    moved = (np.abs(A) @ sd[..., None])[..., 0] ** 2 + (LQ * LQ).sum(-1)
    rows, noise = C @ P, np.diagonal(R, axis1=-2, axis2=-1)
    variance = np.maximum((rows * C).sum(-1) + noise, 0.0)
    parts = (np.abs(C) @ left[..., None])[..., 0] ** 2 + noise
    limit = _CANCELS * _CANCELS
    # Comparisons with NaN, of infinite deviations, are false.
    far = (moved > limit * left * left).any((-2, -1)) if time > 1 and n > 1 else np.zeros(1, bool)
    return far | (parts > limit * variance).any((-2, -1))


def _sd(cov: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(np.diagonal(cov, axis1=-2, axis2=-1), 0.0))


def conditioning_check(
    bad: Tensor,
    worst: Tensor,
    parameters: LinearParameters,
    y: Tensor,
    again: Callable[[LinearParameters, Tensor], Answer],
    answer: Answer | None,
    suspicious: Tensor | None = None,
) -> Tensor:
    """Return which series are bad, those included whose answer the inputs' last digit decides.

    Args:
        bad: Which certainly are, `(series,)`.
        worst: Smallest part of a deviation that a step left of each.
        parameters: The model.
        y: The data.
        again: Filters (or smooths) a model and data, for the doubtful alone.
        answer: What it returns for these, if that is known already.
        suspicious: Which are doubtful for another reason, `(series,)`.
    """
    doubtful = ~bad & (worst < DOUBTFUL)
    if suspicious is not None:
        doubtful = doubtful | ~bad & suspicious
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
