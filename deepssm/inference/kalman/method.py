"""Exact inference in linear-Gaussian models: `Kalman`, a square-root filter and smoother."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from ...core.abilities import is_linear_gaussian
from ...core.model import LinearParameters, Series, StateSpaceModel
from ...core.results import Filtered, Forecast, Smoothed
from . import backends, sequential
from .autograd import autograd_log_likelihood
from .cpu.gradient import exact_log_likelihood
from .cpu.problem import batch_shape
from .fixed_lag import fixed_lag
from .forecasting import forecast, without_open
from .online import OnlineKalman
from .robust import Doubted, WeighsObservations, doubted
from .simulation_smoother import draw_paths

_R = TypeVar("_R", Filtered, Smoothed)


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
        robust: What to do about outliers: `Gate()`, `StudentT()`, `Huber()` or nothing. What it
            made of each observation is `trust` of the results. It runs through the series one
            step at a time first, and is for inference: learning refuses it.

    Source: Kalman (1960); Bierman (1977); Durbin & Koopman (2012), ch. 4 to 7.
    """

    backend: backends.Backend = "auto"
    robust: WeighsObservations | None = None
    takes_empty_series = True

    def filter(self, model: StateSpaceModel, series: Series) -> Filtered:
        """Return filtered and predicted moments and the log-likelihood of each step."""
        parameters, y, trust, extra = self._given(model, series)
        run = backends.start(self.backend, parameters, y)
        if run is not None:
            result = backends.filtered(run, parameters, y)
        else:
            result = sequential.filtered(parameters, y)
        return result if trust is None else _doubted(result, trust, extra)

    def smooth(self, model: StateSpaceModel, series: Series) -> Smoothed:
        """Return smoothed moments and lag-one covariances."""
        parameters, y, trust, extra = self._given(model, series)
        run = backends.start(self.backend, parameters, y)
        if run is not None:
            result = backends.smoothed(run, parameters, y)
        else:
            result = sequential.smoothed(parameters, y)
        return result if trust is None else _doubted(result, trust, extra)

    def log_likelihood(self, model: StateSpaceModel, series: Series) -> Tensor:
        """Return `log p(y_t | y_{1:t-1})` in nats, `(*batch, time)`, differentiable.

        Raises:
            ValueError: It is to be differentiated through `robust`.
        """
        parameters, y, trust, extra = self._given(model, series, learning=True)
        score = self._score(parameters, y)
        return score if trust is None else score + extra

    def _score(self, parameters: LinearParameters, y: Tensor) -> Tensor:
        if self.backend == "autograd":
            return autograd_log_likelihood(parameters, y)
        run = backends.start(self.backend, parameters, y)
        if run is not None:
            return backends.log_likelihood(run, parameters, y)
        return exact_log_likelihood(parameters, y)

    def trust(self, model: StateSpaceModel, series: Series) -> Tensor:
        """Return how far each observation was trusted, `(*batch, time, obs)`.

        1 is in full, 0 is rejected by a gate, NaN is missing. Without `robust` all is trusted.
        """
        parameters, y, trust, _ = self._given(model, series)
        whole = torch.where(series.y.isnan(), torch.nan, 1.0)
        return whole.expand(*batch_shape(parameters, y), *y.shape[-2:]) if trust is None else trust

    def sample_posterior(
        self,
        model: StateSpaceModel,
        series: Series,
        num_samples: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw paths from `p(z_{1:T} | y_{1:T})`, `(num_samples, *batch, time, state)`.

        NaN where the data leave a diffuse start open: there is nothing to draw from.

        Source: Durbin & Koopman (2002), Biometrika 89, 603-615.
        """
        paths = self.finite_paths(model, series, num_samples, generator)
        if self._given(model, series)[0].initial.diffuse is None:
            return paths
        return without_open(paths, self.smooth(model, series).cov)

    def finite_paths(
        self,
        model: StateSpaceModel,
        series: Series,
        num_samples: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw paths as `sample_posterior` does, open directions fixed at their start.

        Observations drawn from them are right wherever the data determine their distribution.
        """
        mean = partial(_smoothed_mean, self.backend)
        parameters, y, *_ = self._given(model, series)
        return draw_paths(parameters, y, num_samples, mean, generator)

    def forecast(
        self,
        model: StateSpaceModel,
        series: Series,
        horizon: int,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Forecast:
        """Forecast the last `horizon` steps of `series` exactly; joint draws if asked for."""
        parameters, y, *_ = self._given(model, series)
        plain = replace(self, robust=None)
        return forecast(plain, parameters, y, horizon, num_samples, generator)

    def fixed_lag(self, model: StateSpaceModel, series: Series, lag: int) -> Smoothed:
        """Return `p(z_t | y_{1:t+lag})` for every `t`; `cross_cov[t]` knows `y_{1:t-1+lag}`.

        Args:
            model: A linear-Gaussian model.
            series: Checked data.
            lag: Steps to wait for, 0 or more.
        """
        parameters, y, trust, extra = self._given(model, series)
        result = fixed_lag(replace(self, robust=None), parameters, y, lag)
        return result if trust is None else _doubted(result, trust, extra)

    def online(self, model: StateSpaceModel) -> OnlineKalman:
        """Return a filter that takes one observation at a time."""
        return OnlineKalman(model, self.robust)

    def _given(self, model: StateSpaceModel, series: Series, *, learning: bool = False) -> Doubted:
        """Return the matrices and data to filter, and how far observations were trusted."""
        parameters = _parameters(model, series)
        if self.robust is None:
            return Doubted(parameters, series.y, None, series.y.new_zeros(()))
        start, transition, emission = parameters
        tensors = (start.mean, start.cov, *transition, *emission)
        if learning and torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
            raise ValueError(
                "`Kalman(robust=...)` infers states but does not learn: its weights are no "
                "differentiable function of the parameters. Learn with `Kalman()`, or a model "
                "with heavy tails, and infer with `robust` afterwards."
            )
        return doubted(parameters, series.y, self.robust)


def _doubted(result: _R, trust: Tensor, extra: Tensor) -> _R:
    """Return a result with its trust, and what its scores lack added."""
    scored = result._replace(log_likelihood=result.log_likelihood + extra)
    vars(scored).update(vars(result))
    scored.trust = trust
    return scored


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
