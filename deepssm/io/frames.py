"""Data frames in, labels out: frames of several libraries as tensors with an index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from .arrays import read_numbers
from .calendars import future_index as future_index
from .dialects import Dialect
from .foreign_frames import as_pandas
from .foreign_frames import is_frame as is_frame
from .gaps import check_even
from .row_labels import as_labels, check_order, label

if TYPE_CHECKING:
    import pandas as pd


class FrameData(NamedTuple):
    """A frame taken apart.

    Attributes:
        y: Values, `(time, obs)`, float64; NaN where the frame had no value.
        index: Row labels; dates in any form are dates.
        names: Column names.
    """

    y: Tensor
    index: pd.Index
    names: tuple[str, ...]


def from_frame(y: object, *, regular: bool = True) -> FrameData:
    """Read a frame of numbers whose rows are time steps.

    Args:
        y: pandas Series or DataFrame; polars Series, DataFrame or LazyFrame, or an Arrow table
            (its only date column becomes the index); a one- or two-dimensional xarray DataArray
            with time first, or a Dataset of such.
        regular: Demand a time index with equal steps (calendar steps such as months and business
            days count as equal); numbers such as years are time, too. Pass `False` when the model
            takes its time steps as data (`dt=`).

    Returns:
        The values with the labels.

    Raises:
        ValueError: a column holds text or dates, all values are missing, there are no rows, or
            the time index is unsorted, repeats itself or (if `regular`) has unequal steps.
    """
    data, dialect = read_frame(y, "y")
    check_order(data.index, dialect)
    if regular:
        check_even(data.index, dialect)
    if bool(data.y.isnan().all()):
        raise ValueError(
            f"`y` holds no value: all {data.y.numel()} entries of {', '.join(data.names)} are "
            "missing. Pass rows that were observed at least once."
        )
    return data


def read_frame(value: object, name: str) -> tuple[FrameData, Dialect]:
    """Read a frame of numbers without a look at the order of its rows.

    Args:
        value: A frame or a series.
        name: What the caller calls it.

    Returns:
        The values with the labels, and how its library says things.

    Raises:
        ValueError: A column holds text or dates, or there are no rows.
    """
    frame, dialect = as_pandas(value, name)
    index = as_labels(frame.index, name)
    names = _unique_names(frame.columns, name)
    if not names or not len(frame):
        raise ValueError(
            f"`{name}` must have at least one row and one column, got {len(frame)} rows and "
            f"{len(names)} columns. Check the selection that made it."
        )
    columns = [_numbers(frame.iloc[:, i], each, dialect, name) for i, each in enumerate(names)]
    values = torch.stack([torch.as_tensor(column) for column in columns], dim=-1)
    return FrameData(values, index, names), dialect


def has_names(data: FrameData) -> bool:
    """Whether somebody gave the columns names: a count from 0, or `y` of a series, is none."""
    return data.names != ("y",) and data.names != tuple(map(str, range(len(data.names))))


def data_warnings(y: Tensor, names: Sequence[str]) -> list[str]:
    """Say in plain words which columns a model can learn nothing from.

    Args:
        y: `(*batch, time, obs)`.
        names: Names of the `obs` columns.

    Returns:
        One sentence for each constant or empty column.
    """
    sentences = []
    for column, name in zip(y.reshape(-1, y.shape[-1]).unbind(-1), names, strict=True):
        seen = column[~column.isnan()]
        if not len(seen):
            sentences.append(f"Column {name} has no values: drop it.")
        elif len(seen) > 1 and bool((seen == seen[0]).all()):
            sentences.append(
                f"Column {name} is constant ({seen[0].item():g}): drop it, or fix its noise; "
                "a fitted variance would shrink to zero."
            )
    return sentences


def time_steps(index: pd.DatetimeIndex | pd.TimedeltaIndex, unit: str = "1s") -> Tensor:
    """Return the steps of an irregular index as `dt`.

    Args:
        index: Increasing time labels.
        unit: The model's time unit as pandas writes it, such as `"1s"`, `"1h"` or `"7D"`.

    Returns:
        `(time,)`, float64, in `unit`; entry 0, which no model uses, repeats entry 1.

    Raises:
        ValueError: the index is unsorted, repeats itself or has fewer than two labels.
    """
    import pandas as pd

    check_order(index, Dialect("pandas", "y"))
    if len(index) < 2:
        raise ValueError(f"`index` must have two or more labels, got {len(index)}.")
    gaps = cast("Any", index[1:] - index[:-1])
    steps = torch.as_tensor((gaps / pd.Timedelta(unit)).to_numpy(copy=True))
    return torch.cat([steps[:1], steps])


def _unique_names(columns: pd.Index, name: str) -> tuple[str, ...]:
    import pandas as pd

    if len(columns) > 1 and isinstance(columns, pd.DatetimeIndex | pd.PeriodIndex):
        raise ValueError(
            f"`{name}` has dates as its columns: time goes down the rows. Turn it, as in "
            f"`{name}.T`."
        )
    names = tuple(str(column) for column in columns)
    for each in names:
        if names.count(each) > 1:
            raise ValueError(
                f"`{name}` has {names.count(each)} columns called {each}: rename them."
            )
    return names


def _numbers(column: pd.Series, name: str, dialect: Dialect, frame: str) -> np.ndarray:
    import pandas as pd

    kinds = pd.api.types
    kind = kinds.infer_dtype(column, skipna=True)
    if kinds.is_timedelta64_dtype(column.dtype) or kind in ("timedelta", "timedelta64"):
        raise ValueError(
            f"Column {name} of `{frame}` holds durations, not numbers: give them a unit, as in "
            f"{dialect.durations(name)}."
        )
    if kinds.is_datetime64_any_dtype(column.dtype) or kind in _DATES:
        raise ValueError(
            f"Column {name} of `{frame}` holds dates, not numbers: {dialect.as_index(name)}."
        )
    if kinds.is_complex_dtype(column.dtype) or kind == "complex":
        raise ValueError(
            f"Column {name} of `{frame}` must be real, got complex numbers. Pass its parts as "
            "columns."
        )
    if kinds.is_bool_dtype(column.dtype) or kinds.is_numeric_dtype(column.dtype):
        return np.array(column.to_numpy("float64", na_value=float("nan")), order="C")
    _refuse_text(column, name, dialect, frame)
    values = column.to_numpy(dtype=object)
    return read_numbers(f'{frame}["{name}"]', values).numpy()


_DATES = ("date", "datetime", "datetime64", "time", "period")


def _refuse_text(column: pd.Series, name: str, dialect: Dialect, frame: str) -> None:
    import pandas as pd

    wrong = [isinstance(x, str | bytes) for x in column]
    if any(wrong):
        parsed = pd.to_numeric(column.astype(object), errors="coerce")
        bad = column[parsed.isna() & column.notna()]
        example = (bad if len(bad) else column.dropna()).iloc[:1]
        where = f", {example.iloc[0]!r} at {label(example.index[0])}" if len(example) else ""
        raise ValueError(
            f"Column {name} of `{frame}` must hold numbers, got text{where}. Drop it, or convert "
            f"it with {dialect.numbers(name)}, which makes text missing."
        )
