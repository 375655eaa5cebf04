"""The conditioning check of doubtful answers: does the last digit of the inputs decide them?

Conditioning that leaves almost nothing of a deviation is harmless in most models (a vague start,
an exact sensor) and fatal in some, where the covariances, as rounded to float64, no longer hold
what the answer depends on. Only a second run with every number moved by one unit in its last place
tells them apart, and only doubtful models pay for it. Doubtful too are coordinates so skew that
states' parts cancel in what is predicted of them or of an observation.
"""

from __future__ import annotations

import math
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
# And means whose parts are this many times larger than the deviation of what they add up to.
_LARGE = 1e6
# Where to look for that: at steps so many times later than the one before, of many series at two.
_LATER, _MANY = 4, 16
_NUDGES = 2
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


def nudged(
    parameters: LinearParameters, y: Tensor, seed: int = 0
) -> tuple[LinearParameters, Tensor]:
    """Move every number up or down by one unit in its last place, covariances symmetrically."""
    generator = torch.Generator().manual_seed(seed)

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


@np.errstate(over="ignore", invalid="ignore")  # what overflows is suspicious too
def cancels(
    transition: tuple[np.ndarray, np.ndarray],
    emission: tuple[np.ndarray, np.ndarray],
    answer: Answer,
) -> np.ndarray:
    """Return which series have states or observations that are small differences of large parts.

    Looks at some steps, spread evenly on a logarithmic scale.

    Args:
        transition: `A` and a factor of `Q`, `(series or 1, time or 1, n, n or q)`.
        emission: `C` and `R`.
        answer: Moments of states, `(series or 1, time, ...)`.

    Returns:
        `(series or 1,)`.
    """
    (A, LQ), (C, R) = transition, emission
    cov, mean, predicted_cov = (x.numpy() for x in answer[1:4])
    series, last = predicted_cov.shape[0], predicted_cov.shape[1] - 1
    now = _some_steps(last) if series <= _MANY else sorted({min(1, last), last})
    A, LQ, C, R = (x if x.shape[1] == 1 else x[:, now] for x in (A, LQ, C, R))
    P = _finite(predicted_cov[:, now])
    left = _variances(P)
    noise, limit = R.diagonal(0, -2, -1), _CANCELS * _CANCELS
    parts = (np.abs(C) @ np.sqrt(left)[..., None])[..., 0] ** 2 + noise
    variance = np.maximum(((C @ P) * C).sum(-1) + noise, 0.0)
    size = (np.abs(C) @ np.abs(mean[:, now])[..., None])[..., 0]
    far = (parts > limit * variance) | (size * size > _LARGE * _LARGE * variance)
    found = far.reshape(len(far), -1).any(1)
    if last and A.shape[-1] > 1:
        sd = np.sqrt(_variances(_finite(cov[:, [max(t - 1, 0) for t in now]])))
        moved = (np.abs(A) @ sd[..., None])[..., 0] ** 2 + (LQ * LQ).sum(-1)
        far = (moved > limit * left) & np.isfinite(predicted_cov[:, now].diagonal(0, -2, -1))
        found = found | far.reshape(len(far), -1).any(1)
    return found


def _some_steps(last: int) -> list[int]:
    steps, t = [min(1, last)], _LATER
    while t < last:
        steps.append(t)
        t *= _LATER
    return steps if last < 2 else [*steps, last]


def _finite(cov: np.ndarray) -> np.ndarray:
    """Return covariances without what a diffuse start leaves open: it cancels nothing."""
    known = math.isfinite(cov.diagonal(0, -2, -1).sum())
    return cov if known else np.where(np.isfinite(cov), cov, 0.0)


def _variances(cov: np.ndarray) -> np.ndarray:
    return np.maximum(cov.diagonal(0, -2, -1), 0.0)


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
    # One set of moves may cancel by chance where a second one does not.
    for seed in range(_NUDGES):
        other = again(*nudged(parameters, y, seed))
        # More moves find larger differences by chance: later ones have to reach what is wrong.
        bad = bad | doubtful & differ(first, other, allowed=1.0 if seed == 0 else 3.0)
        if bool((bad | ~doubtful).all()):
            break
    return bad


def differ(first: Answer, second: Answer, allowed: float = 1.0) -> Tensor:
    """Return which series have answers further apart than rounding may explain, `(series,)`.

    Args:
        first: An answer.
        second: The answer of slightly other inputs.
        allowed: Factor on what rounding may explain.
    """
    total, other = first.log_likelihood.sum(-1), second.log_likelihood.sum(-1)
    same = (total - other).abs() <= allowed * _TOTAL * total.abs()
    sizes = first.mean.abs() + first.predicted_mean.abs() + _deviations(first.predicted_cov)
    floor = _RESOLVED * sizes.nan_to_num(0.0, 0.0).amax(-2, keepdim=True)
    for i in (0, 2):
        unit = torch.maximum(_deviations(first[i + 1]), floor)
        mean_moved = (first[i] - second[i]).abs() > allowed * _MOMENT * unit
        scale = allowed * _MOMENT * unit[..., :, None] * unit[..., None, :]
        cov_moved = (first[i + 1] - second[i + 1]).abs() > scale
        same = same & ~mean_moved.any(-1).any(-1) & ~cov_moved.flatten(-2).any(-1).any(-1)
    return ~same


def _deviations(cov: Tensor) -> Tensor:
    return cov.diagonal(dim1=-2, dim2=-1).sqrt()
