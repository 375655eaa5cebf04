"""Exact inference in linear-Gaussian models: `Kalman`, a square-root filter and smoother."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ...core.abilities import is_linear_gaussian
from ...core.model import LinearParameters, Series, StateSpaceModel
from ...core.results import Filtered, Forecast, Smoothed
from . import backends, sequential
from .autograd import autograd_log_likelihood
from .cpu.gradient import exact_log_likelihood
from .fixed_lag import fixed_lag
from .online import OnlineKalman
from .simulation_smoother import draw_observations, draw_paths


@dataclass(frozen=True)
class Kalman:
    """The exact answer for linear-Gaussian models.

    The state is a mean and a factor of its covariance, moved by orthogonal transformations, in
    float64 whatever the model's dtype. Any positive semi-definite `Q`, `R` and `P0` is allowed,
    and so are gaps per component, time-varying parameters and exactly diffuse starts.

    Attributes:
        backend: `"sequential"` is a compiled scalar loop on the CPU, the fastest there.
            `"stationary"` (constant matrices) runs all steps after the covariance has reached its
            steady state as one `LinearSystem`, on any device; `"scan"` takes `O(log time)`
            parallel steps, on any device. Where they do not apply (observations without noise
            given the state before, a model or gaps that leave most steps outside the steady state)
            they hand over to the compiled loop, on CUDA `"stationary"` to `"scan"` first. The
            gradient of all three is a smoother pass, and so is that of `"cuda"`: one CUDA thread a
            series, for many series with proper starts, by the extra `gpu` (no machine with a GPU
            has run it yet).
            `"autograd"` is a torch loop that can be differentiated any number of times, for
            proper starts and regular innovations. `"auto"` is `"sequential"` on the CPU; on CUDA
            it is `"stationary"` for constant matrices and `"scan"` for others.

    Source: Kalman (1960); Bierman (1977); Durbin & Koopman (2012), ch. 4 to 7.
    """

    backend: backends.Backend = "auto"
    takes_empty_series = True

    def filter(self, model: StateSpaceModel, series: Series) -> Filtered:
        """Return filtered and predicted moments and the log-likelihood of each step."""
        parameters = _parameters(model, series)
        run = backends.start(self.backend, parameters, series.y)
        if run is not None:
            return backends.filtered(run, parameters, series.y)
        return sequential.filtered(parameters, series.y)

    def smooth(self, model: StateSpaceModel, series: Series) -> Smoothed:
        """Return smoothed moments and lag-one covariances."""
        parameters = _parameters(model, series)
        run = backends.start(self.backend, parameters, series.y)
        if run is not None:
            return backends.smoothed(run, parameters, series.y)
        return sequential.smoothed(parameters, series.y)

    def log_likelihood(self, model: StateSpaceModel, series: Series) -> Tensor:
        """Return `log p(y_t | y_{1:t-1})` in nats, `(*batch, time)`, differentiable."""
        parameters = _parameters(model, series)
        if self.backend == "autograd":
            return autograd_log_likelihood(parameters, series.y)
        run = backends.start(self.backend, parameters, series.y)
        if run is not None:
            return backends.log_likelihood(run, parameters, series.y)
        return exact_log_likelihood(parameters, series.y)

    def sample_posterior(
        self,
        model: StateSpaceModel,
        series: Series,
        num_samples: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw paths from `p(z_{1:T} | y_{1:T})`, `(num_samples, *batch, time, state)`.

        Source: Durbin & Koopman (2002), Biometrika 89, 603-615.
        """
        parameters = _parameters(model, series)
        mean = partial(_smoothed_mean, self.backend)
        return draw_paths(parameters, series.y, num_samples, mean, generator)

    def forecast(
        self,
        model: StateSpaceModel,
        series: Series,
        horizon: int,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Forecast:
        """Forecast the last `horizon` steps of `series` exactly; joint draws if asked for."""
        filtered = self.filter(model, series)
        parameters = _parameters(model, series)
        mean = filtered.predicted_mean[..., -horizon:, :]
        cov = filtered.predicted_cov[..., -horizon:, :, :]
        C, d, R = (
            _last(x, horizon, axis) for x, axis in zip(parameters.emission, (3, 2, 3), strict=True)
        )
        obs_mean = (C @ mean[..., None])[..., 0] + d
        obs_cov = C @ cov @ C.mT + R
        if num_samples is None:
            return Forecast(obs_mean, obs_cov, None, mean, cov, None)
        paths = self.sample_posterior(model, series, num_samples, generator)[..., -horizon:, :]
        samples = draw_observations(paths, C, d, R, generator)
        return Forecast(obs_mean, obs_cov, samples, mean, cov, paths)

    def fixed_lag(self, model: StateSpaceModel, series: Series, lag: int) -> Smoothed:
        """Return `p(z_t | y_{1:t+lag})` for every `t`; `cross_cov[t]` knows `y_{1:t-1+lag}`.

        Args:
            model: A linear-Gaussian model.
            series: Checked data.
            lag: Steps to wait for, 0 or more.
        """
        return fixed_lag(self, _parameters(model, series), series.y, lag)

    def online(self, model: StateSpaceModel) -> OnlineKalman:
        """Return a filter that takes one observation at a time."""
        return OnlineKalman(model)


def _parameters(model: StateSpaceModel, series: Series) -> LinearParameters:
    if not is_linear_gaussian(model):
        raise ValueError(
            f"`Kalman` needs a linear-Gaussian model (one with `linear_parameters`), got "
            f"{type(model).__name__}. Use `Extended()`, `Unscented()` or `Particle(...)` for it."
        )
    return model.linear_parameters(series.u, series.dt)


def _smoothed_mean(backend: backends.Backend, parameters: LinearParameters, y: Tensor) -> Tensor:
    run = backends.start(backend, parameters, y)
    if run is not None:
        return backends.smoothed_mean(run, parameters, y)
    return sequential.smoothed_mean(parameters, y)


def _last(x: Tensor, horizon: int, event: int) -> Tensor:
    """Entries of the last `horizon` steps of a parameter, or its single entry."""
    axis = x.ndim - event
    return x if x.shape[axis] == 1 else x.narrow(axis, x.shape[axis] - horizon, horizon)
