"""Pictures of what was inferred. Each takes results and returns a matplotlib Figure.

Nothing touches `pyplot`: show a figure in a notebook by returning it, keep it with
`figure.savefig("states.svg")`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ..core.deprecation import warn_renamed
from ..core.results import Filtered, Smoothed
from .plots_canvas import (
    COLOURS,
    INK,
    LEVELS,
    canvas,
    dates,
    fan,
    gaussian_bands,
    legend,
    numbered,
    one_series,
    positions,
    shade_gaps,
    title,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from ..models.structural.decomposition import Decomposition


def plot_states(
    result: Filtered | Smoothed,
    *,
    y: Tensor | None = None,
    truth: Tensor | None = None,
    levels: tuple[float, ...] = LEVELS,
    components: tuple[int, ...] | None = None,
    series: int = 0,
) -> Figure:
    """Draw each state with its bands; steps without any observation are shaded.

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
    names = result.names or numbered("z", mean.shape[-1])
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


def plot_observations(
    y: Tensor,
    mean: Tensor,
    sd: Tensor,
    *,
    index: pd.Index | None = None,
    name: str = "y",
    rows: int = 260,
) -> Figure:
    """Draw the observations of one sensor and what smoothing makes of them, whole and close up.

    Args:
        y: Observations, `(time,)`, NaN where missing.
        mean: Smoothed observations, `(time,)`.
        sd: Their standard deviations, noise included, `(time,)`.
        index: Labels of the steps.
        name: Label of the vertical axes.
        rows: Rows of the close-up, which is laid where most observations are missing.
    """
    seen, centre, spread = (one_series(part, 1, 0) for part in (y, mean, sd))
    x, missing, rows = positions(index, len(seen)), np.isnan(seen), min(rows, len(seen))
    start = _most_gaps(missing, rows)
    cut = slice(start, start + rows)
    figure, (whole, close) = canvas(2, width=9, height=2.6, share=False)
    whole.plot(x, seen, color=INK, linewidth=0.6)
    shade_gaps(whole, x, missing)
    title(whole, "all observations")
    shade_gaps(close, x[cut], missing[cut])
    bands = gaussian_bands(centre[cut], spread[cut], LEVELS)
    fan(close, x[cut], centre[cut], bands, COLOURS[0], "smoothed")
    close.plot(x[cut], seen[cut], "o", markersize=2, color=INK, label="observation")
    title(close, f"{rows} rows close up")
    legend(close)
    for axes, part in ((whole, x), (close, x[cut])):
        axes.set_ylabel(name)
        dates(axes, part)
    return figure


def plot_readings(*args: Any, **kwargs: Any) -> Figure:  # noqa: ANN401
    """Draw as `plot_observations` does, whose old name this is."""
    warn_renamed("`plot_readings`", "`plot_observations`")
    return plot_observations(*args, **kwargs)


def plot_components(
    decomposition: Decomposition,
    y: Tensor | None = None,
    *,
    levels: tuple[float, ...] = LEVELS,
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
    names = decomposition.names or numbered("component ", mean.shape[-1])
    figure, axes = canvas(len(names), height=2.1)
    for i, (each, name) in enumerate(zip(axes, names, strict=True)):
        bands = gaussian_bands(mean[:, i], sd[:, i], levels)
        if y is not None and i == 0:
            seen = one_series(y, 2, series)[:, 0]
            shade_gaps(each, x, np.isnan(seen))
            each.plot(x, seen, ".", markersize=2, color=INK, label="observation")
        fan(each, x, mean[:, i], bands, COLOURS[i % len(COLOURS)], "mean")
        title(each, name)
    legend(axes[0])
    dates(axes[-1], x)
    return figure


def _most_gaps(missing: np.ndarray, rows: int) -> int:
    """Return the start of the window with most gaps, the last one if there is none."""
    if rows >= len(missing):
        return 0
    counts = np.convolve(missing, np.ones(rows), "valid")
    return int(np.argmax(counts)) if counts.max() else len(missing) - rows
