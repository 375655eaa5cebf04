"""Rolling-origin evaluation: forecast from many points of a series and score what came next."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import torch
from torch import Tensor

from ..core.model import InferenceMethod, LearningMethod, Series, StateSpaceModel
from ..core.results import Forecast, Labelled
from .scores import covered, crps, log_score, naive_error, scaled_error

if TYPE_CHECKING:
    import pandas as pd

    from ..api.validation import Data

Forecaster = Callable[[Tensor, int], Forecast]
"""Maps a past `(*batch, time, obs)` and a horizon to a forecast, as `SeasonalNaive(52)` does."""

Refit = bool | Literal["first"]

Grouping = Literal["overall", "horizon", "origin", "column"]


class _BacktestFields(NamedTuple):
    forecast: Forecast
    y: Tensor
    origins: Tensor
    scale: Tensor


class Backtest(Labelled, _BacktestFields):
    """Forecasts from several origins and what came true.

    Attributes:
        forecast: All forecasts, with a leading axis `origin` before the batch axes.
        y: What happened, `(origin, *batch, horizon, obs)`; NaN where nothing was seen.
        origins: Number of steps each forecast had seen, `(origin,)`.
        scale: Error of the naive forecast in the first past, `(*batch, obs)`: the unit of MASE.
        index: Row labels of the data, or `None`.
        names: Names of the observed columns, or `None`.
    """

    def scores(self, by: Grouping = "overall", level: float = 0.9) -> pd.DataFrame:
        """Average the scores; missing observations are left out.

        Args:
            by: One row for all, for each step ahead, for each origin or for each column.
            level: Nominal coverage of the interval whose coverage and width are reported.

        Returns:
            Columns `crps`, `log_score` (negative log density, nats a step), `cov90`, `width90`
            (named after `level`), `mase` and `count` (observations scored). All but coverage are
            better when lower. There is no `log_score` by column, for it judges them jointly.
        """
        import pandas as pd

        lower, upper = self.forecast.interval(level)
        seen = torch.where(self.y.isnan(), torch.nan, 1.0)
        percent = f"{100 * level:g}"
        parts = {
            "crps": crps(self.forecast, self.y),
            "log_score": log_score(self.y, self.forecast.mean, self.forecast.cov)[..., None],
            f"cov{percent}": covered(self.y, lower, upper),
            f"width{percent}": (upper - lower) * seen,
            "mase": scaled_error(self.y, self.forecast.mean, self.scale),
            "count": seen,
        }
        if by == "column":
            parts.pop("log_score")
        columns = {name: _average(part, by, name == "count") for name, part in parts.items()}
        return pd.DataFrame(columns, index=self._rows(by)).astype({"count": int})

    def _rows(self, by: Grouping) -> pd.Index:
        import pandas as pd

        if by == "overall":
            return pd.Index(["overall"])
        if by == "horizon":
            return pd.RangeIndex(1, self.y.shape[-2] + 1, name="horizon")
        if by == "column":
            default = [f"y{i}" for i in range(self.y.shape[-1])]
            return pd.Index(self.names or default, name="column")
        seen = self.origins.tolist()
        if self.index is None:
            return pd.Index(seen, name="origin")
        return self.index[[count - 1 for count in seen]].rename("origin")


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
    series, labels = _prepare(model, y, u, dt)
    origins = _origins(series.time, start, horizon, horizon if stride is None else stride)
    rolling = _Rolling(horizon, refit, method, learner, num_samples, generator)
    forecasts = rolling.run(model, series, origins)
    held_out = torch.stack([series.y[..., o : o + horizon, :] for o in origins])
    scale = naive_error(series.y[..., : origins[0], :], period)
    result = Backtest(_stack(forecasts), held_out, torch.tensor(origins), scale)
    return result.labelled(*labels)


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
        forecasts, current, method = [], model, self.method
        for i, origin in enumerate(origins):
            if self.refit is True or (self.refit == "first" and i == 0):
                current, method = self._learn(model, _slice(series, 0, origin))
            forecasts.append(self._forecast(current, series, origin, method))
        return forecasts

    def _learn(
        self, model: StateSpaceModel, past: Series
    ) -> tuple[StateSpaceModel, InferenceMethod]:
        from ..api import verbs as api

        fresh = copy.deepcopy(model)
        found = api.fit(
            fresh, past.y, past.u, dt=past.dt, method=self.learner, progress=False,
            generator=self.generator,
        )  # fmt: skip
        return fresh, self.method or found.method

    def _forecast(
        self, model: StateSpaceModel, series: Series, origin: int, method: InferenceMethod | None
    ) -> Forecast:
        from ..api import verbs as api

        past = _slice(series, 0, origin)
        future = _slice(series, origin, origin + self.horizon)
        with torch.no_grad():
            return api.forecast(
                model, past.y, self.horizon, u=past.u, u_future=future.u, dt=past.dt,
                dt_future=future.dt, num_samples=self.num_samples, method=method,
                generator=self.generator,
            )  # fmt: skip


def _prepare(
    model: StateSpaceModel | Forecaster, y: Data, u: Data | None, dt: Data | float | None
) -> tuple[Series, tuple[pd.Index | None, tuple[str, ...] | None]]:
    from ..api.validation import as_series, labels_of
    from ..core.autoregressive import own_inputs
    from ..io.frames import from_frame, is_frame

    labels = labels_of(y)
    if isinstance(model, StateSpaceModel):
        series = as_series(model, y, u, dt)
        series = series._replace(u=own_inputs(model, series.u))
    else:
        values = from_frame(y).y if is_frame(y) else torch.as_tensor(y)
        series = Series(values[:, None] if values.ndim == 1 else values)
    return series, (labels.index, labels.names)


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
    return Forecast(
        torch.stack([forecast.mean for forecast in forecasts]),
        torch.stack([forecast.cov for forecast in forecasts]),
        None if None in draws else torch.stack(cast("list[Tensor]", draws), dim=1),
    )


def _average(part: Tensor, by: Grouping, total: bool) -> list[float]:
    """Average (or add) a score `(origin, *batch, horizon, obs)` over all axes but one."""
    axis = {"overall": None, "horizon": -2, "origin": 0, "column": -1}[by]
    part = part.detach()
    rows = part.reshape(1, -1) if axis is None else part.movedim(axis, 0).flatten(1)
    return (rows.nansum(-1) if total else rows.nanmean(-1)).tolist()
