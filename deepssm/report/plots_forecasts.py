"""Pictures of forecasts: one of several components, or several of one component."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from ..core.model import Data
from ..core.results import Forecast
from ..io.arrays import read_numbers
from ..io.frames import is_frame, read_frame
from ..io.row_labels import is_default
from .plots_canvas import (
    COLOURS,
    INK,
    LEVELS,
    canvas,
    dates,
    fan,
    legend,
    numbered,
    one_series,
    positions,
    title,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_forecast(
    forecast: Forecast,
    y: Data | None = None,
    *,
    index: pd.Index | None = None,
    truth: Data | None = None,
    levels: tuple[float, ...] = LEVELS,
    past: int = 200,
    series: int = 0,
) -> Figure:
    """Draw a fan for each observed component, after its past and over what came true.

    Args:
        forecast: The forecast; dates come from its `index`.
        y: The past, `(*batch, time, obs)`, or a frame or series.
        index: Labels of the past; by default those of the frame.
        truth: What came true, `(*batch, horizon, obs)`, or a frame or series.
        levels: Levels of the bands.
        past: Steps of the past to show.
        series: Which series of a batch.
    """
    around = _around(forecast, y, index, truth, past, series)
    obs = forecast.mean.shape[-1]
    figure, axes = canvas(obs, height=2.6)
    for i, name in enumerate(forecast.names or numbered("y", obs)):
        _panel(axes[i], forecast, around, levels, series, i, i, "forecast")
        title(axes[i], name)
    legend(axes[0])
    dates(axes[-1], around.ahead)
    return figure


def plot_methods(
    forecasts: Mapping[str, Forecast],
    y: Data | None = None,
    *,
    index: pd.Index | None = None,
    truth: Data | None = None,
    levels: tuple[float, ...] = LEVELS,
    past: int = 200,
    component: int = 0,
    series: int = 0,
) -> Figure:
    """Draw what several methods forecast of the same component, one panel each.

    Args:
        forecasts: By method; dates come from the first one's `index`.
        y: The past, `(*batch, time, obs)`, or a frame or series.
        index: Labels of the past; by default those of the frame.
        truth: What came true, `(*batch, horizon, obs)`, or a frame or series.
        levels: Levels of the bands.
        past: Steps of the past to show.
        component: Which component of the observations.
        series: Which series of a batch.
    """
    first = next(iter(forecasts.values()))
    around = _around(first, y, index, truth, past, series)
    figure, axes = canvas(len(forecasts), width=9, height=2.1)
    for i, (name, forecast) in enumerate(forecasts.items()):
        _panel(axes[i], forecast, around, levels, series, component, i, "mean")
        axes[i].set_ylabel((first.names or numbered("y", component + 1))[component])
        title(axes[i], name)
        legend(axes[i])
    dates(axes[-1], np.concatenate([around.before, around.ahead]))
    return figure


class _Around(NamedTuple):
    """Where a forecast stands: positions and values of past and future, `None` if not known."""

    before: np.ndarray
    ahead: np.ndarray
    seen: np.ndarray | None
    came: np.ndarray | None


def _around(
    forecast: Forecast,
    y: Data | None,
    index: pd.Index | None,
    truth: Data | None,
    past: int,
    series: int,
) -> _Around:
    values, own = _taken("y", y)
    later, _ = _taken("truth", truth)
    index = own if index is None else index
    seen = None if values is None else one_series(values, 2, series)[-past:]
    came = None if later is None else one_series(later, 2, series)
    size = 0 if seen is None else len(seen)
    before, ahead = _times(forecast.index, index, size, forecast.mean.shape[-2])
    return _Around(before, ahead, seen, came)


def _taken(name: str, value: Data | None) -> tuple[Tensor | None, pd.Index | None]:
    """Return numbers, `(*batch, time, obs)`, and the labels of a frame."""
    if value is None:
        return None, None
    if is_frame(value):
        data, _ = read_frame(value, name)
        return data.y, None if is_default(data.index) else data.index
    values = read_numbers(name, value)
    return values[:, None] if values.ndim == 1 else values, None


def _panel(
    axes: Axes,
    forecast: Forecast,
    around: _Around,
    levels: tuple[float, ...],
    series: int,
    component: int,
    colour: int,
    label: str,
) -> None:
    """Draw the past, one component's fan and what came true."""
    mean = one_series(forecast.mean, 2, series)[:, component]
    bands = []
    for level in sorted(levels, reverse=True):
        lower, upper = (one_series(x, 2, series)[:, component] for x in forecast.interval(level))
        bands.append((level, lower, upper))
    if around.seen is not None:
        axes.plot(around.before, around.seen[:, component], color=INK, linewidth=0.8, label="past")
    fan(axes, around.ahead, mean, bands, COLOURS[colour % len(COLOURS)], label)
    if around.came is not None:
        came = around.came[:, component]
        axes.plot(around.ahead, came, "o", markersize=2, color=INK, label="came true")


def _times(
    ahead: pd.Index | None, before: pd.Index | None, past: int, horizon: int
) -> tuple[np.ndarray, np.ndarray]:
    """Place past and future on one axis: by their labels if both have them, else by steps."""
    later = positions(ahead, horizon)
    if past == 0:
        return np.arange(0), later
    if before is not None and ahead is not None:
        earlier = positions(before, len(before))[-past:]
        if earlier.dtype.kind == later.dtype.kind and earlier[-1] < later[0]:
            return earlier, later
    return np.arange(-past, 0) + 1, np.arange(horizon) + 1
