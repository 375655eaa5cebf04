"""Alignment of what belongs to the rows of `y`: rows by their labels, columns by their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from torch import Tensor

from .dialects import Dialect
from .frames import FrameData, has_names, is_frame, read_frame
from .row_labels import check_order, is_default, is_number, is_time, label

if TYPE_CHECKING:
    import pandas as pd


def columns_by_name(
    data: FrameData, wanted: Sequence[str] | None, name: str, *, strict: bool = True
) -> FrameData:
    """Return a frame's columns in the order in which they are wanted.

    Args:
        data: A frame; one whose columns nobody named is taken as it is.
        wanted: Names that are known, in order, if any.
        name: What the caller calls the frame.
        strict: Whether columns of wholly other names are refused; else they are taken as they
            are, as data of another source.

    Raises:
        ValueError: A wanted column is not there.
    """
    if not wanted or data.names == tuple(wanted) or not has_names(data):
        return data
    missing = [each for each in wanted if each not in data.names]
    if missing:
        if not strict and len(missing) == len(wanted):
            return data
        raise ValueError(
            f"`{name}` has no column {missing[0]!r}, but {', '.join(data.names)}: the columns "
            f"known are {', '.join(wanted)}, in this order. Name its columns so, or pass numbers "
            "without names."
        )
    order = [data.names.index(each) for each in wanted]
    return FrameData(data.y[:, order], data.index, tuple(wanted))


def rows_by_label(
    data: FrameData, dialect: Dialect, onto: pd.Index | None, name: str, to: str = "y"
) -> Tensor:
    """Return a frame's rows in the order of the labels that they belong to.

    A frame without labels of its own, and every frame where `onto` has none, is taken row by row.

    Args:
        data: A frame whose columns are in order.
        dialect: How its library says things.
        onto: Labels of the rows wanted, if any.
        name: What the caller calls the frame.
        to: What has the labels `onto`.

    Returns:
        `(time, columns)`.

    Raises:
        ValueError: A label has no row, occurs twice or is of another kind.
    """
    if onto is None or is_default(data.index):
        check_order(data.index, dialect)
        return data.y
    own = _comparable(data.index, onto, name, to)
    if own is None:
        if not is_default(onto):
            raise ValueError(
                f"`{name}` has rows such as {label(data.index[0])!r}, `{to}` such as "
                f"{label(onto[0])!r}: labels of two kinds. Give both the same, as in "
                f"`{name}.index = {to}.index`, if they are rows of one time."
            )
        check_order(data.index, dialect)
        return data.y
    if own.hasnans or not own.is_unique:
        check_order(own, dialect)
    places = _places(own, onto)
    if bool((places < 0).any()):
        raise ValueError(_absent(own, onto, places, name, to))
    return data.y if np.array_equal(places, np.arange(len(own))) else data.y[places]


def steps_by_label(
    data: FrameData, dialect: Dialect, onto: pd.Index | None, name: str, to: str = "y"
) -> Tensor:
    """Return the time steps of labelled rows; each leads from the row before.

    Raises:
        ValueError: As `rows_by_label`; or a row between two of `onto` is left out.
    """
    steps = rows_by_label(data._replace(y=data.y), dialect, onto, name, to)
    own = None if onto is None else _comparable(data.index, onto, name, to)
    if own is not None and onto is not None and not is_default(data.index):
        jumps = np.flatnonzero(np.diff(_places(own, onto)) != 1)
        if len(jumps):
            raise ValueError(
                f"`{name}` has rows between {label(onto[jumps[0]])} and "
                f"{label(onto[jumps[0] + 1])} of `{to}`: a step leads from the row before. Take "
                f"the steps of `{to}` itself: `ds.interop.time_steps({to}.index, ...)`."
            )
    return steps


def require_later(value: object, past: pd.Index, name: str) -> None:
    """Raise if a frame of what is to come has rows that are past; labels of two kinds say nothing.

    Args:
        value: What the user passed.
        past: Labels of the past.
        name: What the caller calls the frame.

    Raises:
        ValueError: Its first row is not after the last one of the past.
    """
    if not is_frame(value):
        return
    own = read_frame(value, name)[0].index
    if is_default(own) or not len(own):
        return
    own = _comparable(own, past, name, "y")
    if own is not None and is_time(own) and not own[0] > past[-1]:
        raise ValueError(
            f"`{name}` begins at {label(own[0])}, but `y` ends at {label(past[-1])}: pass the "
            "rows after it."
        )


def _comparable(own: pd.Index, onto: pd.Index, name: str, to: str) -> pd.Index | None:
    """Return labels of the kind of `onto`, or `None` if they are of two kinds."""
    import pandas as pd

    if isinstance(own, pd.DatetimeIndex) and isinstance(onto, pd.DatetimeIndex):
        if (own.tz is None) != (onto.tz is None):
            zoned, plain = (name, to) if onto.tz is None else (to, name)
            zone = own.tz or onto.tz
            raise ValueError(
                f"`{zoned}` has times of the zone {zone}, `{plain}` has none. Give it one: "
                f'`{plain}.tz_localize("{zone}")`.'
            )
        return own if own.tz is None else own.tz_convert(onto.tz)
    if isinstance(onto, pd.PeriodIndex):
        if isinstance(own, pd.DatetimeIndex):
            return own.tz_localize(None).to_period(cast("Any", onto.freq))
        return own if isinstance(own, pd.PeriodIndex) and own.freq == onto.freq else None
    if isinstance(own, pd.PeriodIndex) and isinstance(onto, pd.DatetimeIndex):
        return _stamped(own, onto)
    if isinstance(own, pd.TimedeltaIndex) or isinstance(onto, pd.TimedeltaIndex):
        return own if type(own) is type(onto) else None
    if is_number(own) or is_number(onto):
        return own if is_number(own) and is_number(onto) else None
    return own if own.inferred_type == onto.inferred_type else None


def _stamped(own: pd.PeriodIndex, onto: pd.DatetimeIndex) -> pd.Index | None:
    """Return periods as the dates of `onto` that lie in them, one each."""
    import pandas as pd

    same = onto.tz_localize(None).to_period(cast("Any", own.freq))
    if not same.is_unique:
        return None
    starts = own.to_timestamp().tz_localize(onto.tz)
    found = same.get_indexer(own)
    return pd.DatetimeIndex(
        [onto[int(i)] if i >= 0 else start for i, start in zip(found, starts, strict=True)]
    )


def _places(own: pd.Index, onto: pd.Index) -> np.ndarray:
    """Return the row of each label, -1 where there is none; decimals up to round-off."""
    if "f" not in (own.dtype.kind, onto.dtype.kind):
        return own.get_indexer(onto)
    left, right = own.to_numpy(dtype=float), onto.to_numpy(dtype=float)
    order = np.argsort(left, kind="stable")
    near = np.clip(np.searchsorted(left[order], right), 0, len(left) - 1)
    before = np.clip(near - 1, 0, len(left) - 1)
    closer = np.abs(left[order[before]] - right) < np.abs(left[order[near]] - right)
    found = order[np.where(closer, before, near)]
    steps = np.diff(np.sort(right))
    slack = 1e-6 * (float(steps.min()) if len(steps) else 1.0)
    return np.where(np.abs(left[found] - right) <= slack, found, -1)


def _absent(own: pd.Index, onto: pd.Index, places: np.ndarray, name: str, to: str) -> str:
    first = label(onto[int((places < 0).argmax())])
    return (
        f"`{name}` has no row for {first} of `{to}` ({int((places < 0).sum())} of {len(onto)} "
        f"rows have none): its {len(own)} rows run from {label(own.min())} to "
        f"{label(own.max())}. Give every row of `{to}` its own, or, if the labels mean nothing, "
        f"pass `{name}.to_numpy()`."
    )
