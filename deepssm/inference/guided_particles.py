"""A particle filter whose proposals are a guide's steps."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ..base import Series, StateSpaceModel
from ..results import Filtered
from ..sequences import at, draw, observed_log_prob
from .guide_law import GuideLaw


class Particles(NamedTuple):
    """Weighted states `sum_k exp(log_weight_k) delta(z - z_k)`.

    Attributes:
        z: `(particles, *batch, state)`.
        log_weight: Normalised, `(particles, *batch)`.
    """

    z: Tensor
    log_weight: Tensor


def guided_filter(
    model: StateSpaceModel, guide: nn.Module, series: Series, num_particles: int
) -> Filtered:
    """Filter by importance sampling from `q(z_t | z_{t-1}, y_t)`, resampling when needed.

    Args:
        model: Any model.
        guide: Gives the proposals through its method `filtering`.
        series: Data; NaN in `y` is missing.
        num_particles: Number of particles of each series.

    Source: Doucet, Godsill, Andrieu (2000), algorithm 2, with the guide as proposal.
    """
    law: GuideLaw = guide.filtering(model, series)  # type: ignore[operator]
    shape = (num_particles, *series.batch_shape)
    prior = model.initial().expand(torch.Size(shape))
    weight = series.y.new_full(shape, -math.log(num_particles))
    particles = Particles(prior.mean, weight)
    columns: list[tuple[Tensor, ...]] = []
    for t in range(series.time):
        if t:
            particles = _resample_if_uneven(particles)
            u, dt = at(series.u, t), at(series.dt, t, axes=1)
            prior = model.transition(particles.z, u, dt)
        predicted = _moments(particles.log_weight, prior.mean, prior.variance)
        z, log_ratio = _propose(law, particles, prior, t)
        log_y = observed_log_prob(model.emission(z, at(series.u, t)), series.y[..., t, :])
        unnormalised = particles.log_weight + log_ratio + log_y
        log_likelihood = unnormalised.logsumexp(0)
        particles = Particles(z, unnormalised - log_likelihood)
        columns.append((*_moments(particles.log_weight, z), *predicted, log_likelihood))
    mean, cov, predicted_mean, predicted_cov, log_likelihood = zip(*columns, strict=True)
    total = torch.stack(log_likelihood, dim=-1)
    return Filtered(
        torch.stack(mean, dim=-2),
        torch.stack(cov, dim=-3),
        torch.stack(predicted_mean, dim=-2),
        torch.stack(predicted_cov, dim=-3),
        total,
        ~torch.isfinite(total).all(-1),
    )


def _propose(
    law: GuideLaw, particles: Particles, prior: Distribution, t: int
) -> tuple[Tensor, Tensor]:
    """Draw from the guide where the step was observed, else from the prior; `log p - log q`."""
    blind = draw(prior)
    if not bool(law.steps[..., t].any()):
        return blind, torch.zeros_like(particles.log_weight)
    proposal = law.proposal(particles.z, prior, t).law()
    seen = law.steps[..., t, None]
    z = torch.where(seen, proposal.rsample(), blind)
    log_q = proposal.log_prob(z)
    return z, torch.where(seen[..., 0], prior.log_prob(z) - log_q, torch.zeros_like(log_q))


def _resample_if_uneven(particles: Particles) -> Particles:
    """Resample systematically the series whose effective size fell under one half."""
    count = particles.z.shape[0]
    size = 1 / particles.log_weight.mul(2).exp().sum(0)
    uneven = size < count / 2
    if not bool(uneven.any()):
        return particles
    cumulative = particles.log_weight.exp().cumsum(0).movedim(0, -1).contiguous()
    offset = torch.rand((*cumulative.shape[:-1], 1), dtype=cumulative.dtype, device=uneven.device)
    ticks = (torch.arange(count, device=uneven.device) + offset) / count
    chosen = torch.searchsorted(cumulative, ticks.contiguous()).clamp_max(count - 1)
    index = chosen.movedim(-1, 0)
    z = particles.z.gather(0, index[..., None].expand_as(particles.z))
    level = torch.full_like(particles.log_weight, -math.log(count))
    return Particles(
        torch.where(uneven[..., None], z, particles.z),
        torch.where(uneven, level, particles.log_weight),
    )


def _moments(
    log_weight: Tensor, mean: Tensor, variance: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of a weighted mixture of points or of diagonal Gaussians."""
    weight = log_weight.exp()[..., None]
    centre = (weight * mean).sum(0)
    offset = mean - centre
    cov = torch.einsum("k...i,k...j->...ij", weight * offset, offset)
    if variance is not None:
        cov = cov + torch.diag_embed((weight * variance).sum(0))
    return centre, cov
