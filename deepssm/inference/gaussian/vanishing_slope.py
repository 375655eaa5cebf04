"""Observations that teach a Gaussian filter nothing, though they depend on the state."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from ..simulation.conditionals import Conditionals
from ..simulation.visibility import differs
from .steps import Conditioned, Predicted


def warn_if_nothing_is_learnt(
    method: object,
    conditionals: Conditionals,
    predicted: Sequence[Predicted],
    conditioned: Sequence[Conditioned],
    trust: Tensor,
) -> None:
    """Warn where most observations met an emission without a slope that yet reads the state.

    An even function has none at its centre: a filter that stands there stays, and returns its
    prediction for a posterior.

    Args:
        method: The filter, whose name is told.
        conditionals: The model.
        predicted: States before each observation.
        conditioned: What was learnt of each.
        trust: How far observations were trusted, `(steps, *batch, obs)`; NaN where missing.
    """
    with torch.no_grad():
        gain = torch.stack([update.gain for update in conditioned])
        counted = (trust > 0).any(-1).expand(gain.shape[:-2])
        found = _most_wasted(gain, counted)
        if found is None:
            return
        t, wasted, total = found
        step = t + 1 if len(predicted) == 1 else t  # a running filter binds one step as entry 1
        if not _reads_state(conditionals, step, predicted[t]):
            return
    warnings.warn(
        f"`{type(method).__name__}` learnt nothing from {wasted} of {total} observed steps: at "
        "its estimate the emission has no slope, though `y` depends on the state around it, as "
        "an even function does at its centre. Its result there is the prediction. Use "
        "`Particle()`, or start it elsewhere by `m0`.",
        stacklevel=3,
    )


def _most_wasted(gain: Tensor, counted: Tensor) -> tuple[int, int, int] | None:
    """Return where a filter learnt nothing at most steps that it was to learn from.

    Args:
        gain: Factors of the posteriors in units of their priors', `(steps, *batch, n, n)`.
        counted: Which observations were neither missing nor rejected, `(steps, *batch)`.

    Returns:
        The first such step, how many there are in its series, and how many were to teach; `None`
        if there is no such series.
    """
    if not gain.numel():
        return None
    eye = torch.eye(gain.shape[-1], dtype=gain.dtype, device=gain.device)
    still = (gain - eye).abs().amax((-2, -1)) <= 1e-2 * math.sqrt(torch.finfo(gain.dtype).eps)
    wasted = (still & counted).reshape(len(gain), -1)
    total, count = counted.reshape(len(gain), -1).sum(0), wasted.sum(0)
    worst = int((count - total / 2).argmax())
    if 2 * int(count[worst]) <= int(total[worst]):
        return None
    return int(wasted[:, worst].to(torch.uint8).argmax()), int(count[worst]), int(total[worst])


def _reads_state(conditionals: Conditionals, t: int, prior: Predicted) -> bool:
    """Tell whether mean or variance of `y` differ one standard deviation from the state's mean."""
    if conditionals.noise is not None:
        return False  # noise inside a function has no moments in closed form
    offsets = torch.cat((prior.factor, -prior.factor), -1).movedim(-1, 0)
    there = conditionals.emission(prior.mean + offsets, t)
    here = conditionals.emission(prior.mean[None], t)
    pairs = ((there.mean, here.mean), (there.variance, here.variance))
    return any(bool(differs(x, y).any()) for x, y in pairs)
