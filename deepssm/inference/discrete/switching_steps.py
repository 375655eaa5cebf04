"""The steps of a filter that carries one Gaussian a mode: start, move, update."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ...core.abilities import SwitchingModel
from ...core.gaussian import beside, psd_factor, tria
from ...core.model import LinearParameters
from ..gaussian.linearized import Linearized
from ..gaussian.steps import condition
from .switching_mixtures import Mixture, at_step, log_sum, mix


def start(model: SwitchingModel, parameters: LinearParameters, shape: torch.Size) -> Mixture:
    """Return the start of every mode, with a past axis of size one.

    Args:
        model: The model.
        parameters: Of its modes.
        shape: Batch axes of the series.
    """
    mean, cov, _ = parameters.initial
    factor = psd_factor(cov, "P0")
    return Mixture(
        model.log_initial().expand(*shape, 1, -1),
        mean.expand(*shape, 1, *mean.shape[-2:]),
        factor.expand(*shape, 1, *factor.shape[-3:]),
    )


def move(
    order: Literal[1, 2],
    past: Mixture,
    parameters: LinearParameters,
    LQ: Tensor,
    log_A: Tensor,
    t: int,
) -> Mixture:
    """Return predictions over (past mode, mode), the first axis of size one for IMM.

    Args:
        order: 1 mixes the pasts before it predicts, 2 keeps all pairs.
        past: One Gaussian a mode.
        parameters: Of the modes.
        LQ: Factors of the transition noise.
        log_A: Log-probabilities of the changes of mode.
        t: The arriving step.
    """
    joint = past.log_weight[..., :, None] + log_A
    A, b, _ = parameters.transition
    A, b, LQ = at_step(A, t, 2), at_step(b, t, 1), at_step(LQ, t, 2)
    if order == 1:
        weight = log_sum(joint, -2)
        mean, factor = mix(joint, past)
        mean, factor, weight = (
            mean[..., None, :, :],
            factor[..., None, :, :, :],
            weight[..., None, :],
        )
    else:
        weight = joint
        mean = past.mean[..., :, None, :].expand(*joint.shape, -1)
        factor = past.factor[..., :, None, :, :].expand(*joint.shape, *past.factor.shape[-2:])
    A, b, LQ = A[..., None, :, :, :], b[..., None, :, :], LQ[..., None, :, :, :]
    moved = (A @ mean[..., None])[..., 0] + b
    return Mixture(weight, moved, tria(beside(A @ factor, LQ)))


def update(
    prior: Mixture, parameters: LinearParameters, LR: Tensor, t: int, y: Tensor, observed: Tensor
) -> tuple[Mixture, Tensor]:
    """Condition every component; reweight them by how well they predicted.

    Args:
        prior: Over (past mode, mode).
        parameters: Of the modes.
        LR: Factors of the emission noise.
        t: The step.
        y: `(*batch, obs)`, any number where missing.
        observed: `(*batch, obs)`.

    Returns:
        The posterior, and the log-density of the observation, `(*batch,)`.
    """
    C, d, _ = parameters.emission
    C, d = at_step(C, t, 2)[..., None, :, :, :], at_step(d, t, 1)[..., None, :, :]
    expected = (C @ prior.mean[..., None])[..., 0] + d
    step = Linearized(expected, C @ prior.factor, at_step(LR, t, 2)[..., None, :, :, :])
    gap = y[..., None, None, :] - expected
    found = condition(step, gap, observed[..., None, None, :].expand(gap.shape))
    joint = prior.log_weight + found.log_likelihood
    total = log_sum(joint.flatten(-2), -1)
    score = torch.where(observed.any(-1), total, torch.zeros_like(total))
    mean = prior.mean + (prior.factor @ found.shift[..., None])[..., 0]
    possible = torch.isfinite(total)[..., None, None]
    weight = joint - torch.where(possible, total[..., None, None], 0.0)
    factor = prior.factor @ found.gain
    # An observation that no component can emit leaves them as they are.
    return Mixture(
        torch.where(possible, weight, prior.log_weight),
        torch.where(possible[..., None], mean, prior.mean),
        torch.where(possible[..., None, None], factor, prior.factor),
    ), score
