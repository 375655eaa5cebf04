"""Inference by a trained guide: smoothing and forecasts from its draws, filtering by particles."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.arguments import checked
from ...core.guides import Guide
from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import seeded
from ...core.results import Filtered, Forecast, Smoothed
from ..guides.asking import ask, require_guide
from ..guides.online import OnlineParticles
from ..guides.particle_filter import guided_filter
from ..guides.posterior import StepwisePosterior
from ..simulation.ahead import draw_moments, drawn_forecast, last_seen, run_on, state_at
from ..simulation.angles import circular
from .refine import refine


@checked
@dataclass(frozen=True, eq=False)
class Amortized:
    """Reason about states with a guide that has been trained.

    `smooth`, `sample_posterior` and `forecast` use draws of `q(z_{1:T} | y_{1:T})`; a forecast
    draws past the last observation from the model itself. `filter` and `log_likelihood` run a
    particle filter whose proposals are the guide's steps for series that end at `t`, or the
    model's where the guide has none, so they see no future and are right in the limit of many
    particles whatever the guide's quality.

    Args:
        guide: A guide, as `deepssm.fit` returns in `Fit.method`.
        num_samples: Paths behind smoothed moments and, by default, forecasts.
        num_particles: Particles of the filter.
        seed: Seed of methods that take no generator, so that they repeat themselves.
        refine: Steps by which the guide's answer to the series in question is optimised first,
            for smoothing, imputing and drawing one series better than the guide learnt to; see
            `deepssm.inference.variational.refine`. 0 takes the answer as it is.
        generator: Source of randomness of methods that take none, in the place of `seed`; it
            advances, so that a second call draws anew.
    """

    guide: Guide
    num_samples: int = 500
    num_particles: int = 500
    seed: int = 0
    refine: int = 0
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        """Check the guide."""
        require_guide(self.guide)

    def filter(self, model: StateSpaceModel, series: Series) -> Filtered:
        """Return the moments of `p(z_t | y_{1:t})` and of `p(z_t | y_{1:t-1})`."""
        with torch.no_grad(), seeded(self._generator(series)):
            return guided_filter(model, self.guide, series, self.num_particles)

    def smooth(self, model: StateSpaceModel, series: Series) -> Smoothed:
        """Return the moments of the guide's draws; the log-likelihood is the filter's."""
        z = self.sample_posterior(model, series, self.num_samples, self._generator(series))
        wrap = circular(model.circular_state, model.state_dim)
        mean, cov = draw_moments(z, wrap)
        centred = wrap(z - mean)
        cross = torch.zeros_like(cov)
        cross[..., 1:, :, :] = torch.einsum(
            "s...i,s...j->...ij", centred[..., 1:, :], centred[..., :-1, :]
        ) / (self.num_samples - 1)
        filtered = self.filter(model, series)
        return Smoothed(mean, cov, cross, filtered.log_likelihood, filtered.ill_conditioned)

    def log_likelihood(self, model: StateSpaceModel, series: Series) -> Tensor:
        """Return the particle estimate of `log p(y_t | y_{1:t-1})` in nats, `(*batch, time)`.

        The exponential of its sum is an unbiased estimate of `p(y_{1:T})`.
        """
        return self.filter(model, series).log_likelihood

    def sample_posterior(
        self,
        model: StateSpaceModel,
        series: Series,
        num_samples: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw paths from the guide, `(num_samples, *batch, time, state)`."""
        with torch.no_grad(), seeded(generator):
            return self._posterior(model, series).sample((num_samples,))

    def forecast(
        self,
        model: StateSpaceModel,
        series: Series,
        horizon: int,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Forecast:
        """Forecast the last `horizon` steps of `series`, whose `y` is NaN there.

        Paths are the guide's up to the last observation and the model's afterwards. An
        autoregressive model reads its own draws there.
        """
        size = num_samples or self.num_samples
        if generator is None:
            generator = self._generator(series)
        with torch.no_grad(), seeded(generator):
            z = self._posterior(model, series).sample((size,))
            if model.reads_past:
                last = last_seen(series.y)
                drawn = run_on(model, series, state_at(z, last), last, horizon)
                return drawn_forecast(*drawn, model)
            z = z[..., -horizon:, :]
            u = None if series.u is None else series.u[..., -horizon:, :]
            return drawn_forecast(z, model.emission(z, u).sample(), model)

    def online(self, model: StateSpaceModel) -> OnlineParticles:
        """Return a running particle filter at the model's start.

        A `LinearizedGuide` proposes its particles; any other guide reads series as a whole, and
        particles then move by the model.
        """
        seed = self.seed
        if self.generator is not None:
            seed = int(torch.randint(2**62, (), generator=self.generator))
        return OnlineParticles(model, self.guide, self.num_particles, seed)

    def _posterior(self, model: StateSpaceModel, series: Series) -> StepwisePosterior:
        guide = self.guide
        if self.refine:
            guide = refine(model, guide, series, steps=self.refine)
        return ask(guide, model, series)

    def _generator(self, series: Series) -> torch.Generator:
        if self.generator is not None:
            return self.generator
        return torch.Generator(series.y.device).manual_seed(self.seed)
