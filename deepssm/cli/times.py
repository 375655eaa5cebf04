"""The time column of a table: dates, dates with a zone, or numbers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .exit_codes import DataError

if TYPE_CHECKING:
    import pandas as pd

_ZONE = r"\s*(?:Z|[+-]\d\d:?\d\d)$"


def read_times(raw: pd.Series, name: str, path: Path) -> tuple[pd.Index, list[str]]:
    """Return the time of each row, and sentences on how it was read.

    Args:
        raw: The cells of the time column, as text.
        name: Name of the column.
        path: Where it came from.

    Raises:
        DataError: A cell is no time, or may be two different ones.
    """
    index, notes = _dates_or_numbers(raw, path)
    if index.isna().any():
        row = int(index.isna().argmax())
        raise DataError(
            f"{path}, line {row + 2}: time column '{name}' holds '{raw.iloc[row]}', which is "
            "neither a date nor a number. Write dates as 2024-01-31 or 2024-01-31T06:00."
        )
    return index.rename(name), notes


def _dates_or_numbers(raw: pd.Series, path: Path) -> tuple[pd.Index, list[str]]:
    import pandas as pd

    numbers = pd.to_numeric(raw, errors="coerce")
    if numbers.notna().all():
        compact = raw.str.fullmatch(r"(18|19|20)\d{6}").all()
        if not compact:
            return pd.Index(numbers), []
        dates = pd.to_datetime(raw, format="%Y%m%d", errors="coerce")
        return (pd.Index(numbers) if dates.isna().any() else pd.DatetimeIndex(dates)), []
    if bool(raw.str.contains(_ZONE, regex=True).any()):
        return _zoned(raw)
    dates = pd.to_datetime(raw, format="ISO8601", errors="coerce")
    if dates.isna().all():
        dates = _written_otherwise(raw, path)
    return pd.DatetimeIndex(dates), []


def _zoned(raw: pd.Series) -> tuple[pd.DatetimeIndex, list[str]]:
    """Read UTC, but the clock on the wall where only that is even: days with summer time."""
    import pandas as pd

    moments = pd.to_datetime(raw, format="ISO8601", errors="coerce", utc=True)
    utc = pd.DatetimeIndex(moments).tz_localize(None)
    cells = raw.str.replace(_ZONE, "", regex=True)
    wall = pd.DatetimeIndex(pd.to_datetime(cells, format="ISO8601", errors="coerce"))
    if not utc.isna().any() and not _even(utc) and _even(wall):
        return wall, ["Times are those of the clock on the wall, on which rows are even."]
    return utc, ["Times with a zone were read as UTC."]


def _even(index: pd.DatetimeIndex) -> bool:
    return len(np.unique(np.diff(np.sort(index.to_numpy())))) == 1


def _written_otherwise(raw: pd.Series, path: Path) -> pd.Series:
    """Read dates that are not ISO 8601, unless day and month may be exchanged.

    Raises:
        DataError: Both orders fit every row, and they differ.
    """
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        month, day = (
            pd.to_datetime(raw, errors="coerce", dayfirst=first) for first in (False, True)
        )
    if day.isna().any() or month.isna().any():
        return day if day.notna().sum() > month.notna().sum() else month
    if bool((day != month).any()):
        row = int((day != month).to_numpy().argmax())
        dates = f"{month.iloc[row]:%Y-%m-%d} or {day.iloc[row]:%Y-%m-%d}"
        raise DataError(
            f"{path}, line {row + 2}: '{raw.iloc[row]}' may be {dates}, and so may all other "
            "rows. Write dates as 2024-01-31."
        )
    return month
