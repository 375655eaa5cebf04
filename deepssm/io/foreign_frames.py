"""Frames of polars, xarray and Arrow as frames of pandas, their times kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from .dialects import Dialect

if TYPE_CHECKING:
    import pandas as pd

_ARRAYS = ("Index", "Array", "Categorical", "Scalar")


def is_frame(y: object) -> bool:
    """Tell whether `y` is a pandas, polars, xarray or Arrow object, without importing any.

    A bare index or array of pandas is none: it has no labels.
    """
    root = type(y).__module__.split(".")[0]
    if root == "pandas":
        return not (type(y).__name__.endswith(_ARRAYS) or _is_scalar(y))
    return root in ("polars", "xarray", "pyarrow") and not type(y).__name__.endswith("Scalar")


def as_pandas(y: object, name: str) -> tuple[pd.DataFrame, Dialect]:
    """Return a frame of pandas, and how the user's library says things.

    Args:
        y: A frame or a series.
        name: What the caller calls it.

    Raises:
        ValueError: It is no frame, or one of too many dimensions.
    """
    import pandas as pd

    root = type(y).__module__.split(".")[0]
    if root == "polars":
        return _from_polars(y, name)
    if root == "xarray":
        return _from_xarray(y, name)
    if root == "pyarrow":
        return _from_arrow(y, name)
    dialect = Dialect("pandas", name)
    if isinstance(y, pd.Series):
        return y.to_frame("y" if y.name is None else y.name), dialect
    if isinstance(y, pd.DataFrame):
        return y, dialect
    raise _no_frame(y, name)


def _is_scalar(y: object) -> bool:
    import pandas as pd

    return pd.api.types.is_scalar(y)


def _no_frame(y: object, name: str) -> ValueError:
    return ValueError(
        f"`{name}` must be a pandas or polars frame or series, an Arrow table, or an xarray "
        f"DataArray with time first and at most two dimensions, got {type(y).__name__}."
    )


def _from_polars(y: Any, name: str) -> tuple[pd.DataFrame, Dialect]:  # noqa: ANN401
    import pandas as pd
    import polars as pl  # pyright: ignore[reportMissingImports]

    if isinstance(y, pl.LazyFrame):
        y = cast("Any", y.collect())
    if not isinstance(y, pl.Series | pl.DataFrame):
        raise _no_frame(y, name)
    columns = y.get_columns() if isinstance(y, pl.DataFrame) else [y]
    dates = [c for c in columns if c.dtype.is_temporal() and c.dtype != pl.Time]
    time = dates[0] if len(dates) == 1 and len(columns) > 1 else None
    index = None if time is None else _polars_index(time)
    rest = [column for column in columns if column is not time]
    frame = pd.DataFrame({c.name or "y": _polars_values(c) for c in rest}, index=index)
    return frame, Dialect("polars", name, "" if time is None else time.name)


def _polars_index(column: Any) -> pd.Index:  # noqa: ANN401
    """Return dates and durations; those with a zone keep it, which polars' arrays do not."""
    import pandas as pd
    import polars as pl  # pyright: ignore[reportMissingImports]

    values, zone = column.to_numpy(), getattr(column.dtype, "time_zone", None)
    if column.dtype == pl.Duration:
        return pd.TimedeltaIndex(values, name=column.name)
    index = pd.DatetimeIndex(values, name=column.name)
    if column.dtype == pl.Date:
        index = index.as_unit("s")
    return index if zone is None else index.tz_localize("UTC").tz_convert(zone)


def _polars_values(column: Any) -> Any:  # noqa: ANN401
    import polars as pl  # pyright: ignore[reportMissingImports]

    if column.dtype.is_numeric() or column.dtype == pl.Boolean:
        return column.cast(pl.Float64).to_numpy()
    if column.dtype == pl.Null:
        return [None] * len(column)
    if column.dtype.is_temporal() and column.dtype != pl.Time:
        return _polars_index(column)
    return column.to_list()


def _from_xarray(y: Any, name: str) -> tuple[pd.DataFrame, Dialect]:  # noqa: ANN401
    import pandas as pd

    dims = tuple(str(dim) for dim in y.dims)
    if type(y).__name__ == "Dataset" and len(dims) == 1:
        return y.to_dataframe()[list(y.data_vars)], Dialect("xarray", name, dims[0])
    if type(y).__name__ != "DataArray" or not 1 <= len(dims) <= 2:
        raise _no_frame(y, name)
    found = y.to_pandas()
    if isinstance(found, pd.Series):
        found = found.to_frame("y" if y.name is None else y.name)
    elif _dated(found.columns) and not _dated(found.index):
        turned = f'{name}.transpose("{dims[1]}", "{dims[0]}")'
        raise ValueError(f"`{name}` must have time first, got {dims}. Turn it: {turned}.")
    return found, Dialect("xarray", name, dims[0])


def _dated(index: pd.Index) -> bool:
    import pandas as pd

    return isinstance(index, pd.DatetimeIndex | pd.PeriodIndex | pd.TimedeltaIndex)


def _from_arrow(y: Any, name: str) -> tuple[pd.DataFrame, Dialect]:  # noqa: ANN401
    import pandas as pd
    import pyarrow as pa  # pyright: ignore[reportMissingImports]

    if isinstance(y, pa.Array | pa.ChunkedArray):
        return pd.DataFrame({"y": y.to_pandas()}), Dialect("pyarrow", f"{name}.to_pandas()")
    if not isinstance(y, pa.Table | pa.RecordBatch):
        raise _no_frame(y, name)
    frame = y.to_pandas(date_as_object=False)
    kinds = pd.api.types
    dates = [
        column
        for column in frame.columns
        if kinds.is_datetime64_any_dtype(frame[column].dtype)
        or kinds.is_timedelta64_dtype(frame[column].dtype)
    ]
    if isinstance(frame.index, pd.RangeIndex) and len(dates) == 1 and frame.shape[1] > 1:
        code = f'{name}.to_pandas(date_as_object=False).set_index("{dates[0]}")'
        return frame.set_index(dates[0]), Dialect("pyarrow", code, str(dates[0]))
    return frame, Dialect("pyarrow", f"{name}.to_pandas()")
