"""Pictures of standardised one-step residuals and of auxiliary residuals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..core.results import Disturbances


def plot_residuals(
    standardized: Tensor, lags: int = 20, *, index: pd.Index | None = None
) -> Figure:
    """Draw residuals over time, their histogram, quantiles and autocorrelations.

    Args:
        standardized: Of one component of one series, `(time,)` or `(time, 1)`, NaN allowed.
        lags: Largest lag of the correlogram.
        index: Time labels, such as dates; steps by default.

    Returns:
        A matplotlib figure; nothing is shown or saved.

    Raises:
        ValueError: more than one series is given, or fewer than three residuals.
    """
    from matplotlib.figure import Figure

    if standardized.numel() != standardized.shape[0]:
        raise ValueError(
            f"`standardized` must be one series, `(time,)`, got {tuple(standardized.shape)}. "
            "Choose a series and a component: `r[series, :, component]`."
        )
    e = standardized.detach().double().cpu().reshape(-1)
    if int((~e.isnan()).sum()) < 3:
        raise ValueError("`standardized` must hold at least 3 residuals that are not missing.")
    figure = Figure(figsize=(9.0, 6.0), layout="constrained")
    axes = figure.subplots(2, 2)
    _over_time(axes[0, 0], e, index)
    _histogram(axes[0, 1], e[~e.isnan()])
    _quantiles(axes[1, 0], e[~e.isnan()])
    _correlogram(axes[1, 1], e, min(lags, len(e) - 2))
    return figure


def plot_disturbances(
    disturbances: Disturbances, threshold: float = 3.0, *, columns: Sequence[str] | None = None
) -> Figure:
    """Draw the auxiliary residuals of one series; mark those beyond `threshold`, name the peaks.

    Args:
        disturbances: From `deepssm.disturbances`, of one series.
        threshold: In standard deviations.
        columns: Observations and states to draw, by name; all that have noise by default.

    Returns:
        A matplotlib figure with a panel for each column.

    Raises:
        ValueError: there is more than one series, or nothing to draw.
    """
    from matplotlib.figure import Figure

    if disturbances.state.ndim != 2:
        shape = tuple(disturbances.state.shape)
        raise ValueError(
            f"`disturbances` must be of one series, `(time, state)`, got {shape}. Take them of "
            "that series alone."
        )
    frame = disturbances.to_frame().dropna(axis=1, how="all")
    kept = [name for name in frame.columns if columns is None or name in columns]
    if not kept:
        raise ValueError(f"`columns` must be some of {list(frame.columns)}, got {columns}.")
    figure = Figure(figsize=(9.0, 2.0 * len(kept) + 1.0), layout="constrained")
    axes = figure.subplots(len(kept), 1, sharex=True, squeeze=False)[:, 0]
    for panel, name in zip(axes, kept, strict=True):
        _auxiliary(panel, name, frame[name], threshold)
    axes[-1].set_xlabel(str(frame.index.name or "step"))
    return figure


def _auxiliary(axes: Axes, name: str, residual: pd.Series, threshold: float) -> None:
    from pandas import Period

    axes.vlines(residual.index, 0.0, residual.to_numpy(), linewidth=0.8)
    for height in (-threshold, 0.0, threshold):
        axes.axhline(height, color="0.6", linewidth=0.8, linestyle=":" if height else "-")
    large = residual[residual.abs() > threshold]
    axes.plot(large.index, large.to_numpy(), "o", markersize=4, color="tab:red")
    for when, value in _peaks(residual, threshold).items():
        label = (
            f"{when:%Y-%m-%d}".removesuffix("-01-01")
            if isinstance(when, date | Period)
            else f"{when}"
        )
        place = {"xytext": (4, 0), "textcoords": "offset points"}
        axes.annotate(label, (when, value), fontsize=8, **place)  # type: ignore[arg-type]
    axes.set_title(f"Auxiliary residuals of {name} (dotted: {threshold:g} sd)")
    axes.set_ylabel("sd")


def _peaks(residual: pd.Series, threshold: float) -> pd.Series:
    """Return large residuals with none larger nearby, so that their names do not overlap."""
    size = residual.abs()
    highest = size.rolling(2 * (len(size) // 16) + 1, center=True, min_periods=1).max()
    return residual[(size > threshold) & (size == highest)]


def _over_time(axes: Axes, e: Tensor, index: pd.Index | None) -> None:
    axes.plot(range(len(e)) if index is None else index, e.numpy(), linewidth=0.8)
    for height in (-1.96, 0.0, 1.96):
        axes.axhline(height, color="0.6", linewidth=0.8, linestyle=":" if height else "-")
    axes.set_title("Standardised residuals (dotted: 95 %)")
    axes.set_xlabel("step" if index is None else str(index.name or "step"))


def _histogram(axes: Axes, seen: Tensor) -> None:
    axes.hist(seen.numpy(), bins="auto", density=True, alpha=0.6)
    grid = torch.linspace(-4, 4, 161, dtype=seen.dtype)
    axes.plot(grid.numpy(), (torch.exp(-grid.square() / 2) / math.sqrt(2 * math.pi)).numpy())
    axes.set_title("Histogram and N(0, 1)")
    axes.set_xlabel("residual (sd)")


def _quantiles(axes: Axes, seen: Tensor) -> None:
    order = seen.sort().values
    levels = (torch.arange(len(order), dtype=order.dtype) + 0.5) / len(order)
    theory = torch.special.ndtri(levels)
    axes.plot(theory.numpy(), order.numpy(), ".", markersize=3)
    axes.plot(theory.numpy(), theory.numpy(), linewidth=0.8, color="0.4")
    axes.set_title("Quantiles against N(0, 1)")
    axes.set_xlabel("normal quantile (sd)")


def _correlogram(axes: Axes, e: Tensor, lags: int) -> None:
    from matplotlib.ticker import MaxNLocator

    from ..evaluation.residuals import autocorrelation

    values = [autocorrelation(e, lag) for lag in range(1, lags + 1)]
    heights = [float(r) for r, _ in values]
    bands = [1.96 / math.sqrt(max(int(pairs), 1)) for _, pairs in values]
    steps = list(range(1, lags + 1))
    axes.bar(steps, heights, width=0.3)
    axes.fill_between(steps, [-b for b in bands], bands, color="0.85", zorder=0)
    axes.axhline(0.0, color="0.4", linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("Autocorrelations (grey: 95 %)")
    axes.set_xlabel("lag (steps)")
