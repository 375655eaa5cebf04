"""Row labels as times: dates in any form become dates, other numbers stay numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from . import dates
from .arrays import read_numbers
from .dialects import Dialect

if TYPE_CHECKING:
    import pandas as pd

_LOOKS_LIKE_TIME = r".*(?:\d{4}|\d+[-/.]\d+[-/.]\d+).*"


def as_labels(index: pd.Index, name: str) -> pd.Index:
    """Return an index with its times as times.

    Text such as `2020-01-31`, `2020-W05` or `2020Q1`, `datetime.date` objects and Arrow's dates
    become dates; decimals and text of numbers become numbers. Other text stays what it is: names.

    Args:
        index: Row labels.
        name: What the caller calls the frame.

    Raises:
        ValueError: There are several levels, or some labels are dates and some are not.
    """
    import pandas as pd

    if isinstance(index, pd.MultiIndex):
        raise ValueError(
            f"`{name}` must have one index level, its time, got {list(index.names)}. Pass one "
            "series at a time, or a tensor (series, time, obs)."
        )
    if isinstance(index, pd.CategoricalIndex):
        index = pd.Index(index.astype(index.categories.dtype), name=index.name)
    kinds = pd.api.types
    if isinstance(index, pd.DatetimeIndex | pd.PeriodIndex | pd.TimedeltaIndex):
        return index
    if kinds.is_datetime64_any_dtype(index.dtype):
        return pd.DatetimeIndex(index)
    if kinds.is_timedelta64_dtype(index.dtype):
        return pd.TimedeltaIndex(index)
    if kinds.is_numeric_dtype(index.dtype) and not kinds.is_extension_array_dtype(index.dtype):
        return index
    return _from_objects(index, name)


def is_default(index: pd.Index) -> bool:
    """Whether an index counts the rows from 0, as pandas does where nobody gave labels."""
    import pandas as pd

    return isinstance(index, pd.RangeIndex) and index.start == 0 and index.step == 1


def is_number(index: pd.Index) -> bool:
    """Whether the labels are numbers, such as years."""
    import pandas as pd

    return pd.api.types.is_numeric_dtype(index.dtype)


def is_time(index: pd.Index) -> bool:
    """Whether the labels say when: dates, periods, durations or numbers."""
    import pandas as pd

    known = isinstance(index, pd.DatetimeIndex | pd.PeriodIndex | pd.TimedeltaIndex)
    return known or is_number(index)


def check_order(index: pd.Index, dialect: Dialect) -> None:
    """Demand labels that are there, unique and, where they are times, increasing.

    Raises:
        ValueError: They are not; the text says what to do in the frame's own library.
    """
    if index.hasnans:
        raise ValueError("Time index has missing labels (NaT): drop or repair those rows.")
    if not index.is_unique:
        twice = label(index[index.duplicated()][0])
        raise ValueError(
            f"Time index repeats {twice}. If the rows are several series, pass one at a time; "
            f"else merge them, as in {dialect.merge}."
        )
    if is_time(index) and not index.is_monotonic_increasing:
        back = next(i for i in range(1, len(index)) if index[i] < index[i - 1])
        raise ValueError(
            f"Time index goes back from {label(index[back - 1])} to {label(index[back])}. "
            f"Put the rows in order with {dialect.sort}."
        )


def label(moment: object) -> str:
    """Return a label as errors show it."""
    return str(moment).removesuffix(" 00:00:00")


def _from_objects(index: pd.Index, name: str) -> pd.Index:
    import pandas as pd

    kind = pd.api.types.infer_dtype(index, skipna=True)
    if kind in ("date", "datetime", "datetime64"):
        return _dates(index)
    if kind in ("timedelta", "timedelta64"):
        return pd.TimedeltaIndex(index)
    if kind == "period":
        return pd.PeriodIndex(cast("Any", index))
    if kind in ("decimal", "integer", "floating", "mixed-integer-float"):
        values = read_numbers(f"{name}.index", index.to_numpy(dtype=object)).numpy()
        return pd.Index(values, name=index.name)
    if kind == "string":
        return _from_text(index, name)
    return index


def _dates(index: pd.Index) -> pd.Index:
    import pandas as pd

    try:
        return pd.DatetimeIndex(pd.to_datetime(index), name=index.name)
    except (TypeError, ValueError):
        # Clocks of several offsets, as before and after a change of the clock.
        return pd.DatetimeIndex(pd.to_datetime(index, utc=True), name=index.name)


def _from_text(index: pd.Index, name: str) -> pd.Index:
    import pandas as pd

    raw = pd.Series(index.astype(str)).str.strip()
    numbers = pd.to_numeric(raw, errors="coerce").notna().all()
    if not (numbers or raw.str.fullmatch(_LOOKS_LIKE_TIME).any()):
        return index
    times, _ = dates.read_times(raw, lambda row: f"Row {row} of the index of `{name}`")
    if times.isna().all():
        return index
    if times.isna().any():
        row = int(times.isna().argmax())
        raise ValueError(
            f"Row {row} of the index of `{name}` is {raw.iloc[row]!r}, which is no date, though "
            "other rows are. Write dates as 2024-01-31, or drop the row."
        )
    return times.rename(index.name)
