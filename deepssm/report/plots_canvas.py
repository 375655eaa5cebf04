"""What all plots share: a figure without global state, quiet axes, one palette, shaded gaps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "black"
MUTED = "#8a8f98"
LEVELS = (0.5, 0.9)
COLOURS = ("#2a6fbb", "#d1605e", "#3a9b6c", "#9065b0", "#c98a1b", "#4c9fb3")


def canvas(
    rows: int = 1, columns: int = 1, *, width: float = 8.0, height: float = 2.4, share: bool = True
) -> tuple[Figure, list[Axes]]:
    """Return a figure that no global state knows of, and its axes row by row.

    Args:
        rows: Number of rows.
        columns: Number of columns.
        width: Of the figure, inches.
        height: Of each row, inches.
        share: Whether a column's axes share their horizontal axis.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex="col" if share else False)
    axes = list(grid.flat)
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.tick_params(labelsize=8)
        each.grid(axis="y", color=MUTED, alpha=0.2, linewidth=0.6)
        each.set_axisbelow(True)
    return figure, axes


def numbered(prefix: str, size: int) -> tuple[str, ...]:
    """Return names for what has none."""
    return tuple(f"{prefix}{i}" for i in range(size))


def title(axes: Axes, text: str) -> None:
    """Write a title flush left in small type."""
    axes.set_title(text, loc="left", fontsize=9.5)


def legend(axes: Axes) -> None:
    """Show the legend above the axes, where it hides no data."""
    axes.legend(
        loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=6, fontsize=8, frameon=False,
        borderaxespad=0.2, handlelength=1.4, columnspacing=1.2,
    )  # fmt: skip


def dates(axes: Axes, x: np.ndarray) -> None:
    """Write dates in as few letters as tell them apart."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    if np.issubdtype(x.dtype, np.datetime64):
        locator = AutoDateLocator(minticks=3, maxticks=8)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def positions(index: pd.Index | None, size: int) -> np.ndarray:
    """Return what to plot against: dates, numbers, or step numbers for other labels."""
    import pandas as pd

    if isinstance(index, pd.PeriodIndex):
        index = index.to_timestamp()
    if isinstance(index, pd.DatetimeIndex):
        return (index if index.tz is None else index.tz_localize(None)).to_numpy()
    if index is not None and pd.api.types.is_numeric_dtype(index):
        return index.to_numpy()
    return np.arange(size)


def one_series(value: Tensor, event_dims: int, series: int) -> np.ndarray:
    """Return one series of a batch as an array.

    Args:
        value: `(*batch, *event)`.
        event_dims: Number of axes of the event.
        series: Which one, counted over all batch axes.

    Raises:
        ValueError: there is no such series.
    """
    flat = value.detach().reshape(-1, *value.shape[value.ndim - event_dims :])
    if not -len(flat) <= series < len(flat):
        raise ValueError(
            f"`series` must be below {len(flat)}, the number of series, got {series}."
        )
    return flat[series].cpu().numpy()


def fan(
    axes: Axes,
    x: np.ndarray,
    mean: np.ndarray,
    bands: list[tuple[float, np.ndarray, np.ndarray]],
    colour: str,
    label: str,
) -> None:
    """Draw a line in bands that darken towards it.

    Args:
        axes: Where.
        x: Positions, `(time,)`.
        mean: The line, `(time,)`.
        bands: Level, lower and upper ends; the widest first.
        colour: Of line and bands.
        label: Of the line.
    """
    for level, lower, upper in bands:
        axes.fill_between(
            x, lower, upper, color=colour, alpha=0.22, linewidth=0, label=f"{100 * level:g} %"
        )
    axes.plot(x, mean, color=colour, linewidth=1.3, label=label)


def gaussian_bands(
    mean: np.ndarray, sd: np.ndarray, levels: tuple[float, ...]
) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """Return central bands of a Gaussian, the widest first."""
    wide = sorted(levels, reverse=True)
    width = [float(torch.special.ndtri(torch.tensor((1 + level) / 2))) for level in wide]
    return [(p, mean - w * sd, mean + w * sd) for p, w in zip(wide, width, strict=True)]


def shade_gaps(axes: Axes, x: np.ndarray, missing: np.ndarray, most: int = 400) -> None:
    """Shade runs of steps that nothing was read in; `most` runs at most, the longest."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], missing.astype(int), [0]])))
    runs = sorted(zip(edges[::2], edges[1::2], strict=True), key=lambda r: r[0] - r[1])[:most]
    for i, (first, end) in enumerate(runs):
        ends: Any = x[max(first - 1, 0)], x[min(end, len(x) - 1)]
        label = "no observation" if i == 0 else None
        axes.axvspan(*ends, color=MUTED, alpha=0.2, linewidth=0, zorder=0, label=label)
