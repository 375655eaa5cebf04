"""A table as observations, inputs and time steps, or one line on what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .exit_codes import DataError, did_you_mean
from .grid import check_even, filled, gaps_of, in_words, resample_rows, rule, show, with_holidays
from .reading import Reading, numbers, read_times
from .table_files import Source, read_cells, read_source

if TYPE_CHECKING:
    import pandas as pd

# Deep models compute in single precision, where squares end at 3.4e38.
_LARGEST = 1e18


class Table(NamedTuple):
    """What a model learns from.

    Attributes:
        y: Observations, one column each, NaN where missing; rows in order of time.
        u: Inputs on the same rows, or `None`.
        dt: Time since the row before, `(time,)`, for models that take uneven rows, else `None`.
        step: The usual step in words, such as `7 days`, empty for a single row.
        usual: The usual step: seconds where time is dates, else in the unit of the column.
        unit: Unit of `dt` in the same measure; 1 where time is numbers.
        notes: Sentences on what was done to the rows.
        sha256: Digest of the file, empty where there is none.
    """

    y: pd.DataFrame
    u: pd.DataFrame | None
    dt: np.ndarray | None
    step: str
    usual: float
    unit: float
    notes: list[str]
    sha256: str = ""


def read_table(
    path: Path,
    *,
    time: str | None,
    y: list[str] | None,
    u: list[str],
    resample: str | None = None,
    uneven: bool = False,
    unit: float | None = None,
    min_rows: int = 10,
    reading: Reading | None = None,
) -> Table:
    """Read, check and order a table.

    Args:
        path: A file with a header line: text, also compressed by gzip, Parquet or Feather; `-`
            is the standard input.
        time: Name of the time column; `None` counts rows.
        y: Names of the observed columns; `None` takes all others that have a name.
        u: Names of the input columns.
        resample: A step such as `7D` on which to lay the rows, or `None`.
        uneven: Whether the model takes uneven time steps.
        unit: Seconds in a unit of `dt`; by default the usual step.
        min_rows: Fewest observations that a model can be learnt from.
        reading: How cells are written, which series is meant, how gaps of inputs are filled.

    Raises:
        DataError: the table cannot be used; the text says what to do.
    """
    import hashlib

    import pandas as pd

    reading = reading or Reading()
    source = read_source(path)
    frame, wanted, notes = _rows(source, time, y, u, reading, resample)
    if not uneven:
        frame, more = with_holidays(frame)
        notes = [*notes, *more]
    if u and reading.fill:
        frame[u] = filled(frame[u], reading.fill)
    _check_inputs(frame, u, source)
    check_observations(frame[wanted], source, min_rows)
    if not uneven and len(frame) > 1:
        check_even(frame.index, source)
    gaps, usual = gaps_of(frame.index)
    dated = isinstance(frame.index, pd.DatetimeIndex)
    unit = (unit or usual) if dated else 1.0
    dt = np.concatenate([[0.0], gaps / unit]) if uneven else None
    step = in_words(frame.index, usual)
    inputs = frame[u] if u else None
    digest = hashlib.sha256(source.content).hexdigest()
    return Table(frame[wanted], inputs, dt, step, usual, unit, notes, digest)


def read_inputs(
    path: Path, names: list[str], *, time: str | None = None, reading: Reading | None = None
) -> pd.DataFrame:
    """Read the inputs of future steps, labelled by their times if the table has such a column.

    Args:
        path: The table.
        names: Names of the input columns.
        time: Name of the time column of the run; a table without it has rows in order.
        reading: How cells are written.

    Raises:
        DataError: a value is missing or is no number.
    """
    reading = reading or Reading()
    source = read_source(path)
    text = _chosen(read_cells(source, reading), source, reading)
    when = time if time in text.columns else None
    if time is not None and when is None:
        _refuse_other_times(text, source, names, time)
    _wanted(text, source, when, names, [])
    frame = numbers(text, names, source, reading)
    frame.index, _ = _time_index(text, when, source)
    frame = frame if when is None else frame.sort_index(kind="stable")
    frame[names] = filled(frame[names], reading.fill)
    _check_inputs(frame, names, source)
    return frame


def _refuse_other_times(text: pd.DataFrame, source: Source, names: list[str], time: str) -> None:
    """Raise if a column of another name holds dates, which would be passed over."""
    import pandas as pd

    for column in text.columns.difference(names):
        try:
            index, _ = read_times(text[column].str.strip(), str(column), source)
        except DataError:
            continue
        if isinstance(index, pd.DatetimeIndex):
            raise DataError(
                f"{source} has no column '{time}', but times in '{column}': name it '{time}', as "
                "the run does, or leave it out to take the rows in order."
            )


def _rows(
    source: Source,
    time: str | None,
    y: list[str] | None,
    u: list[str],
    reading: Reading,
    resample: str | None,
) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Return numbers in order of time, the observed columns' names, and notes."""
    cells = read_cells(source, reading)
    text = _chosen(cells, source, reading)
    chosen = reading.series.partition("=")[0]
    wanted = [name for name in _wanted(text, source, time, y, u) if y or name != chosen]
    frame = numbers(text, wanted + u, source, reading)
    frame.index, notes = _time_index(text, time, source)
    if resample is not None:
        frame = resample_rows(frame, resample)
    if not frame.index.is_monotonic_increasing:
        frame = frame.sort_index(kind="stable")
        notes = [*notes, "The rows were put in order of time."]
    if frame.index.has_duplicates:
        raise DataError(_twice(text, frame.index, source, [*wanted, *u, time or ""]))
    return frame, wanted, notes


def _chosen(text: pd.DataFrame, source: Source, reading: Reading) -> pd.DataFrame:
    """Return the rows of one series of a table that holds several.

    Raises:
        DataError: There is no such column or no such series.
    """
    if not reading.series:
        return text
    column, _, value = (part.strip() for part in reading.series.partition("="))
    if column not in text.columns:
        hint = did_you_mean(column, list(map(str, text.columns)))
        raise DataError(f"{source} has no column '{column}' for --id.{hint}")
    cells = text[column].str.strip()
    found = text[cells == value].reset_index(drop=True)
    if not value or found.empty:
        names = [str(name) for name in cells.unique()]
        which = f"has no series '{value}'" if value else "holds several series"
        raise DataError(
            f"{source} {which} in column '{column}'.{did_you_mean(value, names)} Choose one with "
            f"--id {column}=NAME: {_list(names)}"
        )
    return found


def _list(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _twice(text: pd.DataFrame, index: pd.Index, source: Source, used: list[str]) -> str:
    """Say which time occurs twice, and whether a column tells series apart."""
    twice = index[index.duplicated()][0]
    start = f"{source}: time {show(twice)} occurs more than once."
    count = int(index.value_counts().max())
    for column in text.columns:
        names = [str(name) for name in text[column].unique()]
        if column not in used and count <= len(names) <= len(text) / 2:
            return (
                f"{start} Column '{column}' seems to tell {len(names)} series apart: choose one "
                f"with --id {column}={names[0]} (it has {_list(names)})."
            )
    return f"{start} Keep one row each, or pass --resample {rule(index)} to average them."


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _wanted(
    text: pd.DataFrame, path: object, time: str | None, y: list[str] | None, u: list[str]
) -> list[str]:
    columns = [str(name) for name in text.columns]
    asked = [name for name in (time,) if name] + (y or []) + u
    for name in asked:
        if name not in columns:
            raise DataError(
                f"{path} has no column '{name}'.{did_you_mean(name, columns)} "
                f"Its columns: {', '.join(columns[:20])}{' ...' if len(columns) > 20 else ''}"
            )
    if len(set(asked)) < len(asked):
        raise DataError("a column can serve once only: as --time, in --y or in --u.")
    named = [name for name in columns if not name.startswith("Unnamed: ")]
    wanted = y or [name for name in named if name != time and name not in u]
    if not wanted:
        raise DataError(f"{path} has no column left to observe: name one with --y.")
    return wanted


def _time_index(text: pd.DataFrame, time: str | None, path: object) -> tuple[pd.Index, list[str]]:
    import pandas as pd

    if time is None:
        return pd.RangeIndex(len(text), name="row"), []
    return read_times(text[time].str.strip(), time, path)


def _check_inputs(frame: pd.DataFrame, u: list[str], path: object) -> None:
    for name in u:
        gaps = int(frame[name].isna().sum())
        if gaps:
            raise DataError(
                f"{path}: input column '{name}' has {_count(gaps, 'missing value')}; inputs must "
                "be known on every row. Fill them with --fill-inputs last (or linear, zero), or "
                "observe the column with --y instead."
            )


def check_observations(y: pd.DataFrame, path: object, min_rows: int) -> None:
    """Demand enough different observations in every observed column.

    Raises:
        DataError: a column is empty, too short or constant.
    """
    for name in y.columns:
        observations = y[name].dropna()
        if observations.empty:
            raise DataError(
                f"{path}: column '{name}' has no observation at all: leave it out of --y."
            )
        if len(observations) < min_rows:
            raise DataError(
                f"{path}: column '{name}' has {_count(len(observations), 'observation')}, too few "
                f"for this model, which needs {min_rows}. Give more rows or choose a simpler "
                "--model."
            )
        largest = float(observations.abs().max())
        if largest > _LARGEST:
            raise DataError(
                f"{path}: column '{name}' holds {largest:g}, whose "
                "square overflows. Repair it, or give the column in a larger unit."
            )
        if min_rows > 1 and observations.nunique() == 1:
            raise DataError(
                f"{path}: column '{name}' is constant ({observations.iloc[0]:g}): leave it out "
                "of --y."
            )
