"""A CSV table as observations, inputs and time steps, or one line on what is wrong with it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..io.budget import require_memory
from .exit_codes import DataError, did_you_mean
from .grid import resampled
from .times import read_times

if TYPE_CHECKING:
    import pandas as pd

# Deep models compute in single precision, where squares end at 3.4e38.
_LARGEST = 1e18
MOST_COLUMNS = 10_000
_IN_MEMORY = 10  # Bytes that a byte of text takes as a cell of text and as a number.
MISSING = ("", "NA", "N/A", "na", "n/a", "NaN", "nan", "NULL", "null", "None", "-", "?")


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
    """

    y: pd.DataFrame
    u: pd.DataFrame | None
    dt: np.ndarray | None
    step: str
    usual: float
    unit: float
    notes: list[str]


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
) -> Table:
    """Read, check and order a CSV table.

    Args:
        path: A text file with a header line.
        time: Name of the time column; `None` counts rows.
        y: Names of the observed columns; `None` takes all others that have a name.
        u: Names of the input columns.
        resample: A step such as `7D` on which to lay the rows, or `None`.
        uneven: Whether the model takes uneven time steps.
        unit: Seconds in a unit of `dt`; by default the usual step.
        min_rows: Fewest observations that a model can be learnt from.

    Raises:
        DataError: the table cannot be used; the text says what to do.
    """
    import pandas as pd

    text = _read_text(path)
    wanted = _wanted(text, path, time, y, u)
    frame = _numbers(text, wanted + u, path)
    frame.index, notes = _time_index(text, time, path)
    if resample is not None:
        frame = resampled(frame, resample)
    if not frame.index.is_monotonic_increasing:
        frame = frame.sort_index(kind="stable")
        notes = [*notes, "The rows were put in order of time."]
    _check_inputs(frame, u, path)
    check_observations(frame[wanted], path, min_rows)
    gaps, usual = _gaps(frame.index, path)
    if not uneven:
        _check_even(frame.index, gaps, usual, path)
    dated = isinstance(frame.index, pd.DatetimeIndex)
    unit = (unit or usual) if dated else 1.0
    dt = np.concatenate([[0.0], gaps / unit]) if uneven else None
    return Table(
        frame[wanted], frame[u] if u else None, dt, _in_words(usual, dated), usual, unit, notes
    )


def read_inputs(path: Path, names: list[str], horizon: int) -> np.ndarray:
    """Read the inputs of future steps, `(horizon, input)`.

    Raises:
        DataError: the table has not one complete row a step.
    """
    text = _read_text(path)
    _wanted(text, path, None, names, [])
    frame = _numbers(text, names, path)
    _check_inputs(frame, names, path)
    if len(frame) != horizon:
        raise DataError(f"{path} has {len(frame)} rows, expected one a step: {horizon}.")
    return frame.to_numpy()


def _read_text(path: Path) -> pd.DataFrame:
    import pandas as pd

    if path.is_file():
        size = path.stat().st_size
        require_memory(_IN_MEMORY * size, f"{path}", "Give a part of it, or fewer columns.")
    if path.is_dir():
        raise DataError(f"{path} is a folder: give the CSV file itself.")
    if not path.is_file():
        near = [p.name for p in path.parent.glob("*.csv")] if path.parent.is_dir() else []
        raise DataError(f"there is no file '{path}'.{did_you_mean(path.name, near)}")
    twice = _repeated(path)
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except pd.errors.EmptyDataError:
        raise DataError(f"{path} is empty: give a table with a header line.") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not text in UTF-8: save it as CSV (UTF-8).") from None
    except pd.errors.ParserError as error:
        reason = str(error).splitlines()[-1]
        raise DataError(f"{path} is not a CSV table with commas: {reason}") from None
    if frame.empty:
        raise DataError(f"{path} has a header line but no rows.")
    if twice:
        raise DataError(f"{path} has more than one column '{twice}': rename them.")
    if frame.shape[1] == 1 and ";" in str(frame.columns[0]):
        raise DataError(f"{path} separates columns with ';': save it with commas.")
    return frame


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _repeated(path: Path) -> str:
    """Return the first name that stands twice in the header, which pandas would number.

    Raises:
        DataError: there is no header, or it names more columns than a model can take.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            names = [name.strip() for name in next(csv.reader(file), [])]
    except UnicodeDecodeError:
        raise DataError(f"{path} is not text in UTF-8: save it as CSV (UTF-8).") from None
    except csv.Error as error:
        raise DataError(f"{path} has no header line that can be read: {error}.") from None
    if len(names) > MOST_COLUMNS:
        raise DataError(f"{path} has {len(names)} columns, more than the {MOST_COLUMNS} allowed.")
    seen: set[str] = set()
    for name in names:
        if name and name in seen:
            return name
        seen.add(name)
    return ""


def _wanted(
    text: pd.DataFrame, path: Path, time: str | None, y: list[str] | None, u: list[str]
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


def _numbers(text: pd.DataFrame, names: list[str], path: Path) -> pd.DataFrame:
    import pandas as pd

    columns = {}
    for name in names:
        raw = text[name].str.strip()
        missing = raw.isin(MISSING)
        values = pd.to_numeric(raw.mask(missing), errors="coerce").astype(float)
        bad = (values.isna() & ~missing) | np.isinf(values)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise DataError(
                f"{path}, line {row + 2}: column '{name}' holds '{raw.iloc[row]}', which is not "
                f"a number ({_count(int(bad.sum()), 'such cell')}). Leave a cell empty where a "
                "observation is missing, or choose number columns with --y; a time column goes to "
                "--time."
            )
        columns[name] = values.to_numpy()
    return pd.DataFrame(columns)


def _time_index(text: pd.DataFrame, time: str | None, path: Path) -> tuple[pd.Index, list[str]]:
    import pandas as pd

    if time is None:
        return pd.RangeIndex(len(text), name="row"), []
    return read_times(text[time].str.strip(), time, path)


def _check_inputs(frame: pd.DataFrame, u: list[str], path: Path) -> None:
    for name in u:
        gaps = int(frame[name].isna().sum())
        if gaps:
            raise DataError(
                f"{path}: input column '{name}' has {_count(gaps, 'missing value')}; inputs must "
                "be known on every row. Fill them, or observe the column with --y instead."
            )


def check_observations(y: pd.DataFrame, path: Path, min_rows: int) -> None:
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


def _gaps(index: pd.Index, path: Path) -> tuple[np.ndarray, float]:
    """Return the steps between rows, in seconds where time is dates, and their median."""
    import pandas as pd

    if index.has_duplicates:
        twice = index[index.duplicated()][0]
        raise DataError(
            f"{path}: time {_show(twice)} occurs more than once. Keep one row each, or pass "
            f"--resample {_rule(index)} to average them."
        )
    moments = index.to_numpy()
    if isinstance(index, pd.DatetimeIndex):
        gaps = np.diff(moments).astype("timedelta64[ns]").astype(float) / 1e9
    else:
        gaps = np.diff(moments.astype(float))
    return gaps, float(np.median(gaps)) if len(gaps) else 0.0


def _in_words(usual: float, dated: bool) -> str:
    import pandas as pd

    if not usual:
        return ""
    if not dated:
        return f"{usual:g}"
    return str(pd.Timedelta(round(usual * 1e9), unit="ns")).removesuffix(" 00:00:00")


def _check_even(index: pd.Index, gaps: np.ndarray, usual: float, path: Path) -> None:
    import pandas as pd

    even = np.abs(gaps - usual) <= 1e-6 * usual
    dated = isinstance(index, pd.DatetimeIndex)
    if even.all() or (dated and _calendar(index)):
        return
    row = int(np.flatnonzero(~even)[0])
    raise DataError(
        f"{path}: the time column is irregular: the usual step is {_in_words(usual, dated)}, but "
        f"{_show(index[row])} is followed by {_show(index[row + 1])}. Pass "
        f"--resample {_rule(index)} (lays rows on a grid, puts missing rows in) or "
        "--model constant-velocity (takes uneven steps)."
    )


def _calendar(index: pd.DatetimeIndex) -> bool:
    """Whether the rows are months, quarters or years, whose lengths differ in days."""
    steps = np.diff(12 * index.year + index.month)
    same_day = len(set(index.day)) == 1 or bool(index.is_month_end.all())
    return same_day and steps[0] > 0 and bool((steps == steps[0]).all())


def _rule(index: pd.Index) -> str:
    """Return the `--resample` rule that fits the usual step."""
    import pandas as pd

    moments = np.sort(index.unique().to_numpy())
    if not isinstance(index, pd.DatetimeIndex):
        return f"{np.median(np.diff(moments.astype(float))):g}"
    gaps = np.diff(moments).astype("timedelta64[ns]").astype(float)
    usual = pd.Timedelta(int(np.median(gaps)), unit="ns")
    for rule, days in (("MS", (28, 31)), ("QS", (90, 92)), ("YS", (365, 366))):
        if days[0] <= usual / pd.Timedelta(days=1) <= days[1]:
            return rule
    for rule, seconds in (("D", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count = usual.total_seconds() / seconds
        if count >= 1 and count == int(count):
            return f"{int(count)}{rule}"
    return f"{usual.total_seconds() * 1e3:g}ms"


def _show(moment: object) -> str:
    return str(moment).removesuffix(" 00:00:00")
