"""A particle filter whose proposals are a guide's steps."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from ...core.guides import Guide
from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import at, draw, observed_log_prob
from ...core.results import Filtered
from .asking import ask, ask_filtering
from .posterior import StepwisePosterior


class Particles(NamedTuple):
    """Weighted states `sum_k exp(log_weight_k) delta(z - z_k)`.

    Attributes:
        z: `(particles, *batch, state)`.
        log_weight: Normalised, `(particles, *batch)`.
    """

    z: Tensor
    log_weight: Tensor


def guided_filter(
    model: StateSpaceModel,
    guide: Guide,
    series: Series,
    num_particles: int,
    *,
    lookahead: bool = False,
) -> Filtered:
    """Filter by importance sampling from `q(z_t | z_{t-1}, y_t)`, resampling when needed.

    Args:
        model: Any model.
        guide: Gives the proposals if it is a `FilteringGuide`; else the model itself does.
        series: Data; NaN in `y` is missing.
        num_particles: Number of particles of each series.
        lookahead: Whether proposals and resampling know the future: the steps are those of the
            smoothing guide, and particles are chosen by what it expects of them; see `promise`.

    Source: Doucet, Godsill, Andrieu (2000), algorithm 2, with the guide as proposal; with
    `lookahead` Guarniero, Johansen, Lee (2017), The iterated auxiliary particle filter.
    """
    posterior = (ask if lookahead else ask_filtering)(guide, model, series)
    shape = (num_particles, *series.batch_shape)
    prior = model.initial().expand(torch.Size(shape))
    weight = series.y.new_full(shape, -math.log(num_particles))
    particles = Particles(prior.mean, weight)
    columns: list[tuple[Tensor, ...]] = []
    for t in range(series.time):
        if t:
            ahead = promise(posterior, model, particles, t) if lookahead else None
            particles = resample_if_uneven(particles, ahead)
            u, dt = at(series.u, t), at(series.dt, t, axes=1)
            prior = model.transition(particles.z, u, dt)
        predicted = _moments(particles.log_weight, prior.mean, prior.variance)
        z, log_ratio = propose(posterior, particles, prior, t)
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


def propose(
    posterior: StepwisePosterior, particles: Particles, prior: Distribution, t: int
) -> tuple[Tensor, Tensor]:
    """Draw from the guide where the step was observed, else from the prior.

    Args:
        posterior: The guide's, as `ask_filtering` returns it.
        particles: The states before.
        prior: `p(z_t | z_{t-1})` of each particle.
        t: The step.

    Returns:
        The draws, `(particles, *batch, state)`, and `log p - log q`, `(particles, *batch)`.
    """
    blind = draw(prior)
    if not bool(posterior.steps[..., t].any()):
        return blind, torch.zeros_like(particles.log_weight)
    proposal = posterior.proposal(particles.z, prior, t).distribution()
    seen = posterior.steps[..., t, None]
    z = torch.where(seen, proposal.rsample(), blind)
    log_q = proposal.log_prob(z)
    return z, torch.where(seen[..., 0], prior.log_prob(z) - log_q, torch.zeros_like(log_q))


def promise(
    posterior: StepwisePosterior, model: StateSpaceModel, particles: Particles, t: int
) -> Tensor:
    """Return what the guide expects of the data from step `t` on, `log p(y_{t:T} | z_{t-1})`.

    For any point `x` of step `t`, `p(y_{t:T} | z) = p(x | z) p(y_{t:T} | x) / p(x | z, y_{t:T})`,
    where only two factors depend on `z`. The guide stands for the denominator, so the exact guide
    gives the exact answer, whatever `x`; here `x` is a mean of draws.

    Args:
        posterior: A smoothing guide's.
        model: The model.
        particles: States of step `t - 1`.
        t: The step.

    Returns:
        `(particles, *batch)`, in nats, up to a constant by series; 0 where nothing follows.

    Source: Chib (1995), Marginal likelihood from the Gibbs output, equation 5.
    """
    u, dt = at(posterior.series.u, t), at(posterior.series.dt, t, axes=1)
    prior = model.transition(particles.z, u, dt)
    proposal = posterior.proposal(particles.z, prior, t).distribution()
    point = proposal.sample().mean(0)
    ahead = prior.log_prob(point) - proposal.log_prob(point)
    return torch.where(posterior.steps[..., t], ahead, torch.zeros_like(ahead))


def resample_if_uneven(particles: Particles, ahead: Tensor | None = None) -> Particles:
    """Resample systematically the series whose effective size fell under one half.

    Args:
        particles: Weighted states.
        ahead: Log of a factor by which particles are favoured, `(particles, *batch)`. Their
            weights make up for it, so that every average keeps its mean.
    """
    count, weight = particles.z.shape[0], particles.log_weight
    choice = weight if ahead is None else torch.log_softmax(weight + ahead, 0)
    uneven = 1 / choice.mul(2).exp().sum(0) < count / 2
    if not bool(uneven.any()):
        return particles
    cumulative = choice.exp().cumsum(0).movedim(0, -1).contiguous()
    offset = torch.rand((*cumulative.shape[:-1], 1), dtype=cumulative.dtype, device=uneven.device)
    ticks = (torch.arange(count, device=uneven.device) + offset) / count
    chosen = torch.searchsorted(cumulative, ticks.contiguous()).clamp_max(count - 1)
    index = chosen.movedim(-1, 0)
    z = particles.z.gather(0, index[..., None].expand_as(particles.z))
    level = torch.full_like(weight, -math.log(count))
    if ahead is not None:
        level = level + (weight - choice).gather(0, index)
    return Particles(
        torch.where(uneven[..., None], z, particles.z), torch.where(uneven, level, weight)
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
