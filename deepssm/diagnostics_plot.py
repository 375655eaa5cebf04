"""Four pictures of standardised residuals."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_residuals(standardized: Tensor, lags: int = 20) -> Figure:
    """Draw residuals over time, their histogram, quantiles and autocorrelations.

    Args:
        standardized: Of one component of one series, `(time,)` or `(time, 1)`, NaN allowed.
        lags: Largest lag of the correlogram.

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
    _over_time(axes[0, 0], e)
    _histogram(axes[0, 1], e[~e.isnan()])
    _quantiles(axes[1, 0], e[~e.isnan()])
    _correlogram(axes[1, 1], e, min(lags, len(e) - 2))
    return figure


def _over_time(axes: Axes, e: Tensor) -> None:
    axes.plot(e.numpy(), linewidth=0.8)
    for height in (-1.96, 0.0, 1.96):
        axes.axhline(height, color="0.6", linewidth=0.8, linestyle=":" if height else "-")
    axes.set_title("Standardised residuals (dotted: 95 %)")
    axes.set_xlabel("step")


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
    from .diagnostics import autocorrelation

    values = [autocorrelation(e, lag) for lag in range(1, lags + 1)]
    heights = [float(r) for r, _ in values]
    bands = [1.96 / math.sqrt(max(int(pairs), 1)) for _, pairs in values]
    steps = list(range(1, lags + 1))
    axes.bar(steps, heights, width=0.3)
    axes.fill_between(steps, [-b for b in bands], bands, color="0.85", zorder=0)
    axes.set_title("Autocorrelations (grey: 95 %)")
    axes.set_xlabel("lag (steps)")
