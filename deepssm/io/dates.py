"""Text as times: dates in several hands, dates with a zone, weeks, quarters, or numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

_ZONE = r"\s*(?:Z|[+-]\d\d:?\d\d)$"
_WEEK = r"\d{4}-?W\d{2}"
_QUARTER = r"(?:\d{4}[- ]?Q[1-4]|Q[1-4][- ]?\d{4})"


def read_times(raw: pd.Series, place: Callable[[int], str]) -> tuple[pd.Index, list[str]]:
    """Return the time of each cell, and sentences on how they were read.

    Args:
        raw: Cells of text.
        place: Says where a cell stands, by its number.

    Returns:
        Dates or numbers, missing where a cell is neither; notes.

    Raises:
        ValueError: Day and month of the dates may be exchanged.
    """
    import pandas as pd

    numbers = pd.to_numeric(raw, errors="coerce")
    if numbers.notna().all():
        return _compact(raw, numbers), []
    if bool(raw.str.fullmatch(_WEEK).all()):
        mondays = raw.str.replace("-", "") + "-1"
        return pd.DatetimeIndex(pd.to_datetime(mondays, format="%GW%V-%u", errors="coerce")), []
    if bool(raw.str.fullmatch(_QUARTER).all()):
        parts = raw.str.extract(r"(?P<year>\d{4})"), raw.str.extract(r"Q(?P<quarter>[1-4])")
        cells = parts[0]["year"] + "-" + (3 * parts[1]["quarter"].astype(int) - 2).astype(str)
        return pd.DatetimeIndex(pd.to_datetime(cells, format="%Y-%m")), []
    if bool(raw.str.contains(_ZONE, regex=True).any()):
        return _zoned(raw)
    dates = pd.to_datetime(raw, format="ISO8601", errors="coerce")
    if dates.isna().all():
        dates = _written_otherwise(raw, place)
    return pd.DatetimeIndex(dates), []


def _compact(raw: pd.Series, numbers: pd.Series) -> pd.Index:
    """Read `20240131` as a date where all cells are such, else the numbers."""
    import pandas as pd

    if not raw.str.fullmatch(r"(18|19|20)\d{6}").all():
        return pd.Index(numbers)
    dates = pd.to_datetime(raw, format="%Y%m%d", errors="coerce")
    return pd.Index(numbers) if dates.isna().any() else pd.DatetimeIndex(dates)


def _zoned(raw: pd.Series) -> tuple[pd.DatetimeIndex, list[str]]:
    """Read UTC, but the clock on the wall where only that is even: days with summer time."""
    import pandas as pd

    moments = pd.to_datetime(raw, format="ISO8601", errors="coerce", utc=True)
    utc = pd.DatetimeIndex(moments).tz_localize(None)
    cells = raw.str.replace(_ZONE, "", regex=True)
    wall = pd.DatetimeIndex(pd.to_datetime(cells, format="ISO8601", errors="coerce"))
    local = not utc.isna().any() and not _even(utc) and not utc.equals(wall)
    if local and (_even(wall) or _midnights(wall)):
        return wall, ["Times are those of the clock on the wall, on which rows are even."]
    return utc, ["Times with a zone were read as UTC."]


def _even(index: pd.DatetimeIndex) -> bool:
    return len(np.unique(np.diff(np.sort(index.to_numpy())))) == 1


def _midnights(index: pd.DatetimeIndex) -> bool:
    """Whether the rows are days (or months) on the clock on the wall, perhaps with gaps."""
    return index.is_unique and bool((index == index.normalize()).all())


def _written_otherwise(raw: pd.Series, place: Callable[[int], str]) -> pd.Series:
    """Read dates that are not ISO 8601, unless day and month may be exchanged.

    Raises:
        ValueError: Both orders fit every row, and they differ.
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
        raise ValueError(
            f"{place(row)}: '{raw.iloc[row]}' may be {dates}, and so may all other rows. Write "
            "dates as 2024-01-31."
        )
    return month
