"""Rolling-origin evaluation: forecast from many points of a series."""

from __future__ import annotations

import copy
from typing import NamedTuple, cast

import torch
from torch import Tensor

from ..core.autoregressive import own_inputs
from ..core.gradients import gradients_on
from ..core.methods import InferenceMethod, LearningMethod
from ..core.model import Series, StateSpaceModel
from ..core.results import Forecast
from ..evaluation.backtests import Backtest, Forecaster, Refit
from ..evaluation.scores import naive_error
from . import verbs as api
from .fitting import fit
from .validation import Checked, Data, as_labelled_series, truncated, unlabelled


def backtest(
    model: StateSpaceModel | Forecaster,
    y: Data,
    u: Data | None = None,
    *,
    start: int | float,
    horizon: int,
    stride: int | None = None,
    refit: Refit = False,
    method: InferenceMethod | None = None,
    learner: LearningMethod | None = None,
    dt: Data | float | None = None,
    lengths: Data | None = None,
    period: int = 1,
    num_samples: int | None = None,
    generator: torch.Generator | None = None,
) -> Backtest:
    """Forecast from a series of origins, each time with the past alone, and keep what came next.

    Args:
        model: A state space model, or any function of the past and a horizon, such as
            `SeasonalNaive(52)`.
        y: Observations, `(*batch, time, obs)` or a frame.
        u: Inputs, `(*batch, time, input)`; the future ones are taken as known.
        start: Steps before the first forecast, or their share of the series in (0, 1).
        horizon: Steps ahead.
        stride: Steps between origins; by default `horizon`, so that no value is scored twice.
        refit: Learn the parameters from the past at every origin; `"first"`, at the first one
            only; `False`, take the model as it is (then it must not have seen what is scored).
            Your model is never changed: a copy is fitted.
        method: How to infer states; by default as in `forecast`, or what the learner returned.
        learner: How to learn, when refitting; by default as in `fit`.
        dt: Time steps, a number or `(*batch, time)`.
        lengths: Valid steps of each series, `(*batch,)`; what follows them is not scored.
        period: Season in steps of the naive forecast that is the unit of MASE.
        num_samples: Draws of each forecast.
        generator: Source of randomness.

    Returns:
        Forecasts with what came true; `.scores()` gives a table.

    Raises:
        ValueError: `start`, `horizon` and `stride` leave no forecast to score.

    Source:
        Tashman (2000), Out-of-sample tests of forecasting accuracy.
    """
    series, labels = _prepare(model, y, u, dt, lengths)
    origins = _origins(series.time, start, horizon, horizon if stride is None else stride)
    rolling = _Rolling(horizon, refit, method, learner, num_samples, generator)
    forecasts = rolling.run(model, series, origins)
    held_out = torch.stack([series.y[..., o : o + horizon, :] for o in origins])
    scale = naive_error(series.y[..., : origins[0], :], period)
    result = Backtest(_stack(forecasts), held_out, torch.tensor(origins), scale)
    return result.labelled(labels.index, labels.names)


class _Rolling(NamedTuple):
    """What stays the same from origin to origin."""

    horizon: int
    refit: Refit
    method: InferenceMethod | None
    learner: LearningMethod | None
    num_samples: int | None
    generator: torch.Generator | None

    def run(
        self, model: StateSpaceModel | Forecaster, series: Series, origins: list[int]
    ) -> list[Forecast]:
        if not isinstance(model, StateSpaceModel):
            return [model(series.y[..., :origin, :], self.horizon) for origin in origins]
        forecasts: list[Forecast] = []
        current, method = model, self.method
        for i, origin in enumerate(origins):
            if self.refit is True or (self.refit == "first" and i == 0):
                current, method = self._learn(model, _slice(series, 0, origin))
            forecasts.append(self._forecast(current, series, origin, method))
        return forecasts

    def _learn(
        self, model: StateSpaceModel, past: Series
    ) -> tuple[StateSpaceModel, InferenceMethod]:
        with gradients_on():
            fresh = copy.deepcopy(model)
        found = fit(
            fresh, past.y, past.u, dt=past.dt, method=self.learner, progress=False,
            generator=self.generator,
        )  # fmt: skip
        return found.model, self.method or found.method

    def _forecast(
        self, model: StateSpaceModel, series: Series, origin: int, method: InferenceMethod | None
    ) -> Forecast:
        past = _slice(series, 0, origin)
        future = _slice(series, origin, origin + self.horizon)
        with torch.no_grad():
            return api.forecast(
                model, past.y, self.horizon, past.u, u_future=future.u, dt=past.dt,
                dt_future=future.dt, num_samples=self.num_samples, method=method,
                generator=self.generator,
            )  # fmt: skip


def _prepare(
    model: StateSpaceModel | Forecaster,
    y: Data,
    u: Data | None,
    dt: Data | float | None,
    lengths: Data | None,
) -> Checked:
    if isinstance(model, StateSpaceModel):
        series, labels = as_labelled_series(model, y, u, dt=dt, lengths=lengths)
        return Checked(series._replace(u=own_inputs(model, series.u)), labels)
    plain, labels = unlabelled(y, regular=dt is None)
    values = torch.as_tensor(plain)
    values = values[:, None] if values.ndim == 1 else values
    return Checked(Series(values if lengths is None else truncated(values, lengths)), labels)


def _origins(time: int, start: int | float, horizon: int, stride: int) -> list[int]:
    first = int(start * time) if isinstance(start, float) else start
    if horizon < 1 or stride < 1:
        raise ValueError(f"`horizon` and `stride` must be at least 1, got {horizon} and {stride}.")
    if not 2 <= first <= time - horizon:
        raise ValueError(
            f"`start` must leave a past of at least 2 steps and a future of `horizon` = {horizon} "
            f"steps in a series of {time}, got {start} ({first} steps of past). Start earlier or "
            "forecast less far."
        )
    return list(range(first, time - horizon + 1, stride))


def _slice(series: Series, begin: int, end: int) -> Series:
    u, dt = series.u, series.dt
    return Series(
        series.y[..., begin:end, :],
        None if u is None else u[..., begin:end, :],
        dt if dt is None or dt.ndim == 0 else dt[..., begin:end],
    )


def _stack(forecasts: list[Forecast]) -> Forecast:
    draws = [forecast.samples for forecast in forecasts]
    result = Forecast(
        torch.stack([forecast.mean for forecast in forecasts]),
        torch.stack([forecast.cov for forecast in forecasts]),
        None if None in draws else torch.stack(cast("list[Tensor]", draws), dim=1),
    )
    result.gaussian = all(forecast.gaussian for forecast in forecasts)
    return result
