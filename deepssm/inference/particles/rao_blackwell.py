"""Rao-Blackwellised particles: modes are drawn, linear states are filtered exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Categorical
from torch.nn import functional

from ...core.abilities import SwitchingModel
from ...core.arguments import checked
from ...core.gaussian import beside, outer, psd_factor, tria
from ...core.model import LinearParameters, Series, StateSpaceModel
from ...core.pyro_sites import seeded
from ...core.results import Filtered, Smoothed
from ..discrete.required import switching_model
from ..discrete.switching_mixtures import Mixture, at_step, joint_moments
from ..discrete.switching_paths import backward_modes, draw_along, smooth_along
from ..gaussian.linearized import Linearized
from ..gaussian.steps import condition
from ..simulation.ahead import state_at
from ..simulation.drawn_forecasts import DrawnForecasts
from ..simulation.randomness import source
from .paths import ancestral_paths
from .resampling import Resampling, effective_size, systematic


class _Swarm(NamedTuple):
    """Particles over time: modes, weights, Gaussians and ancestors, one entry a step."""

    mode: list[Tensor]  # one-hot, (particles, *batch, modes)
    log_weight: list[Tensor]
    mean: list[Tensor]
    factor: list[Tensor]
    ancestor: list[Tensor]
    log_likelihood: list[Tensor]
    predicted: list[tuple[Tensor, Tensor]]


@checked
@dataclass(frozen=True)
class RaoBlackwellised(DrawnForecasts):
    """Particle filter over modes with an exact Kalman filter inside each particle.

    Modes are drawn from their exact distribution given the new observation. The exponential of
    the summed log-likelihood is unbiased, and everything is exact in the limit of many particles,
    where `Switching()` keeps the error of its merges.

    Args:
        num_particles: Of each series.
        resampling: `systematic`, `stratified`, `residual`, `multinomial` or your own function.
        threshold: Resample a series when its effective size falls below this share.
        num_paths: Paths of modes behind `smooth`, which is exact given them.
        smoother: Draw paths of modes by backward simulation with the states integrated out, or
            follow ancestors, which is quick but degenerates early in long series.
        seed: Of all random numbers of functions that take no generator.
        generator: Source of them in the place of `seed`; it advances from call to call.

    Source: Doucet, Godsill & Andrieu (2000), section III; Chen & Liu (2000), JRSS B 62(3);
        Särkkä, Bunch & Godsill (2012), IFAC 45(16), for the smoother.
    """

    num_particles: int = 200
    resampling: Resampling = systematic
    threshold: float = 0.5
    num_paths: int = 200
    smoother: Literal["backward", "ancestral"] = "backward"
    seed: int = 0
    generator: torch.Generator | None = None

    def filter(self, model: StateSpaceModel, series: Series) -> Filtered:
        """Return mode probabilities and state, given the past with and without the present."""
        swarm = self._run(model, series)
        steps = zip(swarm.log_weight, swarm.mode, swarm.mean, swarm.factor, strict=True)
        moments = [_moments(weight, hot, m, L) for weight, hot, m, L in steps]
        score = torch.stack(swarm.log_likelihood, -1)
        ill_conditioned = ~torch.isfinite(score).all(-1)
        return Filtered(*_stack(moments), *_stack(swarm.predicted), score, ill_conditioned)

    def smooth(self, model: StateSpaceModel, series: Series) -> Smoothed:
        """Return mode probabilities and state given all of `y`."""
        with torch.no_grad(), seeded(source(self.generator, self.seed + 1)):
            swarm = self._run(model, series)
            paths = self._paths(model, series, swarm, self.num_paths)
            found = smooth_along(_switching(model), series, paths)
        score = torch.stack(swarm.log_likelihood, -1)
        return Smoothed(*found, score, ~torch.isfinite(score).all(-1))

    def sample_posterior(
        self,
        model: StateSpaceModel,
        series: Series,
        num_samples: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw modes and states, `(num_samples, *batch, time, modes + latent)`."""
        with torch.no_grad(), seeded(generator):
            paths = self._paths(model, series, self._run(model, series), num_samples)
            return draw_along(_switching(model), series, paths)

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
        """Draw particles of each series' last observation, and states from their Gaussians."""
        swarm = self._run(model, series)
        weight = state_at(torch.stack(swarm.log_weight, -1)[..., None], last)[..., 0]
        hot, mean = (state_at(torch.stack(x, -2), last) for x in (swarm.mode, swarm.mean))
        factor = state_at(torch.stack([L.flatten(-2) for L in swarm.factor], -2), last)
        with seeded(generator):
            index = Categorical(logits=weight.movedim(0, -1)).sample((num_samples,))  # type: ignore[arg-type]
            noise = torch.randn(*index.shape, mean.shape[-1], dtype=mean.dtype)
        hot, mean, factor = (_take(x, index) for x in (hot, mean, factor))
        factor = factor.unflatten(-1, (mean.shape[-1], -1))
        moved = (factor @ noise.to(mean.device)[..., None])[..., 0]
        return torch.cat((hot, mean + moved), -1)

    def _run(self, model: StateSpaceModel, series: Series) -> _Swarm:
        with torch.no_grad(), seeded(source(self.generator, self.seed)):
            return self._pass(_switching(model), series)

    def _pass(self, model: SwitchingModel, series: Series) -> _Swarm:
        parameters = model.mode_parameters(series.u, series.dt)
        LQ, LR = (
            psd_factor(parameters.transition.cov, "Q"),
            psd_factor(parameters.emission.cov, "R"),
        )
        log_A, swarm = model.log_transition(), _Swarm([], [], [], [], [], [], [])
        observed = ~torch.isnan(series.y)
        y = torch.where(observed, series.y, 0.0)
        shape = (self.num_particles, *series.batch_shape)
        weight = series.y.new_full(shape, -math.log(self.num_particles))
        for t in range(series.time):
            if t == 0:
                ancestor, prior = _order(weight), _begin(model, parameters, shape)
            else:
                ancestor, weight = self._resample(weight)
                past = [_take(x[-1], ancestor) for x in (swarm.mode, swarm.mean, swarm.factor)]
                prior = _predict(past, parameters, LQ, log_A, t)
            before = (weight[..., None] + prior.log_weight).movedim(-1, 1).flatten(0, 1)
            swarm.predicted.append(_mixture_moments(before, prior))
            observation = y[..., t, :], observed[..., t, :]
            drawn, evidence = _update(prior, parameters, LR, t, *observation)
            total = torch.logsumexp(weight + evidence, 0)
            weight = weight + evidence - total
            score = torch.where(observation[1].any(-1), total, torch.zeros_like(total))
            for kept, value in zip(
                swarm[:6], (drawn[0], weight, *drawn[1:], ancestor, score), strict=True
            ):
                kept.append(value)
        return swarm

    def _paths(self, model: StateSpaceModel, series: Series, swarm: _Swarm, count: int) -> Tensor:
        """Draw paths of modes, one-hot, `(count, *batch, time, modes)`."""
        if self.smoother == "ancestral":
            return ancestral_paths(swarm.mode, swarm.log_weight, swarm.ancestor, count)
        steps = zip(swarm.log_weight, swarm.mean, swarm.factor, strict=True)
        mixtures = [
            Mixture(*(x.movedim(0, axis) for x, axis in zip(step, (-1, -2, -3), strict=True)))
            for step in steps
        ]
        modes = [hot.argmax(-1).movedim(0, -1) for hot in swarm.mode]
        return backward_modes(_switching(model), series, mixtures, modes, count)

    def _resample(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        uneven = effective_size(weight) < self.threshold * self.num_particles
        order = _order(weight)
        if not bool(uneven.any()):
            return order, weight
        level = -math.log(self.num_particles)
        return torch.where(uneven, self.resampling(weight), order), torch.where(
            uneven, level, weight
        )


def _switching(model: StateSpaceModel) -> SwitchingModel:
    return switching_model(model, "RaoBlackwellised()")


def _begin(model: SwitchingModel, parameters: LinearParameters, shape: tuple[int, ...]) -> Mixture:
    mean, cov, _ = parameters.initial
    factor = psd_factor(cov, "P0")
    return Mixture(
        model.log_initial().expand(*shape, -1),
        mean.expand(*shape, *mean.shape[-2:]),
        factor.expand(*shape, *factor.shape[-3:]),
    )


def _predict(
    past: list[Tensor], parameters: LinearParameters, LQ: Tensor, log_A: Tensor, t: int
) -> Mixture:
    """Move every particle under every mode."""
    hot, mean, factor = past
    A, b = at_step(parameters.transition.matrix, t, 2), at_step(parameters.transition.offset, t, 1)
    moved = (A @ mean[..., None, :, None])[..., 0] + b
    spread = tria(beside(A @ factor[..., None, :, :], at_step(LQ, t, 2)))
    return Mixture(_log(hot @ log_A.exp()), moved, spread)


def _update(
    prior: Mixture, parameters: LinearParameters, LR: Tensor, t: int, y: Tensor, observed: Tensor
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Draw each particle's mode given `y`; return it, its Gaussian and the evidence."""
    C, d = at_step(parameters.emission.matrix, t, 2), at_step(parameters.emission.offset, t, 1)
    expected = (C @ prior.mean[..., None])[..., 0] + d
    step = Linearized(expected, C @ prior.factor, at_step(LR, t, 2))
    gap = y[..., None, :] - expected
    found = condition(step, gap, observed[..., None, :].expand(gap.shape))
    joint = prior.log_weight + found.log_likelihood
    mode = Categorical(logits=joint, validate_args=False).sample()
    hot = functional.one_hot(mode, joint.shape[-1]).to(joint.dtype)
    mean = prior.mean + (prior.factor @ found.shift[..., None])[..., 0]
    factor = prior.factor @ found.gain
    chosen = (
        torch.einsum("...k,...ki->...i", hot, mean),
        torch.einsum("...k,...kij->...ij", hot, factor),
    )
    return (hot, *chosen), torch.logsumexp(joint, -1)


def _moments(weight: Tensor, hot: Tensor, mean: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    both = torch.cat((hot, mean), -1)
    centre, cov = _weighted(weight, both)
    within = (weight.exp()[..., None, None] * outer(factor)).sum(0)
    modes = hot.shape[-1]
    return centre, cov + functional.pad(within, (modes, 0, modes, 0))


def _mixture_moments(before: Tensor, prior: Mixture) -> tuple[Tensor, Tensor]:
    """Return joint moments of particles that are mixtures over modes still."""
    count = prior.log_weight.shape[0]
    p = before.exp().unflatten(0, (count, -1)).movedim(1, -1)
    share = p.sum(-1)
    inside = p / share.clamp_min(torch.finfo(p.dtype).tiny)[..., None]
    mean, cov = joint_moments(inside, prior.mean, outer(prior.factor))
    centre, between = _weighted(_log(share), mean)
    return centre, between + (share[..., None, None] * cov).sum(0)


def _weighted(log_weight: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    weight = log_weight.exp()[..., None]
    mean = (weight * x).sum(0)
    left = x - mean
    return mean, torch.einsum("s...i,s...j->...ij", weight * left, left)


def _take(x: Tensor, ancestor: Tensor) -> Tensor:
    index = ancestor.reshape(*ancestor.shape, *[1] * (x.ndim - ancestor.ndim))
    return x.gather(0, index.expand(*ancestor.shape, *x.shape[ancestor.ndim :]))


def _order(weight: Tensor) -> Tensor:
    order = torch.arange(len(weight), device=weight.device)
    return order.reshape(-1, *[1] * (weight.ndim - 1)).expand_as(weight)


def _log(p: Tensor) -> Tensor:
    return torch.where(p > 0, torch.where(p > 0, p, 1.0).log(), -math.inf)


def _stack(moments: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    means, covs = zip(*moments, strict=True)
    return torch.stack(means, -2), torch.stack(covs, -3)
