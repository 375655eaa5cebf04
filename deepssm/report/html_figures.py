"""The figures of the report page: matplotlib figures from plain arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#000000"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#999999")
_Z = {50: 0.6744897501960817, 90: 1.6448536269514722}


class Fan(NamedTuple):
    """One method's forecast and what came true.

    Attributes:
        name: Of the method.
        index: Labels of the steps ahead.
        mean: `(horizon,)`.
        bands: Lower and upper ends by level in percent, the widest first.
        truth: `(horizon,)`, NaN where nothing was seen.
    """

    name: str
    index: Sequence[Any] | np.ndarray
    mean: np.ndarray
    bands: Mapping[int, tuple[np.ndarray, np.ndarray]]
    truth: np.ndarray


def smoothed_figure(
    index: np.ndarray, y: np.ndarray, mean: np.ndarray, sd: np.ndarray, unit: str, rows: int
) -> Figure:
    """Draw readings and what smoothing makes of them, whole and close up.

    Args:
        index: Labels, `(time,)`.
        y: Readings, `(time,)`, NaN where missing.
        mean: Smoothed readings, `(time,)`.
        sd: Their standard deviations, noise included, `(time,)`.
        unit: Label of the vertical axis.
        rows: Rows of the close-up, which is laid where most readings are missing.
    """
    figure = _figure(2, height=5.6)
    whole, close = figure.axes
    missing = np.isnan(y)
    start = _busiest(missing, rows)
    cut = slice(start, start + rows)
    for axes, part in ((whole, slice(None)), (close, cut)):
        x, m, s = index[part], mean[part], sd[part]
        _shade(axes, x, missing[part])
        for level in (90, 50):
            low, high = m - _Z[level] * s, m + _Z[level] * s
            axes.fill_between(x, low, high, color=COLOURS[0], alpha=0.3, lw=0, label=f"{level} %")
        axes.plot(x, m, color=COLOURS[0], lw=0.9, label="smoothed")
        axes.set_ylabel(unit)
    whole.plot(index, y, ",", color=INK)
    close.plot(index[cut], y[cut], "o", ms=2.2, color=INK, label="reading")
    close.legend(ncols=4, loc="upper left", frameon=False, fontsize=9)
    whole.set_title("all readings", loc="left", fontsize=10)
    close.set_title("close-up; shaded: no reading", loc="left", fontsize=10)
    return figure


def fan_figure(index: np.ndarray, y: np.ndarray, fans: Sequence[Fan], unit: str) -> Figure:
    """Draw each method's forecast after the end of the past, one panel each.

    Args:
        index: Labels of the past shown.
        y: Its readings.
        fans: The forecasts.
        unit: Label of the vertical axes.
    """
    figure = _figure(len(fans), height=0.6 + 1.9 * len(fans), share=True)
    for axes, fan, colour in zip(figure.axes, fans, COLOURS, strict=False):
        axes.plot(index, y, color=INK, lw=0.8)
        for level, (low, high) in fan.bands.items():
            axes.fill_between(
                fan.index, low, high, color=colour, alpha=0.3, lw=0, label=f"{level} %"
            )
        axes.plot(fan.index, fan.mean, color=colour, lw=1.2, label="mean")
        axes.plot(fan.index, fan.truth, ".", ms=2.5, color=INK, label="came true")
        axes.legend(ncols=4, loc="upper left", frameon=False, fontsize=8)
        axes.set_title(fan.name, loc="left", fontsize=10)
        axes.set_ylabel(unit)
    return figure


def calibration_figure(pits: Mapping[str, np.ndarray]) -> Figure:
    """Draw observed against nominal coverage, and histograms of the PIT.

    Args:
        pits: Probability integral transforms by method, NaN where nothing was seen.
    """
    import torch

    from ..evaluation.calibration import reliability

    figure = _figure(1, columns=2, height=3.3)
    curve, bars = figure.axes
    level = lower = upper = np.zeros(0)
    for (name, pit), colour in zip(pits.items(), COLOURS, strict=False):
        found = reliability(torch.as_tensor(pit))
        level = found.level.numpy()
        curve.plot(level, found.coverage.numpy(), "o-", ms=3, color=colour, label=name)
        bars.hist(pit[~np.isnan(pit)], [i / 10 for i in range(11)], histtype="step", density=True,
                  color=colour, lw=1.5)  # fmt: skip
        lower, upper = found.lower.numpy(), found.upper.numpy()
    curve.fill_between(level, lower, upper, color="#999999", alpha=0.3, lw=0, label="chance, 90 %")
    curve.plot([0, 1], [0, 1], color=INK, lw=0.6)
    curve.set(xlabel="nominal coverage", ylabel="observed coverage", xlim=(0, 1), ylim=(0, 1.02))
    curve.legend(frameon=False, fontsize=8, loc="lower right")
    bars.axhline(1, color=INK, lw=0.6)
    bars.set(xlabel="PIT", ylabel="density", xlim=(0, 1))
    return figure


def innovation_figure(index: np.ndarray, nis: np.ndarray, errors: np.ndarray) -> Figure:
    """Draw the moving mean of the NIS and the autocorrelation of the innovations.

    Args:
        index: Labels, `(time,)`.
        nis: Normalized innovation squared over its degrees of freedom, NaN where unknown.
        errors: Standardized innovations of one component, NaN where unknown.
    """
    from scipy.stats import chi2

    figure = _figure(1, columns=2, height=3.0)
    left, right = figure.axes
    known = ~np.isnan(nis)
    window = max(5, min(52, int(known.sum()) // 8))
    moving = np.convolve(nis[known], np.ones(window) / window, "valid")
    left.plot(index[known][window - 1 :], moving, color=COLOURS[0], lw=1)
    low, high = chi2.ppf([0.025, 0.975], window) / window
    left.axhspan(low, high, color="#999999", alpha=0.3, lw=0)
    left.axhline(1, color=INK, lw=0.6)
    left.set_ylabel(f"NIS, mean of {window}")
    lags, values = _autocorrelation(errors, min(60, len(errors) // 4))
    right.vlines(lags, 0, values, color=COLOURS[0], lw=1.4)
    bound = 1.96 / np.sqrt(max(int((~np.isnan(errors)).sum()), 1))
    right.axhspan(-bound, bound, color="#999999", alpha=0.3, lw=0)
    right.axhline(0, color=INK, lw=0.6)
    right.set(xlabel="lag", ylabel="autocorrelation")
    return figure


def learning_figure(courses: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Draw what each learner maximised, and its parts where it has parts.

    Args:
        courses: Records with `step`, `objective` and perhaps others, by model.
    """
    figure = _figure(1, columns=len(courses), height=2.8)
    for axes, (name, records) in zip(figure.axes, courses.items(), strict=True):
        steps = [record["step"] for record in records]
        parts = [key for key in ("reconstruction", "divergence") if key in records[0]]
        for key, colour in zip(("objective", *parts), (INK, *COLOURS), strict=False):
            values = [record.get(key) for record in records]
            axes.plot(steps, [np.nan if v is None else v for v in values], color=colour, label=key)
        axes.set_title(name, loc="left", fontsize=10)
        axes.set(xlabel="step", ylabel="nats")
        if parts:
            axes.legend(frameon=False, fontsize=8)
    return figure


def _figure(rows: int, *, columns: int = 1, height: float, share: bool = False) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2, height), layout="constrained")
    for axes in np.ravel(figure.subplots(rows, columns, sharex=share)):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
    return figure


def _shade(axes: Axes, x: Any, missing: np.ndarray) -> None:  # noqa: ANN401
    edges = np.flatnonzero(np.diff(np.concatenate([[0], missing.astype(int), [0]])))
    for first, last in zip(edges[::2], edges[1::2] - 1, strict=True):
        axes.axvspan(x[max(first - 1, 0)], x[min(last + 1, len(x) - 1)], color="#999999",
                     alpha=0.25, lw=0)  # fmt: skip


def _busiest(missing: np.ndarray, rows: int) -> int:
    """Return the start of the window with most missing readings, the last one if there is none."""
    if rows >= len(missing):
        return 0
    counts = np.convolve(missing, np.ones(rows), "valid")
    return int(np.argmax(counts)) if counts.max() else len(missing) - rows


def _autocorrelation(errors: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return lags and correlations over the pairs that are known."""
    centred = errors - np.nanmean(errors)
    lags = np.arange(1, most + 1)
    scale = np.nanmean(centred**2)
    return lags, np.array([np.nanmean(centred[k:] * centred[:-k]) / scale for k in lags])
