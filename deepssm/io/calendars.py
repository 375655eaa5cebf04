"""The step of an index: equal spans, calendar months, business days; and what comes next."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

_WINDOW = 6
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def frequency(index: Any) -> Any:  # noqa: ANN401
    """Return the step of dates, periods or durations as `date_range` takes it; `None` if uneven.

    Calendar steps count as equal: months (also from the 15th to the 15th), quarters, years,
    business days, and working weeks of other days, such as Sunday to Thursday.
    """
    import pandas as pd

    if isinstance(index, pd.PeriodIndex):
        return None if bool((index[1:] != index[:-1] + 1).any()) else index.freq
    if index.freq is not None:
        return index.freq
    if len(index) < 3:
        return index[1] - index[0] if len(index) == 2 else None
    step = _infer(index)
    if step is None and isinstance(index, pd.DatetimeIndex):
        step = next((s for s in (_same_day(index), _working_week(index)) if s is not None), None)
        if step is not None and not _is_grid(index, step):
            return None
    return step


def number_step(index: pd.Index) -> float | None:
    """Return the step of numbers that are evenly spaced, up to round-off; `None` if uneven."""
    labels = index.to_numpy(dtype=float)
    if len(labels) < 2:
        return None
    steps = np.diff(labels)
    slack = 1e-6 * abs(steps[0]) + 4 * np.finfo(float).eps * np.abs(labels).max()
    if index.dtype == np.float32:
        slack += 4 * float(np.finfo(np.float32).eps) * np.abs(labels).max()
    return float(steps[0]) if bool((np.abs(steps - steps[0]) <= slack).all()) else None


def future_index(index: pd.Index | None, horizon: int) -> pd.Index | None:
    """Continue an index by `horizon` steps.

    Args:
        index: Labels of the past. Dates continue at their frequency, set or inferred; periods and
            evenly spaced numbers at their step.
        horizon: Number of labels wanted.

    Returns:
        The labels of the future; `1 .. horizon`, named `step`, where the past has no regular
        step to continue; `None` where the past has no labels.
    """
    import pandas as pd

    if index is None:
        return None
    later = next_labels(index, len(index), horizon)
    return pd.RangeIndex(1, horizon + 1, name="step") if later is None else later


def next_labels(index: pd.Index, rows: int, horizon: int) -> pd.Index | None:
    """Return the `horizon` labels after the first `rows` of an index; `None` if it has no step."""
    later = _following(index, horizon)
    if later is None or rows >= len(index):
        return later
    return index.append(later)[rows : rows + horizon]


def _following(index: pd.Index, horizon: int) -> pd.Index | None:
    import pandas as pd

    if isinstance(index, pd.PeriodIndex):
        return pd.period_range(index[-1] + 1, periods=horizon, freq=index.freq, name=index.name)
    if isinstance(index, pd.DatetimeIndex | pd.TimedeltaIndex):
        step = frequency(index)
        if step is None:
            return None
        dates = isinstance(index, pd.DatetimeIndex)
        span = cast("Any", pd.date_range if dates else pd.timedelta_range)
        later = span(index[-1], periods=horizon + 1, freq=step, name=index.name)
        return later[later > index[-1]][:horizon]
    if isinstance(index, pd.RangeIndex):
        stop = index.start + len(index) * index.step
        return pd.RangeIndex(stop, stop + horizon * index.step, index.step, name=index.name)
    if pd.api.types.is_numeric_dtype(index) and number_step(index) is not None:
        step = index[1] - index[0]
        return pd.Index([index[-1] + step * (i + 1) for i in range(horizon)], name=index.name)
    return None


def grid_of(index: pd.DatetimeIndex) -> Any:  # noqa: ANN401
    """Return the coarsest calendar step on which all dates lie, or `None`.

    Args:
        index: Increasing dates with gaps.
    """
    for step in _candidates(index):
        if step is not None and _on_grid(index, step):
            return step
    return None


def usual_step(index: Any) -> Any:  # noqa: ANN401
    """Return the step of some stretch of the index that has one, or `None`."""
    for start in range(len(index) - _WINDOW + 1):
        step = _infer(index[start : start + _WINDOW])
        if step is not None:
            return step
    return None


def _candidates(index: pd.DatetimeIndex) -> Iterator[Any]:
    import pandas as pd

    offsets = pd.tseries.offsets
    month = index.month.to_numpy()
    if len(set(index.time)) == 1:
        quarter = int((month[0] - 1) % 3 + 1)
        first, last = bool((index.day == 1).all()), bool(index.is_month_end.all())
        if first or last:
            year, three, one = (
                (offsets.YearBegin, offsets.QuarterBegin, offsets.MonthBegin)
                if first
                else (offsets.YearEnd, offsets.QuarterEnd, offsets.MonthEnd)
            )
            yield year(month=int(month[0])) if len(set(month)) == 1 else None
            yield three(startingMonth=quarter) if len(set(month % 3)) == 1 else None
            yield one()
        yield _same_day(index)
        span = np.diff(index.tz_localize(None).normalize().as_unit("s").asi8) // 86400
        days = max(int(np.gcd.reduce(span)), 1)
        yield offsets.Week(days // 7, weekday=index[0].weekday()) if days % 7 == 0 else None
        yield _working_week(index)
        yield offsets.Day(days)
    gap = np.gcd.reduce(np.diff(index.asi8))
    yield pd.tseries.frequencies.to_offset(pd.Timedelta(int(gap), unit=index.unit))


def _on_grid(index: pd.DatetimeIndex, step: Any) -> bool:  # noqa: ANN401
    """Whether all dates lie on a grid that is not much longer than they are."""
    import pandas as pd

    span = index[-1] - index[0]
    if index[0] + step <= index[0] or span / ((index[0] + step) - index[0]) > 100 * len(index):
        return False
    grid = pd.date_range(index[0], index[-1], freq=step)
    return bool(index.isin(grid).all())


def _is_grid(index: pd.DatetimeIndex, step: Any) -> bool:  # noqa: ANN401
    import pandas as pd

    grid = pd.date_range(index[0], index[-1], freq=step)
    return len(grid) == len(index) and bool((grid == index).all())


def _same_day(index: pd.DatetimeIndex) -> Any:  # noqa: ANN401
    """Return a step of months where all dates have one day, such as the 15th."""
    import pandas as pd

    if len(set(index.day)) > 1 or index[0].day > 28 or len(set(index.time)) > 1:
        return None
    months = np.diff(12 * index.year.to_numpy() + index.month.to_numpy())
    step = int(np.gcd.reduce(months))
    return pd.DateOffset(months=step) if step else None


def _working_week(index: pd.DatetimeIndex) -> Any:  # noqa: ANN401
    """Return the business day of days from Monday to Friday, or of 4 to 6 days in a row."""
    import pandas as pd

    days = sorted(set(index.day_of_week))
    if days == [0, 1, 2, 3, 4]:
        return pd.offsets.BusinessDay()
    starts = [day for day in days if (day - 1) % 7 not in days]
    if not 4 <= len(days) <= 6 or len(starts) != 1 or index[-1] - index[0] < pd.Timedelta("14D"):
        return None
    return pd.offsets.CustomBusinessDay(weekmask=" ".join(_DAYS[day] for day in days))


def _infer(index: Any) -> Any:  # noqa: ANN401
    import pandas as pd

    with warnings.catch_warnings():
        # pandas 3.1 warns that the string will become an offset; `to_offset` takes both.
        warnings.simplefilter("ignore")
        return pd.tseries.frequencies.to_offset(pd.infer_freq(index))
