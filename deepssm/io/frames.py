"""Data frames in, labels out: pandas, polars and xarray series as tensors with an index."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

_TYPICAL_WINDOW = 6


class FrameData(NamedTuple):
    """A frame taken apart.

    Attributes:
        y: Values, `(time, obs)`, float64; NaN where the frame had no value.
        index: Row labels.
        names: Column names.
    """

    y: Tensor
    index: pd.Index
    names: tuple[str, ...]


def is_frame(y: object) -> bool:
    """Tell whether `y` is a pandas, polars or xarray object, without importing any of them."""
    return type(y).__module__.split(".")[0] in ("pandas", "polars", "xarray")


def from_frame(y: object, *, regular: bool = True) -> FrameData:
    """Read a frame of numbers whose rows are time steps.

    Args:
        y: pandas Series or DataFrame, polars Series or DataFrame (its only date column becomes
            the index), or a one- or two-dimensional xarray DataArray with time first.
        regular: Demand a time index with equal steps (calendar steps such as months count as
            equal). Pass `False` when the model takes its time steps as data (`dt=`).

    Returns:
        The values with the labels.

    Raises:
        ValueError: a column holds text or dates, all values are missing, there are no rows, or
            the time index is unsorted, repeats itself or (if `regular`) has unequal steps.
    """
    frame = _as_pandas(y)
    _check_index(frame.index, regular)
    names = _unique_names(frame.columns)
    if not names or not len(frame):
        raise ValueError(
            f"`y` must have at least one row and one column, got {len(frame)} rows and "
            f"{len(names)} columns. Check the selection that made it."
        )
    columns = [_numbers(frame.iloc[:, i], name) for i, name in enumerate(names)]
    values = torch.stack([torch.as_tensor(column) for column in columns], dim=-1)
    if bool(values.isnan().all()):
        raise ValueError(
            f"`y` holds no value: all {values.numel()} entries of {', '.join(names)} are "
            "missing. Pass rows that were observed at least once."
        )
    return FrameData(values, frame.index, names)


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
    if isinstance(index, pd.PeriodIndex):
        return pd.period_range(index[-1] + 1, periods=horizon, freq=index.freq, name=index.name)
    if isinstance(index, pd.DatetimeIndex | pd.TimedeltaIndex):
        frequency = _frequency(index)
        if frequency is not None:
            dates = isinstance(index, pd.DatetimeIndex)
            span = cast("Any", pd.date_range if dates else pd.timedelta_range)
            later = span(index[-1], periods=horizon + 1, freq=frequency, name=index.name)
            return later[later > index[-1]][:horizon]
    elif isinstance(index, pd.RangeIndex):
        stop = index.start + len(index) * index.step
        return pd.RangeIndex(stop, stop + horizon * index.step, index.step, name=index.name)
    elif pd.api.types.is_numeric_dtype(index) and len(index) > 1:
        steps = index[1:] - index[:-1]
        if (abs(steps - steps[0]) <= 1e-9 * abs(steps[0])).all():
            later = [index[-1] + steps[0] * (i + 1) for i in range(horizon)]
            return pd.Index(later, name=index.name)
    return pd.RangeIndex(1, horizon + 1, name="step")


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

    _check_order(index)
    if len(index) < 2:
        raise ValueError(f"`index` must have two or more labels, got {len(index)}.")
    gaps = cast("Any", index[1:] - index[:-1])
    steps = torch.as_tensor((gaps / pd.Timedelta(unit)).to_numpy(copy=True))
    return torch.cat([steps[:1], steps])


def _as_pandas(y: object) -> pd.DataFrame:
    import pandas as pd

    root = type(y).__module__.split(".")[0]
    if root == "polars":
        return _from_polars(y)
    if root == "xarray":
        y = cast("Any", y).to_pandas()
    if isinstance(y, pd.Series):
        return y.to_frame("y" if y.name is None else y.name)
    if isinstance(y, pd.DataFrame):
        return y
    raise ValueError(
        f"`y` must be a pandas or polars frame or series, or an xarray DataArray with time "
        f"first and at most two dimensions, got {type(y).__name__}."
    )


def _from_polars(y: Any) -> pd.DataFrame:  # noqa: ANN401
    import pandas as pd

    columns = y.get_columns() if hasattr(y, "get_columns") else [y]
    dates = [column for column in columns if column.dtype.is_temporal()]
    index = pd.Index(dates[0].to_numpy(), name=dates[0].name) if len(dates) == 1 else None
    rest = [column for column in columns if index is None or column is not dates[0]]
    return pd.DataFrame({c.name or "y": c.to_numpy() for c in rest}, index=index)


def _unique_names(columns: pd.Index) -> tuple[str, ...]:
    names = tuple(str(column) for column in columns)
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"`y` has {names.count(name)} columns called {name}: rename them.")
    return names


def _numbers(column: pd.Series, name: str) -> np.ndarray:
    import pandas as pd

    kinds = pd.api.types
    if kinds.is_datetime64_any_dtype(column) or kinds.is_timedelta64_dtype(column):
        raise ValueError(
            f"Column {name} of `y` holds dates, not numbers: make it the index with "
            f'y.set_index("{name}").'
        )
    if kinds.is_bool_dtype(column) or (
        kinds.is_numeric_dtype(column) and not kinds.is_complex_dtype(column)
    ):
        return column.to_numpy("float64", na_value=float("nan"), copy=True)
    numbers = pd.to_numeric(column.astype(object), errors="coerce")
    wrong = column[numbers.isna() & column.notna()]
    if kinds.is_string_dtype(column) or len(wrong):
        example = (wrong if len(wrong) else column.dropna()).iloc[:1]
        where = f", {example.iloc[0]!r} at {_label(example.index[0])}" if len(example) else ""
        raise ValueError(
            f"Column {name} of `y` must hold numbers, got text{where}. Drop it, or convert it "
            f'with pd.to_numeric(y["{name}"], errors="coerce"), which makes text missing.'
        )
    return numbers.to_numpy("float64", na_value=float("nan"), copy=True)


def _label(label: object) -> str:
    text = str(label)
    return text.removesuffix(" 00:00:00")


def _check_index(index: pd.Index, regular: bool) -> None:
    import pandas as pd

    if isinstance(index, pd.MultiIndex):
        raise ValueError(
            f"`y` must have one index level, its time, got {list(index.names)}. Pass one series "
            "at a time, or a tensor (series, time, obs)."
        )
    if isinstance(index, pd.DatetimeIndex | pd.PeriodIndex | pd.TimedeltaIndex):
        _check_order(index)
        if regular and len(index) > 2 and _frequency(index) is None:
            raise ValueError(_irregular(index))


def _check_order(index: pd.Index) -> None:
    if index.hasnans:
        raise ValueError("Time index has missing labels (NaT): drop or repair those rows.")
    if not index.is_unique:
        twice = _label(index[index.duplicated()][0])
        raise ValueError(
            f"Time index repeats {twice}. Merge those rows, as in y.groupby(level=0).mean()."
        )
    if not index.is_monotonic_increasing:
        back = next(i for i in range(1, len(index)) if index[i] < index[i - 1])
        raise ValueError(
            f"Time index goes back from {_label(index[back - 1])} to {_label(index[back])}. "
            "Put the rows in order with y.sort_index()."
        )


def _frequency(index: Any) -> Any:  # noqa: ANN401
    """Return the step as something `date_range` takes, or `None` where there is none."""
    import pandas as pd

    if isinstance(index, pd.PeriodIndex):
        return None if bool((index[1:] != index[:-1] + 1).any()) else index.freq
    if index.freq is not None:
        return index.freq
    if len(index) > 2:
        return _infer(index)
    return index[1] - index[0] if len(index) == 2 else None


def _infer(index: Any) -> Any:  # noqa: ANN401
    import pandas as pd

    with warnings.catch_warnings():
        # pandas 3.1 warns that the string will become an offset; `to_offset` takes both.
        warnings.simplefilter("ignore")
        return pd.tseries.frequencies.to_offset(pd.infer_freq(index))


def _irregular(index: Any) -> str:  # noqa: ANN401
    import pandas as pd

    if isinstance(index, pd.PeriodIndex):
        index = index.to_timestamp()
    steps = index[1:] - index[:-1]
    usual = steps.to_series().median()
    odd = steps > 1.5 * usual
    place = int((odd if odd.any() else steps != usual).argmax())
    return (
        f"Time index is irregular (gap of {_duration(steps[place])} after "
        f'{_label(index[place])}). Use y.resample("{_typical(index, usual)}").mean() (fills NaN), '
        "or a dt-aware model with `dt=`."
    )


def _typical(index: Any, usual: Any) -> str:  # noqa: ANN401
    """Guess the step that the index would have without its gaps."""
    import pandas as pd

    for start in range(0, len(index) - _TYPICAL_WINDOW + 1):
        guess = _infer(index[start : start + _TYPICAL_WINDOW])
        if guess is not None:
            return guess.freqstr
    return cast("Any", pd.tseries.frequencies.to_offset(usual)).freqstr


def _duration(step: Any) -> str:  # noqa: ANN401
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if step.total_seconds() >= size:
            return f"{step.total_seconds() / size:.3g} {unit}"
    return f"{step.total_seconds():.3g} s"
