"""`--resample`: rows of a table on a grid of even steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..io.budget import require_memory
from .exit_codes import DataError

if TYPE_CHECKING:
    import pandas as pd


def resampled(frame: pd.DataFrame, rule: str) -> pd.DataFrame:
    """Lay rows on a grid of even steps: means of rows that share a step, NaN where none is.

    Args:
        frame: Rows by dates or numbers.
        rule: A step such as `7D` or `0.5`.

    Raises:
        DataError: it is no step.
        ValueError: the grid would not fit into memory.
    """
    import pandas as pd

    name = frame.index.name
    if isinstance(frame.index, pd.DatetimeIndex):
        try:
            fixed = isinstance(
                pd.tseries.frequencies.to_offset(rule), pd.offsets.Tick | pd.offsets.Day
            )
            _require_grid(frame, rule)
            grid = frame.resample(rule, origin="start" if fixed else "start_day").mean()
        except (ValueError, OverflowError) as error:
            if "memory" in str(error):
                raise
            raise DataError(
                f"--resample '{rule}' is not a step; use 7D, 1h, 15min, MS (months) ..."
            ) from None
        return grid.set_index(grid.index.rename(name))
    try:
        step = float(rule)
    except ValueError:
        step = 0.0
    if step <= 0:
        raise DataError(f"--resample '{rule}': the time column holds numbers; give a number.")
    start = frame.index.min()
    span = float(frame.index.max()) - float(start)
    _require_rows(span / step, frame, rule)
    bins = np.round((frame.index.to_numpy(float) - start) / step).astype(int)
    grid = frame.groupby(bins).mean().reindex(range(int(bins.max()) + 1))
    return grid.set_index(pd.Index(start + step * np.arange(len(grid)), name=name))


def _require_grid(frame: pd.DataFrame, rule: str) -> None:
    """Raise if a grid of dates has more rows than memory, judged by its first step."""
    import pandas as pd

    start = pd.Timestamp(0)
    step = (start + pd.tseries.frequencies.to_offset(rule) - start).total_seconds()
    span = (frame.index.max() - frame.index.min()).total_seconds()
    _require_rows(span / step if step else float("inf"), frame, rule)


def _require_rows(rows: float, frame: pd.DataFrame, rule: str) -> None:
    require_memory(
        8.0 * (rows + 1) * 4 * (frame.shape[1] + 1),
        f"--resample '{rule}' makes {rows + 1:.3g} rows, which",
        "Choose a longer step.",
    )
