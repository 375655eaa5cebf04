"""The time column of a table: dates, dates with a zone, weeks, quarters, or numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..io import dates
from .exit_codes import DataError

if TYPE_CHECKING:
    import pandas as pd


def read_times(raw: pd.Series, name: str, path: object) -> tuple[pd.Index, list[str]]:
    """Return the time of each row, and sentences on how it was read.

    Args:
        raw: The cells of the time column, as text.
        name: Name of the column.
        path: Where it came from.

    Raises:
        DataError: A cell is no time, or may be two different ones.
    """
    try:
        index, notes = dates.read_times(raw, lambda row: f"{path}, line {row + 2}")
    except ValueError as error:
        raise DataError(str(error)) from None
    if index.isna().any():
        row = int(index.isna().argmax())
        raise DataError(
            f"{path}, line {row + 2}: time column '{name}' holds '{raw.iloc[row]}', which is "
            "neither a date nor a number. Write dates as 2024-01-31 or 2024-01-31T06:00."
        )
    return index.rename(name), notes
