"""Particle filters and smoothers: any model that can be simulated and scored."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from ...core.arguments import checked
from ...core.gaussian import Pushforward
from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import observed_log_prob, seeded
from ...core.results import Filtered, Forecast, Smoothed
from ..simulation.ahead import state_at
from ..simulation.angles import Wrap, average, identity
from ..simulation.conditionals import Conditionals, bind, covariance
from ..simulation.drawn_forecasts import DrawnForecasts
from ..simulation.randomness import source
from .paths import ancestral_paths, backward_paths
from .proposals import Bootstrap, Proposal, Propose, Proposed
from .resampling import Resampling, effective_size, systematic


class Cloud(NamedTuple):
    """Weighted particles of all steps, and what they say about the data.

    Attributes:
        z: One `(particles, *batch, state)` a step.
        log_weight: Normalised, one `(particles, *batch)` a step.
        ancestor: Which particle of the step before each one descends from.
        log_likelihood: One `(*batch,)` a step.
        predicted: Mean and covariance before each observation.
    """

    z: list[Tensor]
    log_weight: list[Tensor]
    ancestor: list[Tensor]
    log_likelihood: list[Tensor]
    predicted: list[tuple[Tensor, Tensor]]


@checked
@dataclass(frozen=True)
class Particle(DrawnForecasts):
    """Particle filter and smoother: right for any model as particles grow in number.

    The exponential of the summed log-likelihood is an unbiased estimate of `p(y_{1:T})`. All
    weights live in the log domain; particles and series are one tensor.

    Args:
        num_particles: Of each series.
        proposal: `Bootstrap()`, `Guided(rule)` or `FromGuide(guide)`.
        auxiliary: Resample with a look at the coming observation.
        resampling: `systematic`, `stratified`, `residual`, `multinomial` or your own function.
        threshold: Resample a series when its effective size falls below this share.
        smoother: Draw paths by backward simulation, or follow ancestors, which needs no
            transition density but degenerates early in long series.
        num_paths: Paths behind smoothed moments.
        differentiable: Let gradients of the log-likelihood through resampling, by weights that
            are one in value; their mean is the score of the exact likelihood.
        seed: Of all random numbers of functions that take no generator.
        generator: Source of them in the place of `seed`; it advances from call to call.

    Source: Chopin & Papaspiliopoulos (2020), An Introduction to Sequential Monte Carlo,
        chapters 10 and 12; Pitt & Shephard (1999) auxiliary; Ścibior & Wood (2021) gradients.
    """

    num_particles: int = 1_000
    proposal: Proposal = field(default_factory=Bootstrap)
    auxiliary: bool = False
    resampling: Resampling = systematic
    threshold: float = 0.5
    smoother: Literal["backward", "ancestral"] = "backward"
    num_paths: int = 200
    differentiable: bool = False
    seed: int = 0
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        """Check the sizes."""
        if self.num_particles < 2:
            raise ValueError(f"`num_particles` must be 2 or more, got {self.num_particles}.")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"`threshold` must lie in [0, 1], got {self.threshold}.")
        if isinstance(self.proposal, type) or not isinstance(self.proposal, Proposal):
            raise ValueError(
                "`proposal` must be `Bootstrap()`, `Guided(rule)`, `FromGuide(guide)` or a value "
                f"with a method `bind(model, conditionals, series)`, got {self.proposal!r}."
            )

    def filter(self, model: StateSpaceModel, series: Series) -> Filtered:
        """Return weighted means and covariances before and after each observation."""
        cloud, wrap = self.run(model, series), bind(model, series).wrap_state
        pairs = zip(cloud.log_weight, cloud.z, strict=True)
        filtered = [weighted_moments(weight, z, wrap) for weight, z in pairs]
        score = torch.stack(cloud.log_likelihood, -1)
        return Filtered(
            *_stacked(filtered), *_stacked(cloud.predicted), score, ~torch.isfinite(score).all(-1)
        )

    def smooth(self, model: StateSpaceModel, series: Series) -> Smoothed:
        """Return moments of `num_paths` paths drawn from `p(z_{1:T} | y_{1:T})`."""
        conditionals, cloud = bind(model, series), self.run(model, series)
        with seeded(source(self.generator, self.seed + 1)):
            paths = self._paths(conditionals, cloud, self.num_paths)
        mean = average(paths, conditionals.wrap_state)
        left = conditionals.wrap_state(paths - mean)
        cov = torch.einsum("k...i,k...j->...ij", left, left) / (len(paths) - 1)
        cross = torch.einsum("k...i,k...j->...ij", left[..., 1:, :], left[..., :-1, :])
        cross = torch.cat((torch.zeros_like(cov[..., :1, :, :]), cross / (len(paths) - 1)), -3)
        score = torch.stack(cloud.log_likelihood, -1)
        return Smoothed(mean, cov, cross, score, ~torch.isfinite(score).all(-1))

    def sample_posterior(
        self,
        model: StateSpaceModel,
        series: Series,
        num_samples: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw paths, `(num_samples, *batch, time, state)`."""
        with seeded(generator):
            return self._paths(bind(model, series), self.run(model, series), num_samples)

    def forecast(
        self,
        model: StateSpaceModel,
        series: Series,
        horizon: int,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Forecast:
        """Let particles run through the last `horizon` steps, whose `y` is NaN."""
        count = num_samples or self.num_particles
        return super().forecast(model, series, horizon, count, generator)

    def randomness(self, device: torch.device) -> torch.Generator:
        """Return the method's own source of randomness for forecasts."""
        return source(self.generator, self.seed + 2)

    def filtered_draws(
        self,
        model: StateSpaceModel,
        series: Series,
        last: Tensor,
        num_samples: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw particles of each series' last observation by their weights."""
        cloud = self.run(model, series)
        z = state_at(torch.stack(cloud.z, -2), last)
        weight = state_at(torch.stack(cloud.log_weight, -1)[..., None], last)[..., 0]
        with seeded(generator):
            return _pick(z, _independent(weight, num_samples))

    def run(self, model: StateSpaceModel, series: Series) -> Cloud:
        """Run the filter and return the particles themselves."""
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            with seeded(source(self.generator, self.seed)):
                return self._run(model, series)

    def _run(self, model: StateSpaceModel, series: Series) -> Cloud:
        conditionals = bind(model, series)
        propose = self.proposal.bind(model, conditionals, series)
        observed = ~torch.isnan(series.y)
        cloud = Cloud([], [], [], [], [])
        shape = (self.num_particles, *series.batch_shape)
        weight = series.y.new_full(shape, -math.log(self.num_particles))
        z = _start(conditionals.initial, self.num_particles, series.batch_shape)
        for t in range(series.time):
            prior = (
                conditionals.transition(z, t) if t else _everywhere(conditionals.initial, shape)
            )
            seen, y = observed[..., t, :], series.y[..., t, :]
            z, prior, weight, ancestor = self._resample(
                conditionals, propose, t, z, prior, weight, (y, seen)
            )
            z_new, ratio = self._draw(propose, t, z, prior, y, seen)
            cloud.predicted.append(_predicted(weight, prior, z_new, conditionals.wrap_state))
            observation = _score(conditionals, conditionals.emission(z_new, t), y, seen)
            unnormalised = weight + ratio + observation
            total = torch.logsumexp(unnormalised, 0)
            dead = torch.isinf(total)
            weight = torch.where(dead, -math.log(self.num_particles), unnormalised - total)
            # Where nothing was seen the sum is one up to round-off, and must be one exactly.
            z, total = z_new, torch.where(seen.any(-1), total, torch.zeros_like(total))
            for kept, value in zip(cloud[:4], (z, weight, ancestor, total), strict=True):
                kept.append(value)
        return cloud

    def _draw(
        self, propose: Propose, t: int, z: Tensor, prior: Distribution, y: Tensor, seen: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Draw particles; return them with `log p - log q`."""
        proposed = propose(t, z, prior, y, seen) if bool(seen.any()) else Proposed(None)
        if proposed.draw is not None and not self.differentiable:
            return proposed.draw()
        proposal = proposed.distribution
        chosen = prior if proposal is None else proposal
        drawn = (
            chosen.sample() if not isinstance(chosen, Pushforward) else chosen.rsample().detach()
        )
        if proposal is None and not self.differentiable:
            return drawn, drawn.new_zeros(drawn.shape[:-1])
        return drawn, prior.log_prob(drawn) - chosen.log_prob(drawn).detach()

    def _resample(
        self,
        conditionals: Conditionals,
        propose: Propose,
        t: int,
        z: Tensor,
        prior: Distribution,
        weight: Tensor,
        observation: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Distribution, Tensor, Tensor]:
        """Replace particles of series that need it; weights stay normalised up to look-ahead."""
        count = self.num_particles
        identity_map = torch.arange(count, device=z.device)
        identity_map = identity_map.reshape(-1, *[1] * (weight.ndim - 1)).expand_as(weight)
        if t == 0:
            return z, prior, weight, identity_map
        choice = weight
        if self.auxiliary and bool(observation[1].any()):
            ahead = propose(t, z, prior, *observation).look_ahead
            if ahead is None:
                ahead = _score(conditionals, conditionals.emission(prior.mean, t), *observation)
            choice = torch.log_softmax(weight + ahead, 0)
        choice = choice.detach()
        uneven = effective_size(choice) < self.threshold * count
        if not bool(uneven.any()):
            return z, prior, weight, identity_map
        ancestor = torch.where(uneven, self.resampling(choice), identity_map)
        chosen = weight.gather(0, ancestor) - choice.gather(0, ancestor)
        fresh = chosen - math.log(count)
        z, weight = _pick(z, ancestor), torch.where(uneven, fresh, weight)
        return z, conditionals.transition(z, t), weight, ancestor

    def _paths(self, conditionals: Conditionals, cloud: Cloud, count: int) -> Tensor:
        with torch.no_grad():
            if self.smoother == "ancestral":
                return ancestral_paths(cloud.z, cloud.log_weight, cloud.ancestor, count)
            return backward_paths(conditionals, cloud.z, cloud.log_weight, count)


def weighted_moments(
    log_weight: Tensor, z: Tensor, wrap: Wrap = identity
) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of weighted particles, `(particles, *batch, state)`.

    Angles are averaged about their mean direction, by differences taken the short way round.
    """
    weight = log_weight.exp()
    mean = average(z, wrap, weight)
    left = wrap(z - mean)
    return mean, torch.einsum("k...i,k...j->...ij", weight[..., None] * left, left)


def _score(
    conditionals: Conditionals, distribution: Distribution, y: Tensor, seen: Tensor
) -> Tensor:
    """Return `log p(y_observed | z)` of every particle."""
    if not bool(seen.any()):
        return torch.zeros(distribution.batch_shape, dtype=y.dtype, device=y.device)
    if conditionals.wrap_obs is not identity:
        y = distribution.mean + conditionals.wrap_obs(y - distribution.mean)
    if bool(seen.all()):
        return distribution.log_prob(y)
    return observed_log_prob(distribution, y.expand(*distribution.batch_shape, y.shape[-1]))


def _predicted(
    weight: Tensor, prior: Distribution, drawn: Tensor, wrap: Wrap
) -> tuple[Tensor, Tensor]:
    weight = torch.log_softmax(weight, 0)
    if isinstance(prior, Pushforward):
        return weighted_moments(weight, drawn, wrap)
    mean, cov = weighted_moments(weight, prior.mean, wrap)
    within = covariance(prior)
    return mean, cov + (weight.exp()[..., None, None] * within).sum(0)


def _everywhere(distribution: Distribution, shape: tuple[int, ...]) -> Distribution:
    return distribution.expand(torch.Size(shape))


def _start(distribution: Distribution, count: int, batch: torch.Size) -> Tensor:
    return _everywhere(distribution, (count, *batch)).sample()


def _pick(z: Tensor, index: Tensor) -> Tensor:
    return z.gather(0, index[..., None].expand(*index.shape, z.shape[-1]))


def _independent(log_weight: Tensor, count: int) -> Tensor:
    """Draw `count` particles of each series with replacement, `(count, *batch)`."""
    weight = log_weight.exp().movedim(0, -1)
    chosen = torch.multinomial(weight.reshape(-1, weight.shape[-1]), count, replacement=True)
    return chosen.reshape(*weight.shape[:-1], count).movedim(-1, 0)


def _stacked(moments: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    means, covs = zip(*moments, strict=True)
    return torch.stack(means, -2), torch.stack(covs, -3)
