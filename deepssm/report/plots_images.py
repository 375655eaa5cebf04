"""Pictures of series of images: what was true, seen, filled in and forecast, frame under frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from .plots_canvas import INK, MUTED, canvas, one_series

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_frames(
    films: Mapping[str, Tensor], height: int, width: int, *, most: int = 12, series: int = 0
) -> Figure:
    """Draw films of the same steps as rows of frames; pixels without an observation are tinted.

    Args:
        films: By name, each `(*batch, time, height * width)`, NaN where nothing was read. All
            share one scale of grey.
        height: Pixels of a frame from top to bottom.
        width: Pixels from left to right.
        most: Frames in a row; longer films are thinned out evenly.
        series: Which film of a batch.

    Raises:
        ValueError: a film does not hold frames of that size, or films differ in length.
    """
    import matplotlib as mpl

    pixels = {name: one_series(film, 2, series) for name, film in films.items()}
    steps = _steps({name: film.shape for name, film in pixels.items()}, height * width, most)
    known = np.concatenate([film[~np.isnan(film)] for film in pixels.values()])
    low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
    tinted = mpl.colormaps["gray"].with_extremes(bad=MUTED)
    figure, rows = canvas(len(films), width=9, height=0.3 + 9 * height / (width * len(steps)))
    for axes, (name, film) in zip(rows, pixels.items(), strict=True):
        strip = film[steps].reshape(-1, height, width).transpose(1, 0, 2).reshape(height, -1)
        axes.imshow(strip, cmap=tinted, vmin=low, vmax=high, interpolation="nearest")
        axes.vlines(np.arange(1, len(steps)) * width - 0.5, -0.5, height - 0.5, "white", lw=1)
        axes.set(yticks=[], xticks=[])
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.set_title(name, loc="left", fontsize=9.5, color=INK, pad=3)
    rows[-1].set_xticks((np.arange(len(steps)) + 0.5) * width - 0.5, steps + 1, fontsize=8)
    return figure


def _steps(shapes: Mapping[str, tuple[int, ...]], size: int, most: int) -> np.ndarray:
    """Return which steps to draw, once all films are found to have them."""
    length = next(iter(shapes.values()))[0]
    for name, shape in shapes.items():
        if shape != (length, size):
            raise ValueError(
                f"`films` must all be `(time, height * width)` = ({length}, {size}), got {shape} "
                f"for {name!r}. Check `height` and `width`."
            )
    return np.unique(np.linspace(0, length - 1, min(most, length)).round().astype(int))
