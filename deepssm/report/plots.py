"""Pictures of states and forecasts. Each takes results and returns a matplotlib Figure.

Nothing touches `pyplot`: show a figure in a notebook by returning it, keep it with
`figure.savefig("states.svg")`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ..results import Filtered, Forecast, Smoothed
from .plots_canvas import (
    COLOURS,
    INK,
    canvas,
    dates,
    fan,
    gaussian_bands,
    legend,
    one_series,
    positions,
    shade_gaps,
    title,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from ..models.structural_decomposition import Decomposition

_LEVELS = (0.5, 0.9)


def plot_forecast(
    forecast: Forecast,
    y: Tensor | None = None,
    *,
    index: pd.Index | None = None,
    truth: Tensor | None = None,
    levels: tuple[float, ...] = _LEVELS,
    past: int = 200,
    series: int = 0,
) -> Figure:
    """Draw a fan for each observed component, after its past and over what came true.

    Args:
        forecast: The forecast; dates come from its `index`.
        y: The past, `(*batch, time, obs)`.
        index: Labels of the past.
        truth: What came true, `(*batch, horizon, obs)`.
        levels: Levels of the bands.
        past: Steps of the past to show.
        series: Which series of a batch.
    """
    horizon, obs = forecast.mean.shape[-2:]
    mean = one_series(forecast.mean, 2, series)
    bands = [
        (p, *(one_series(end, 2, series) for end in forecast.interval(p)))
        for p in sorted(levels, reverse=True)
    ]
    seen = None if y is None else one_series(y, 2, series)[-past:]
    before, ahead = _times(forecast.index, index, 0 if seen is None else len(seen), horizon)
    names = forecast.names or _numbered("y", obs)
    figure, axes = canvas(obs, height=2.6)
    for i, (each, name) in enumerate(zip(axes, names, strict=True)):
        if seen is not None:
            each.plot(before, seen[:, i], color=INK, linewidth=0.8, label="past")
        parts = [(p, lower[:, i], upper[:, i]) for p, lower, upper in bands]
        fan(each, ahead, mean[:, i], parts, COLOURS[i % len(COLOURS)], "forecast")
        if truth is not None:
            came = one_series(truth, 2, series)[:, i]
            each.plot(ahead, came, "o", markersize=2, color=INK, label="came true")
        title(each, name)
    legend(axes[0])
    dates(axes[-1], ahead)
    return figure


def plot_states(
    result: Filtered | Smoothed,
    *,
    y: Tensor | None = None,
    truth: Tensor | None = None,
    levels: tuple[float, ...] = _LEVELS,
    components: tuple[int, ...] | None = None,
    series: int = 0,
) -> Figure:
    """Draw each state with its bands; steps without any reading are shaded.

    Args:
        result: What filtering or smoothing returned.
        y: The data, `(*batch, time, obs)`, of which only the gaps are used.
        truth: True states, `(*batch, time, state)`.
        levels: Levels of the bands.
        components: Which states to draw; by default all.
        series: Which series of a batch.
    """
    mean = one_series(result.mean, 2, series)
    sd = np.sqrt(np.diagonal(one_series(result.cov, 3, series), axis1=-2, axis2=-1))
    # A diffuse start has no band to draw yet.
    sd = np.where(np.isfinite(sd), sd, np.nan)
    x = positions(result.index, len(mean))
    names = result.names or _numbered("z", mean.shape[-1])
    chosen = tuple(range(mean.shape[-1])) if components is None else components
    label = "smoothed" if isinstance(result, Smoothed) else "filtered"
    figure, axes = canvas(len(chosen), height=2.1)
    for each, i in zip(axes, chosen, strict=True):
        if y is not None:
            shade_gaps(each, x, np.asarray(np.isnan(one_series(y, 2, series)).all(-1)))
        colour = COLOURS[i % len(COLOURS)]
        fan(each, x, mean[:, i], gaussian_bands(mean[:, i], sd[:, i], levels), colour, label)
        if truth is not None:
            true = one_series(truth, 2, series)[:, i]
            each.plot(x, true, color=INK, linewidth=0.8, label="truth")
        title(each, names[i])
    legend(axes[0])
    dates(axes[-1], x)
    return figure


def plot_components(
    decomposition: Decomposition,
    y: Tensor | None = None,
    *,
    levels: tuple[float, ...] = _LEVELS,
    series: int = 0,
) -> Figure:
    """Draw what each component of a structural model adds to the observations.

    Args:
        decomposition: From a structural model's `decompose`.
        y: The data, `(*batch, time, 1)`, drawn over the first component's panel with its gaps.
        levels: Levels of the bands.
        series: Which series of a batch.
    """
    mean = one_series(decomposition.mean, 2, series)
    sd = np.sqrt(np.clip(one_series(decomposition.variance, 2, series), 0, None))
    x = positions(decomposition.index, len(mean))
    names = decomposition.names or _numbered("component ", mean.shape[-1])
    figure, axes = canvas(len(names), height=2.1)
    for i, (each, name) in enumerate(zip(axes, names, strict=True)):
        bands = gaussian_bands(mean[:, i], sd[:, i], levels)
        if y is not None and i == 0:
            seen = one_series(y, 2, series)[:, 0]
            shade_gaps(each, x, np.isnan(seen))
            each.plot(x, seen, ".", markersize=2, color=INK, label="reading")
        fan(each, x, mean[:, i], bands, COLOURS[i % len(COLOURS)], "mean")
        title(each, name)
    legend(axes[0])
    dates(axes[-1], x)
    return figure


def _numbered(prefix: str, size: int) -> tuple[str, ...]:
    return tuple(f"{prefix}{i}" for i in range(size))


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
