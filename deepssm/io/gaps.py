"""What is uneven about an index, and code that mends it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .calendars import frequency, grid_of, number_step, usual_step
from .dialects import Dialect
from .row_labels import is_number, label

if TYPE_CHECKING:
    import pandas as pd

_ROUND = (("D", 86400e9), ("h", 3600e9), ("min", 60e9), ("s", 1e9), ("ms", 1e6), ("us", 1e3))


def check_even(index: pd.Index, dialect: Dialect) -> None:
    """Demand equal steps; calendar steps such as months and business days count as equal.

    Raises:
        ValueError: There is a gap; the text says where, and how to fill it.
    """
    import pandas as pd

    if len(index) < 3:
        return
    if isinstance(index, pd.PeriodIndex):
        if frequency(index) is None:
            raise ValueError(_uneven_periods(index, dialect))
    elif isinstance(index, pd.DatetimeIndex | pd.TimedeltaIndex):
        if frequency(index) is None:
            raise ValueError(_uneven_times(index, dialect))
    elif is_number(index) and number_step(index) is None:
        raise ValueError(_uneven_numbers(index, dialect))


def _text(gap: str, place: object, advice: str) -> str:
    return (
        f"Time index is irregular (gap of {gap} after {label(place)}). Use {advice}, or a "
        "dt-aware model with `dt=`."
    )


def _uneven_periods(index: pd.PeriodIndex, dialect: Dialect) -> str:
    steps = np.diff(index.asi8)
    place = int((steps != 1).argmax())
    whole = f'pd.period_range(y.index[0], y.index[-1], freq="{index.freqstr}")'
    whole = whole.replace("y.", f"{dialect.receiver}.")
    starts = index.to_timestamp()
    gap = _duration(starts[place + 1] - starts[place])
    return _text(gap, starts[place], f"{dialect.receiver}.reindex({whole}) (fills NaN)")


def _uneven_times(index: Any, dialect: Dialect) -> str:  # noqa: ANN401
    import pandas as pd

    steps = index[1:] - index[:-1]
    if isinstance(index, pd.DatetimeIndex):
        grid, off = grid_of(index), _off_grid(index)
        if off is not None and (grid is None or _length(index, grid) > 3 * len(index)):
            step, place = off
            advice = f"{dialect.average(_written(step)[1])} (averages on a grid, fills NaN)"
            return _text(_duration(steps[place]), index[place], advice)
        if grid is not None:
            place = _first_gap(index, grid)
            rule, code = _written(grid)
            advice = f"{dialect.grid(rule, code)} (fills NaN)"
            return _text(_duration(steps[place]), index[place], advice)
    place, usual = _oddest(steps)
    rule = _rounded(usual)
    span = (index[-1] - index[0]) / pd.Timedelta(rule)
    gap = _duration(steps[place])
    if span > 1000 * len(index):
        advice = "a selection of rows with even steps"
    else:
        code = f'"{rule}"'
        advice = f"{dialect.average(code)} (averages on a grid, fills NaN)"
    return _text(gap, index[place], advice)


def place_of_gap(index: pd.DatetimeIndex) -> int:
    """Return the row before the first gap of an uneven index, not the first short month."""
    grid, off = grid_of(index), _off_grid(index)
    if off is not None and (grid is None or _length(index, grid) > 3 * len(index)):
        return off[1]
    return _oddest(index[1:] - index[:-1])[0] if grid is None else _first_gap(index, grid)


def _length(index: pd.DatetimeIndex, step: Any) -> float:  # noqa: ANN401
    return (index[-1] - index[0]) / ((index[0] + step) - index[0])


def _off_grid(index: pd.DatetimeIndex) -> tuple[Any, int] | None:
    """Return the usual step and the row before the first date off its grid, if there is one."""
    import pandas as pd

    step = usual_step(index)
    if step is None or isinstance(step, pd.offsets.Tick):
        return None
    whole = pd.date_range(index[0] - step, index[-1] + step, freq=step)
    off = np.flatnonzero(~index.isin(whole))
    return (step, max(int(off[0]) - 1, 0)) if len(off) else None


def _first_gap(index: pd.DatetimeIndex, grid: Any) -> int:  # noqa: ANN401
    """Return the row before the first date that is missing on the grid."""
    import pandas as pd

    if isinstance(grid, pd.offsets.Tick | pd.offsets.Day):
        return _oddest(index[1:] - index[:-1])[0]
    whole = pd.date_range(index[0], index[-1], freq=grid)
    missing = whole[~whole.isin(index)][0]
    return int(index.searchsorted(missing)) - 1


def _oddest(steps: Any) -> tuple[int, Any]:  # noqa: ANN401
    """Return the first step much longer than usual, or the first that is furthest from it."""
    usual = steps.sort_values()[(len(steps) - 1) // 2]
    odd = steps > 1.5 * usual
    place = int(odd.argmax()) if odd.any() else int(np.abs(np.asarray(steps - usual)).argmax())
    return place, usual


def _uneven_numbers(index: pd.Index, dialect: Dialect) -> str:
    labels = index.to_numpy(dtype=float)
    steps = np.diff(labels)
    usual = float(np.sort(steps)[(len(steps) - 1) // 2])
    odd = np.abs(steps - usual) > 1e-6 * usual
    place = int(odd.argmax())
    y, first = dialect.receiver, index[0]
    if index.dtype.kind in "iu":
        size = int(np.gcd.reduce(np.diff(index.to_numpy(dtype=np.int64))))
        advice = f"{y}.reindex(range({first}, {index[-1] + size}, {size})) (fills NaN)"
    else:
        size = usual
        advice = (
            f"{y}.groupby((({y}.index - {float(first)!r}) / {size!r}).astype(float).round()"
            f".astype(int)).mean().pipe(lambda y: y.reindex(range(y.index[-1] + 1))) (numbers the "
            f"steps of {size:g}, fills NaN)"
        )
    gap = f"{steps[place]:g}"
    return _text(gap, index[place], f"{advice}, {y}.reset_index(drop=True) if steps are even")


def _written(grid: Any) -> tuple[str, str]:  # noqa: ANN401
    """Return a step as an abbreviation, if there is one, and as an argument in code."""
    import pandas as pd

    if isinstance(grid, pd.offsets.CustomBusinessDay):
        return "", f'pd.offsets.CustomBusinessDay(weekmask="{grid.weekmask}")'
    if type(grid) is pd.DateOffset:
        return "", f"pd.DateOffset(months={grid.kwds['months']})"
    return grid.freqstr, f'"{grid.freqstr}"'


def _rounded(usual: Any) -> str:  # noqa: ANN401
    """Return a step as pandas abbreviates it, rounded to a whole number of some unit."""
    nanoseconds = usual.as_unit("ns").value
    for rule, size in _ROUND:
        count = round(nanoseconds / size)
        if count and abs(nanoseconds / size - count) <= 0.02 * count:
            return f"{count}{rule}"
    return f"{max(nanoseconds, 1)}ns"


def _duration(step: Any) -> str:  # noqa: ANN401
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if step.total_seconds() >= size:
            return f"{step.total_seconds() / size:.3g} {unit}"
    return f"{step.total_seconds():.3g} s"
