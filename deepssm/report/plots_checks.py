"""Pictures of how good a model is: calibration and consistency."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..evaluation.calibration import Reliability
from ..evaluation.consistency import Innovations, nis
from ..evaluation.scores import covered, crps
from .plots_canvas import COLOURS, INK, MUTED, canvas, dates, legend, one_series, positions, title

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..evaluation.backtests import Backtest


def plot_pit(pit: Tensor, *, bins: int = 10, band: float = 0.9) -> Figure:
    """Draw the histogram of probability integral transforms, flat if forecasts are calibrated.

    A hump means intervals that are too wide, a bowl too narrow, a slope a bias.

    Args:
        pit: Transforms of any shape; NaN entries are left out.
        bins: Number of bars.
        band: Probability that a bar of a right forecast ends in the shaded band (independent
            observations, each bar for itself).

    Source:
        Diebold, Gunther and Tay (1998), Evaluating density forecasts.
    """
    from scipy.stats import binom

    seen = pit[~pit.isnan()].detach().cpu().numpy()
    count = max(len(seen), 1)
    height = np.histogram(seen, np.linspace(0, 1, bins + 1))[0] * bins / count
    low, high = binom.ppf([(1 - band) / 2, (1 + band) / 2], count, 1 / bins) * bins / count
    figure, (axes,) = canvas(width=4.2, height=2.6)
    axes.bar((np.arange(bins) + 0.5) / bins, height, 0.94 / bins, color=COLOURS[0], alpha=0.75)
    axes.axhspan(
        low, high, color=MUTED, alpha=0.4, linewidth=0, zorder=0, label=f"chance, {100 * band:g} %"
    )
    axes.axhline(1, color=INK, linewidth=0.8)
    axes.set(xlabel="probability integral transform", ylabel="density", xlim=(0, 1))
    legend(axes)
    title(axes, f"{len(seen)} values")
    return figure


def plot_reliability(curves: Mapping[str, Reliability]) -> Figure:
    """Draw observed against nominal coverage; a curve below the diagonal is overconfident.

    Args:
        curves: Results of `deepssm.evaluation.reliability` by method. The band of chance is drawn
            for the one with the fewest observations.
    """
    fewest = min(curves.values(), key=lambda curve: curve.count)
    figure, (axes,) = canvas(width=4.2, height=3.6)
    x, lower, upper = (v.cpu().numpy() for v in (fewest.level, fewest.lower, fewest.upper))
    axes.fill_between(x, lower, upper, color=MUTED, alpha=0.3, linewidth=0, label="chance")
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8)
    for i, (name, curve) in enumerate(curves.items()):
        axes.plot(
            curve.level.cpu(), curve.coverage.cpu(), "o-", markersize=3, linewidth=1.3,
            color=COLOURS[i % len(COLOURS)], label=name,
        )  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="nominal coverage", ylabel="observed coverage")
    axes.set_aspect("equal")
    axes.legend(loc="upper left", fontsize=8, frameon=False)
    return figure


def plot_innovations(
    found: Innovations, *, index: pd.Index | None = None, component: int = 0, series: int = 0
) -> Figure:
    """Draw the moving mean of the NIS and the autocorrelation of one component's innovations.

    Args:
        found: Result of `deepssm.evaluation.innovations`.
        index: Labels of the steps.
        component: Whose autocorrelation.
        series: Which series of a batch.
    """
    squared = nis(found)
    value, dof = one_series(squared.value, 1, series), one_series(squared.dof, 1, series)
    errors = one_series(found.standardized, 2, series)[:, component]
    figure, (left, right) = canvas(columns=2, width=9, height=2.6, share=False)
    x = positions(index, len(value))
    _moving_nis(left, x, value, dof)
    dates(left, x)
    lags, values, bound = _autocorrelation(errors)
    right.axhspan(-bound, bound, color=MUTED, alpha=0.3, linewidth=0, label="chance, 95 %")
    right.vlines(lags, 0, values, color=COLOURS[0], linewidth=2)
    right.axhline(0, color=INK, linewidth=0.8)
    right.set(xlabel="lag")
    title(right, "autocorrelation")
    legend(right)
    return figure


def plot_horizons(
    backtests: Mapping[str, Backtest], *, level: float = 0.9, groups: int = 13
) -> Figure:
    """Draw coverage and CRPS against the steps ahead, several steps to a dot.

    Args:
        backtests: By method. The band of chance is drawn for the one with the fewest
            observations and takes them as independent.
        level: Nominal coverage of the intervals.
        groups: Most dots a curve.
    """
    figure, (left, right) = canvas(columns=2, width=9, height=2.8, share=False)
    fewest = None
    for i, (name, found) in enumerate(backtests.items()):
        inside = covered(found.y, *found.forecast.interval(level))
        ahead, share, count = _by_horizon(inside, groups)
        style: Any = {
            "color": COLOURS[i % len(COLOURS)], "markersize": 3, "linewidth": 1.3, "label": name
        }  # fmt: skip
        left.plot(ahead, share, "o-", **style)
        right.plot(ahead, _by_horizon(crps(found.forecast, found.y), groups)[1], "o-", **style)
        if fewest is None or count.sum() < fewest[1].sum():
            fewest = ahead, count
    if fewest is not None:
        _chance(left, *fewest, level)
    left.set(ylim=(0, 1.03), xlabel="steps ahead")
    right.set(xlabel="steps ahead", ylim=(0, None))
    title(left, f"share inside the {100 * level:g} % band")
    title(right, "CRPS")
    right.legend(loc="best", fontsize=8, frameon=False)
    return figure


def _by_horizon(score: Tensor, groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean step ahead, mean score and number of scores of each group of steps."""
    rows = score.detach().movedim(-2, 0).flatten(1).double().cpu().numpy()
    parts = np.array_split(np.arange(len(rows)), min(groups, len(rows)))
    count = np.array([(~np.isnan(rows[part])).sum() for part in parts])
    total = np.array([np.nansum(rows[part]) for part in parts])
    known = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return np.array([part.mean() + 1 for part in parts]), known, count


def _chance(axes: Axes, ahead: np.ndarray, count: np.ndarray, level: float) -> None:
    from scipy.stats import binom

    count = np.maximum(count, 1)
    low, high = (binom.ppf(q, count, level) / count for q in (0.05, 0.95))
    band = axes.fill_between(
        ahead, low, high, color=MUTED, alpha=0.3, linewidth=0, label="chance, 90 %"
    )
    axes.axhline(level, color=INK, linewidth=0.8)
    axes.legend(handles=[band], loc="lower left", fontsize=8, frameon=False)


def _moving_nis(axes: Axes, x: np.ndarray, value: np.ndarray, dof: np.ndarray) -> None:
    """Draw the mean of a moving window with the chi-square band of its degrees of freedom."""
    from scipy.stats import chi2

    known = dof > 0
    x, value, dof = x[known], value[known], dof[known]
    window = max(1, min(50, len(value) // 6))
    total = np.convolve(value, np.ones(window), "valid")
    count = np.convolve(dof, np.ones(window), "valid")
    lower, upper = chi2.ppf([[0.025], [0.975]], count) / count
    x = x[window - 1 :]
    axes.fill_between(
        x, lower, upper, color=MUTED, alpha=0.3, linewidth=0, label="chance, 95 %", step="mid"
    )
    axes.plot(x, total / count, color=COLOURS[0], linewidth=1.3)
    axes.axhline(1, color=INK, linewidth=0.8)
    title(axes, f"NIS, mean of {window} steps")
    legend(axes)


def _autocorrelation(errors: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return lags, correlations over complete pairs, and the 95 % limit of white noise."""
    most = max(1, min(40, len(errors) // 4))
    centred = torch.as_tensor(errors) - torch.as_tensor(errors).nanmean()
    scale = centred.square().nanmean()
    values = [(centred[k:] * centred[:-k]).nanmean() / scale for k in range(1, most + 1)]
    known = int((~np.isnan(errors)).sum())
    return np.arange(1, most + 1), torch.stack(values).numpy(), 1.96 / max(known, 1) ** 0.5
