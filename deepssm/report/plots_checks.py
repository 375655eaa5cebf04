"""Pictures of how good a model is: calibration, consistency and the course of learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..evaluation.calibration import Reliability
from ..evaluation.consistency import Innovations, nis
from .plots_canvas import (
    COLOURS,
    INK,
    MUTED,
    canvas,
    dates,
    legend,
    one_series,
    positions,
    title,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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


def plot_training(history: Sequence[Mapping[str, float]], parts: Sequence[str] = ()) -> Figure:
    """Draw what a learner maximised, and its parts, against the step.

    Args:
        history: Records with `step` and `objective`; `Learned.history`.
        parts: Other keys to draw in a second panel, such as `"kl"`.
    """
    shown = [key for key in parts if any(key in record for record in history)]
    figure, axes = canvas(columns=1 + bool(shown), width=8 if shown else 5, share=False)
    for i, (each, keys) in enumerate(zip(axes, (["objective"], shown), strict=False)):
        for j, key in enumerate(keys):
            course = [(r["step"], r[key]) for r in history if key in r and np.isfinite(r[key])]
            colour = COLOURS[(i + j) % len(COLOURS)]
            each.plot(*np.array(course).reshape(-1, 2).T, color=colour, label=key)
        each.set(xlabel="step")
        title(each, "objective (nats)" if i == 0 else "parts")
    if shown:
        legend(axes[1])
    return figure


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
