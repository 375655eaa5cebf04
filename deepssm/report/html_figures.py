"""The two figures that only the report page has: readings close up, and methods side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .plots_canvas import (
    COLOURS,
    INK,
    canvas,
    dates,
    fan,
    gaussian_bands,
    legend,
    shade_gaps,
    title,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVELS = (0.5, 0.9)


class Fan(NamedTuple):
    """One method's forecast and what came true.

    Attributes:
        name: Of the method.
        mean: `(horizon,)`.
        bands: Lower and upper ends by level.
        truth: `(horizon,)`, NaN where nothing was seen.
    """

    name: str
    mean: np.ndarray
    bands: Mapping[float, tuple[np.ndarray, np.ndarray]]
    truth: np.ndarray


def plot_readings(
    x: np.ndarray, y: np.ndarray, mean: np.ndarray, sd: np.ndarray, *, unit: str, rows: int
) -> Figure:
    """Draw readings and what smoothing makes of them, whole and close up.

    Args:
        x: Positions, `(time,)`.
        y: Readings, `(time,)`, NaN where missing.
        mean: Smoothed readings, `(time,)`.
        sd: Their standard deviations, noise included, `(time,)`.
        unit: Label of the vertical axes.
        rows: Rows of the close-up, which is laid where most readings are missing.
    """
    missing = np.isnan(y)
    start = _most_gaps(missing, rows)
    cut = slice(start, start + rows)
    figure, (whole, close) = canvas(2, width=9, height=2.6, share=False)
    whole.plot(x, y, color=INK, linewidth=0.6)
    shade_gaps(whole, x, missing)
    title(whole, "all readings")
    shade_gaps(close, x[cut], missing[cut])
    bands = gaussian_bands(mean[cut], sd[cut], LEVELS)
    fan(close, x[cut], mean[cut], bands, COLOURS[0], "smoothed")
    close.plot(x[cut], y[cut], "o", markersize=2, color=INK, label="reading")
    title(close, f"{rows} rows close up")
    legend(close)
    for axes, part in ((whole, x), (close, x[cut])):
        axes.set_ylabel(unit)
        dates(axes, part)
    return figure


def plot_methods(
    past: np.ndarray, y: np.ndarray, ahead: np.ndarray, fans: Sequence[Fan], *, unit: str
) -> Figure:
    """Draw each method's forecast after the end of the past, one panel each.

    Args:
        past: Positions of the past shown.
        y: Its readings.
        ahead: Positions of the steps ahead.
        fans: The forecasts.
        unit: Label of the vertical axes.
    """
    figure, panels = canvas(len(fans), width=9, height=2.1)
    for i, (axes, method) in enumerate(zip(panels, fans, strict=True)):
        axes.plot(past, y, color=INK, linewidth=0.8)
        bands = [(p, *method.bands[p]) for p in sorted(method.bands, reverse=True)]
        fan(axes, ahead, method.mean, bands, COLOURS[i % len(COLOURS)], "mean")
        axes.plot(ahead, method.truth, "o", markersize=2, color=INK, label="came true")
        axes.set_ylabel(unit)
        title(axes, method.name)
        legend(axes)
    dates(panels[-1], np.concatenate([past, ahead]))
    return figure


def _most_gaps(missing: np.ndarray, rows: int) -> int:
    """Return the start of the window with most missing readings, the last one if there is none."""
    if rows >= len(missing):
        return 0
    counts = np.convolve(missing, np.ones(rows), "valid")
    return int(np.argmax(counts)) if counts.max() else len(missing) - rows
