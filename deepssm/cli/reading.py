"""How the cells of a table are written: times, decimal commas, thousands, per cent, missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..io import dates
from .exit_codes import DataError, UsageError

if TYPE_CHECKING:
    import pandas as pd

MISSING = ("", "NA", "N/A", "na", "n/a", "NaN", "nan", "NULL", "null", "None", "-", "?")
_SEPARATORS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "space": " ", "pipe": "|"}
_COMMA = r"[+-]?(?:\d+|\d{1,3}(?:[.' ]\d{3})+),\d+(?:[eE][+-]?\d+)?"
_THOUSANDS = r"[+-]?\d{1,3}(?:,\d{3})+"
_DOTTED = r"[+-]?\d{1,3}(?:\.\d{3})+"


class Reading(NamedTuple):
    """How a table is to be read; empty where it is to be found out.

    Attributes:
        sep: Separator of columns.
        decimal: Decimal mark, `.` or `,`.
        thousands: Mark between thousands.
        missing: Marks of missing cells beyond the usual ones.
        percent: Whether cells such as `12 %` are numbers.
        series: `column=value` of the rows to take from a table of several series.
        fill: How gaps of inputs are filled: `last`, `linear` or `zero`.
    """

    sep: str = ""
    decimal: str = ""
    thousands: str = ""
    missing: tuple[str, ...] = ()
    percent: bool = False
    series: str = ""
    fill: str = ""

    def to_config(self) -> dict[str, Any]:
        """Return plain data for `config.toml`: what was given."""
        given = {name: value for name, value in self._asdict().items() if value}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in given.items()}


def reading_of(options: Mapping[str, Any]) -> Reading:
    """Return how a table is to be read from options or a configuration; others are ignored.

    Raises:
        UsageError: A separator or a mark is no single character.
    """
    sep = str(options.get("sep") or "")
    sep = _SEPARATORS.get(sep, sep)
    decimal, thousands = (str(options.get(name) or "") for name in ("decimal", "thousands"))
    if len(sep) > 1 or len(thousands) > 1 or decimal not in ("", ".", ","):
        raise UsageError(
            "--sep takes one character (or tab, space, semicolon, comma, pipe), --decimal '.' or "
            "',', --thousands one character."
        )
    if decimal and decimal == thousands:
        raise UsageError("--decimal and --thousands must differ.")
    return Reading(
        sep,
        decimal,
        thousands,
        tuple(map(str, options.get("missing") or ())),
        bool(options.get("percent")),
        str(options.get("series") or ""),
        str(options.get("fill") or ""),
    )


def numbers(text: pd.DataFrame, names: list[str], path: object, reading: Reading) -> pd.DataFrame:
    """Return the columns of numbers, NaN where a cell is missing.

    Args:
        text: Cells as text.
        names: Names of the columns wanted.
        path: Where they came from.
        reading: How they are written.

    Raises:
        DataError: A cell is no number, or may be one of two.
    """
    import pandas as pd

    marks = [*MISSING, *reading.missing]
    cells = {name: text[name].str.strip() for name in names}
    cells = {name: raw.mask(raw.isin(marks)) for name, raw in cells.items()}
    decimal = reading.decimal or _decimal(cells, path, reading)
    columns = {}
    for name, raw in cells.items():
        values = pd.to_numeric(_plain(raw, decimal, reading), errors="coerce").astype(float)
        bad = (values.isna() & raw.notna()) | np.isinf(values)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise DataError(_bad_cell(path, row, name, str(raw.iloc[row]), int(bad.sum())))
        columns[name] = values.to_numpy()
    return pd.DataFrame(columns)


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


def _plain(raw: pd.Series, decimal: str, reading: Reading) -> pd.Series:
    """Return cells as Python writes numbers; those that fit no rule stay as they are."""
    if reading.percent:
        raw = raw.str.replace(r"\s*%$", "", regex=True)
    mark = reading.thousands or ("." if decimal == "," else "")
    if mark:
        import re

        tail = re.escape(decimal or ".")
        whole = raw.str.fullmatch(rf"[+-]?\d{{1,3}}(?:{re.escape(mark)}\d{{3}})+(?:{tail}\d*)?")
        raw = raw.mask(whole.fillna(False).astype(bool), raw.str.replace(mark, "", regex=False))
    if decimal == ",":
        raw = raw.mask(raw.str.contains(".", regex=False).fillna(False).astype(bool), "?" + raw)
        raw = raw.str.replace(",", ".", regex=False)
    return raw


def _decimal(cells: Mapping[str, pd.Series], path: object, reading: Reading) -> str:
    """Find the decimal mark: a comma if some cell can be nothing else.

    Raises:
        DataError: Cells such as `1,234` may be read in two ways, or both marks are decimal.
    """
    import pandas as pd

    if reading.thousands == ",":
        return "."
    everything = pd.concat([raw.dropna() for raw in cells.values()], ignore_index=True)
    if reading.percent:
        everything = everything.str.replace(r"\s*%$", "", regex=True)
    commas = everything[everything.str.contains(",", regex=False)]
    if commas.empty:
        return "."
    comma = commas[commas.str.fullmatch(_COMMA)]
    sure = comma[~comma.str.fullmatch(_THOUSANDS)]
    if len(sure):
        dotted = everything[everything.str.fullmatch(_DOTTED)]
        if len(dotted) and not reading.thousands and not sure.str.contains(".", regex=False).any():
            raise DataError(_two_ways(path, str(dotted.iloc[0]), ".", ","))
        return ","
    if commas.str.fullmatch(_THOUSANDS).all():
        raise DataError(_two_ways(path, str(commas.iloc[0]), ",", ","))
    return "."


def _two_ways(path: object, cell: str, mark: str, decimal: str) -> str:
    return (
        f"{path}: '{cell}' may be {cell.replace(mark, '')} or {cell.replace(mark, '.')}. Pass "
        f"--thousands {mark} or --decimal {decimal if mark == ',' else '.'}."
    )


def _bad_cell(path: object, row: int, name: str, cell: str, count: int) -> str:
    hint = ""
    if cell.endswith("%"):
        hint = " Pass --percent to take such cells as numbers."
    elif cell in (".", "*", "--", "...", "nd", "ND", "missing"):
        hint = f" Pass --missing '{cell}' if it stands for a missing value."
    elif any(letter.isdigit() for letter in cell) and any(mark in cell for mark in ", '"):
        hint = " Marks between thousands go to --thousands, a decimal comma to --decimal."
    cells = "1 such cell" if count == 1 else f"{count} such cells"
    return (
        f"{path}, line {row + 2}: column '{name}' holds '{cell}', which is not a number ({cells})."
        f"{hint} Leave a cell empty where a observation is missing, or choose number columns with "
        "--y; a time column goes to --time."
    )
