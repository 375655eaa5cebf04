"""The grid that rows of a table lie on: even steps, calendars, resampling, filled inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..io.budget import require_memory
from ..io.calendars import frequency, grid_of, number_step
from ..io.gaps import place_of_gap
from .exit_codes import DataError

if TYPE_CHECKING:
    import pandas as pd

_FULL = 0.8


def gaps_of(index: pd.Index) -> tuple[np.ndarray, float]:
    """Return the steps between rows, in seconds where time is dates, and their median."""
    import pandas as pd

    moments = index.to_numpy()
    if isinstance(index, pd.DatetimeIndex):
        gaps = np.diff(moments).astype("timedelta64[ns]").astype(float) / 1e9
    else:
        gaps = np.diff(moments.astype(float))
    return gaps, float(np.median(gaps)) if len(gaps) else 0.0


def with_holidays(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Put in the working days that have no row, where nearly all have one; say how many.

    Args:
        frame: Rows in order of time, each once.
    """
    import pandas as pd

    index = frame.index
    if not isinstance(index, pd.DatetimeIndex) or len(index) < 5 or frequency(index) is not None:
        return frame, []
    grid = grid_of(index)
    if not isinstance(grid, pd.offsets.BusinessDay | pd.offsets.CustomBusinessDay):
        return frame, []
    whole = pd.date_range(index[0], index[-1], freq=grid, name=index.name)
    absent = len(whole) - len(index)
    if len(index) < _FULL * len(whole):
        return frame, []
    note = f"{absent} working day{'s' if absent > 1 else ''} without a row (holidays) were put in"
    return frame.reindex(whole), [f"{note} as missing."]


def in_words(index: pd.Index, usual: float) -> str:
    """Return the usual step in words."""
    import pandas as pd

    if not usual:
        return ""
    if not isinstance(index, pd.DatetimeIndex):
        return f"{usual:g}"
    step = frequency(index)
    if isinstance(step, pd.offsets.CustomBusinessDay):
        return f"1 business day ({step.weekmask})"
    if isinstance(step, pd.offsets.BusinessDay):
        return "1 business day (Mon Tue Wed Thu Fri)"
    return str(pd.Timedelta(round(usual * 1e9), unit="ns")).removesuffix(" 00:00:00")


def check_even(index: pd.Index, path: object) -> None:
    """Demand equal steps; months, quarters, years and working days count as equal.

    Raises:
        DataError: There is a gap; the text says where and which `--resample` fills it.
    """
    import pandas as pd

    gaps, usual = gaps_of(index)
    even = np.abs(gaps - usual) <= 1e-6 * usual
    dated = isinstance(index, pd.DatetimeIndex)
    if even.all() or (frequency(index) if dated else number_step(index)) is not None:
        return
    if dated and _months(index):
        return
    row = int(np.flatnonzero(~even)[0])
    if dated:
        row = place_of_gap(index)
    raise DataError(
        f"{path}: the time column is irregular: the usual step is {in_words(index, usual)}, but "
        f"{show(index[row])} is followed by {show(index[row + 1])}. Pass --resample "
        f"{rule(index)} (lays rows on a grid, puts missing rows in) or "
        "--model constant-velocity (takes uneven steps)."
    )


def _months(index: pd.DatetimeIndex) -> bool:
    """Whether the rows are months, quarters or years, whose lengths differ in days."""
    steps = np.diff(12 * index.year + index.month)
    same_day = len(set(index.day)) == 1 or bool(index.is_month_end.all())
    return same_day and steps[0] > 0 and bool((steps == steps[0]).all())


def rule(index: pd.Index) -> str:
    """Return the `--resample` rule that fits the rows: it keeps each, where one does."""
    import pandas as pd

    index = index.unique().sort_values()
    if not isinstance(index, pd.DatetimeIndex):
        return f"{np.median(np.diff(index.to_numpy(dtype=float))):g}"
    usual = pd.Timedelta(round(gaps_of(index)[1] * 1e9), unit="ns")
    grid = grid_of(index) if len(index) > 2 else None
    if isinstance(grid, pd.offsets.CustomBusinessDay) and type(grid) is not pd.offsets.BDay:
        return "1D"
    known = (
        pd.offsets.MonthEnd, pd.offsets.QuarterEnd, pd.offsets.YearEnd, pd.offsets.BusinessDay,
        pd.offsets.MonthBegin, pd.offsets.QuarterBegin, pd.offsets.YearBegin,
    )  # fmt: skip
    if isinstance(grid, known):
        return grid.freqstr.removesuffix("-JAN" if "S" in grid.freqstr[:2] else "-DEC")
    for name, days in (("MS", (28, 31)), ("QS", (90, 92)), ("YS", (365, 366))):
        if days[0] <= usual / pd.Timedelta(days=1) <= days[1]:
            return name
    for name, seconds in (("D", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count = usual.total_seconds() / seconds
        if count >= 1 and count == int(count):
            return f"{int(count)}{name}"
    return f"{usual.total_seconds() * 1e3:g}ms"


def resample_rows(frame: pd.DataFrame, step: str) -> pd.DataFrame:
    """Lay rows on a grid, those of one step averaged, missing ones put in.

    Raises:
        DataError: `step` is none.
        ValueError: The grid would not fit into memory.
    """
    import pandas as pd

    name = frame.index.name
    if isinstance(frame.index, pd.DatetimeIndex):
        fixed, size = _step_of_dates(step)
        span = (frame.index.max() - frame.index.min()).total_seconds()
        _require_rows(span / size, frame, step)
        grid = frame.resample(step, origin="start" if fixed else "start_day").mean()
        return grid.set_index(grid.index.rename(name))
    try:
        size = float(step)
    except ValueError:
        size = 0.0
    if not 0 < size < float("inf"):
        raise DataError(f"--resample '{step}': the time column holds numbers; give a number.")
    start = frame.index.min()
    _require_rows((float(frame.index.max()) - float(start)) / size, frame, step)
    bins = np.round((frame.index.to_numpy(float) - start) / size).astype(int)
    grid = frame.groupby(bins).mean().reindex(range(int(bins.max()) + 1))
    return grid.set_index(pd.Index(start + size * np.arange(len(grid)), name=name))


def _step_of_dates(step: str) -> tuple[bool, float]:
    """Return whether a step is a fixed span of time, and its seconds, judged by the first one.

    Raises:
        DataError: It is no step.
    """
    import pandas as pd

    start = pd.Timestamp(0)
    try:
        offset: Any = pd.tseries.frequencies.to_offset(step)
        size = (start + offset - start).total_seconds()
    except (ValueError, OverflowError):
        size, offset = 0.0, None
    if size <= 0:
        raise DataError(
            f"--resample '{step}' is not a step; use 7D, 1h, 15min, B (working days), MS "
            "(months) ..."
        )
    return isinstance(offset, pd.offsets.Tick | pd.offsets.Day), size


def _require_rows(rows: float, frame: pd.DataFrame, step: str) -> None:
    require_memory(
        8.0 * (rows + 1) * 4 * (frame.shape[1] + 1),
        f"--resample '{step}' makes {rows + 1:.3g} rows, which",
        "Choose a longer step.",
    )


def filled(inputs: pd.DataFrame, how: str) -> pd.DataFrame:
    """Fill the gaps of inputs.

    Args:
        inputs: Columns on the rows of the table.
        how: `last` repeats the value before, `linear` draws a line between both neighbours,
            `zero` puts 0; empty leaves them.
    """
    if how == "last":
        return inputs.ffill()
    if how == "linear":
        return inputs.interpolate("linear", limit_area="inside")
    return inputs.fillna(0.0) if how == "zero" else inputs


def show(moment: object) -> str:
    """Return a time as errors show it."""
    return str(moment).removesuffix(" 00:00:00")
