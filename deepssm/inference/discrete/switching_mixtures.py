"""Mixtures with one Gaussian a mode, and how histories of modes are merged."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...core.gaussian import outer, tria


class Mixture(NamedTuple):
    """A Gaussian a mode: log-probabilities `(*batch, modes)`, means and factors beside it."""

    log_weight: Tensor
    mean: Tensor
    factor: Tensor


class Trace(NamedTuple):
    """A forward pass, each field a list over time."""

    predicted: list[Mixture]
    filtered: list[Mixture]
    log_likelihood: list[Tensor]


def merge(mixture: Mixture) -> Mixture:
    """Merge over the past mode, leaving one Gaussian a mode."""
    if mixture.mean.shape[-3] == 1:
        return Mixture(*(x.squeeze(-rank) for x, rank in zip(mixture, (2, 3, 4), strict=True)))
    weight = log_sum(mixture.log_weight, -2)
    swapped = mixture.log_weight.mT
    mean, factor = collapse(
        swapped, mixture.mean.transpose(-3, -2), mixture.factor.transpose(-4, -3)
    )
    return Mixture(weight, mean, factor)


def log_sum(log_weight: Tensor, axis: int) -> Tensor:
    """Return `log sum exp` along an axis; a sum of nothing is `-inf`, with gradient zero.

    torch's gradient of it is NaN, and a mode that cannot be reached is such a sum.
    """
    possible = torch.isfinite(log_weight).any(axis, keepdim=True)
    total = torch.logsumexp(torch.where(possible, log_weight, 0.0), axis)
    return torch.where(possible.squeeze(axis), total, -torch.inf)


def mix(joint: Tensor, past: Mixture) -> tuple[Tensor, Tensor]:
    """Return the merged start of every mode: the mixture of pasts that lead to it."""
    modes = joint.shape[-1]
    mean = past.mean[..., None, :, :].expand(*joint.shape[:-2], modes, *past.mean.shape[-2:])
    factor = past.factor[..., None, :, :, :]
    factor = factor.expand(*joint.shape[:-2], modes, *past.factor.shape[-3:])
    return collapse(joint.mT, mean, factor)


def collapse(log_weight: Tensor, mean: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and factor of a mixture, `(*axes, parts)`, `(*axes, parts, n)`, ..."""
    top = log_weight.amax(-1, keepdim=True)
    weight = torch.softmax(torch.where(torch.isfinite(top), log_weight, 0.0), -1)
    centre = (weight[..., None] * mean).sum(-2)
    root = torch.where(weight > 0, torch.where(weight > 0, weight, 1.0).sqrt(), 0.0)
    left = root[..., None] * (mean - centre[..., None, :])
    columns = (root[..., None, None] * factor).movedim(-3, -2).flatten(-2)
    return centre, tria(torch.cat((columns, left.mT), -1))


def stack(mixtures: list[Mixture]) -> Mixture:
    """Stack mixtures over time."""
    fields = zip(zip(*mixtures, strict=True), (2, 3, 4), strict=True)
    return Mixture(*(torch.stack(x, -rank) for x, rank in fields))


def moments(mixture: Mixture) -> tuple[Tensor, Tensor]:
    """Return joint moments of (one-hot mode, state) of a mixture, or of many."""
    return joint_moments(mixture.log_weight.exp(), mixture.mean, outer(mixture.factor))


def joint_moments(p: Tensor, mean: Tensor, cov: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of (one-hot mode, state).

    Args:
        p: Probabilities of the modes, `(*axes, modes)`.
        mean: Means given the mode, `(*axes, modes, n)`.
        cov: Covariances given the mode, `(*axes, modes, n, n)`.
    """
    eye = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device).expand(*p.shape, -1)
    both = torch.cat((eye, mean), -1)
    centre = torch.einsum("...k,...ki->...i", p, both)
    left = both - centre[..., None, :]
    between = torch.einsum("...k,...ki,...kj->...ij", p, left, left)
    within = torch.einsum("...k,...kij->...ij", p, cov)
    return centre, between + torch.nn.functional.pad(within, (p.shape[-1], 0, p.shape[-1], 0))


def at_step(x: Tensor, t: int, rank: int) -> Tensor:
    """Return step `t` of `(*batch, time or 1, modes, ...)`."""
    axis = -rank - 2
    return x.select(axis, min(t, x.shape[axis] - 1))
