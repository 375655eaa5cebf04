"""What a method that can filter and draw paths has for nothing: forecasts and the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import seeded
from ...core.results import Filtered, Forecast, Smoothed
from .ahead import draw_moments, drawn_forecast, last_seen, run_on, state_at
from .angles import circular

_NUM_SAMPLES = 1_000
"""Draws behind moments where the caller asks for none."""


class DrawnForecasts(ABC):
    r"""A method whose forecasts are runs of the model from draws of the last state.

    .. math::
        z_T^{(i)} \sim p(z_T | y_{1:T}), \quad z_{T+h}^{(i)} \sim p(z_{T+h} | z_{T+h-1}^{(i)}),
        \quad y_{T+h}^{(i)} \sim p(y_{T+h} | z_{T+h}^{(i)})

    Derive from it a method that is no rule for moments, as a frozen dataclass: define `filter`
    and `sample_posterior`, and it has `log_likelihood`, `smooth` and `forecast` too, so that it
    is an `InferenceMethod`. Override any of them where there is something better, and
    `filtered_draws` where the last state is cheaper to draw than whole paths.
    """

    @abstractmethod
    def filter(self, model: StateSpaceModel, series: Series) -> Filtered:
        """Return `p(z_t | y_{1:t})` and `p(z_t | y_{1:t-1})`, with the log-likelihood."""

    @abstractmethod
    def sample_posterior(
        self,
        model: StateSpaceModel,
        series: Series,
        num_samples: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw paths from `p(z_{1:T} | y_{1:T})`, `(num_samples, *batch, time, state)`."""

    def log_likelihood(self, model: StateSpaceModel, series: Series) -> Tensor:
        """Return `log p(y_t | y_{1:t-1})` of the filter in nats, `(*batch, time)`."""
        return self.filter(model, series).log_likelihood

    def smooth(self, model: StateSpaceModel, series: Series) -> Smoothed:
        """Return moments of 1000 drawn paths, the same in every call."""
        filtered = self.filter(model, series)
        with torch.no_grad():
            source = self.randomness(series.y.device)
            paths = self.sample_posterior(model, series, _NUM_SAMPLES, source)
        wrap = circular(model.circular_state, model.state_dim)
        mean, cov = draw_moments(paths, wrap)
        left = wrap(paths - mean)
        cross = torch.zeros_like(cov)
        cross[..., 1:, :, :] = torch.einsum(
            "s...i,s...j->...ij", left[..., 1:, :], left[..., :-1, :]
        ) / (len(paths) - 1)
        return Smoothed(mean, cov, cross, filtered.log_likelihood, filtered.ill_conditioned)

    def forecast(
        self,
        model: StateSpaceModel,
        series: Series,
        horizon: int,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Forecast:
        """Forecast the last `horizon` steps, whose `y` is NaN: draws, and their moments.

        Args:
            model: Any model.
            series: The data, and the inputs and time steps of the forecast steps too.
            horizon: Number of steps.
            num_samples: Draws of each series, 1000 by default.
            generator: Source of randomness; by default the same draws in every call.
        """
        last, count = last_seen(series.y), num_samples or _NUM_SAMPLES
        known = until(series, series.time - horizon)
        source = generator or self.randomness(series.y.device)
        with torch.no_grad(), seeded(source):
            if known.time:
                z = self.filtered_draws(model, known, last, count, source)
            else:
                z = series.y.new_zeros(count, *series.batch_shape, model.state_dim)
            return drawn_forecast(*run_on(model, series, z, last, horizon), model)

    def randomness(self, device: torch.device) -> torch.Generator:
        """Return what drives draws where the caller passes no generator: the same in each call.

        Args:
            device: Of the data.
        """
        return torch.Generator(device).manual_seed(0)

    def filtered_draws(
        self,
        model: StateSpaceModel,
        series: Series,
        last: Tensor,
        num_samples: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw the state of each series' last observation given all before and at it.

        Args:
            model: Any model.
            series: The data.
            last: That step, `(*batch,)`; where it is -1 there is none, and any number will do.
            num_samples: Number of draws.
            generator: Source of randomness.

        Returns:
            `(num_samples, *batch, state)`.
        """
        return state_at(self.sample_posterior(model, series, num_samples, generator), last)


def until(series: Series, time: int) -> Series:
    """Return the first `time` steps of a series."""
    u = None if series.u is None else series.u[..., :time, :]
    dt = series.dt if series.dt is None or series.dt.ndim == 0 else series.dt[..., :time]
    return Series(series.y[..., :time, :], u, dt)
