"""Whatever holds numbers is read, holes as NaN; whatever holds none is refused by name."""

from __future__ import annotations

import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from deepssm.io.arrays import read_numbers

NAN = float("nan")
MASKED = np.ma.array([1.0, 99.0, 3.0], mask=[False, True, False])
READ_ONLY = np.array([1.0, NAN, 3.0])
READ_ONLY.flags.writeable = False

EQUAL: dict[str, Any] = {
    "masked": MASKED,
    "masked integers": np.ma.array([1, 99, 3], mask=[False, True, False]),
    "masked objects": np.ma.array([1, "x", 3], mask=[False, True, False], dtype=object),
    "a list with the masked constant": [1.0, np.ma.masked, 3.0],
    "None": [1, None, 3],
    "pandas' NA": [1, pd.NA, 3],
    "a nullable array": pd.array([1, pd.NA, 3], dtype="Int64"),
    "an index": pd.Index([1.0, NAN, 3.0]),
    "decimals": [Decimal(1), Decimal("NaN"), Decimal("3.0")],
    "fractions": [Fraction(1), None, Fraction(6, 2)],
    "objects": np.array([1, None, np.float32(3)], dtype=object),
    "read-only": READ_ONLY,
    "backwards": np.array([3.0, NAN, 1.0])[::-1],
    "big-endian": np.array([1.0, NAN, 3.0], dtype=">f4"),
    "half": np.array([1.0, NAN, 3.0], dtype=np.float16),
    "a tuple of tensors": (torch.tensor(1.0), torch.tensor(NAN), torch.tensor(3.0)),
    "mixed": [torch.tensor(1.0), NAN, 3],
}


@pytest.mark.parametrize("name", list(EQUAL))
def test_numbers_are_read_and_holes_are_nan(name: str) -> None:
    found = read_numbers("y", EQUAL[name]).double()
    np.testing.assert_array_equal(found.numpy(), [1.0, NAN, 3.0])


def test_masks_of_rows_and_of_nested_lists() -> None:
    rows = np.ma.array([[1.0, 2.0], [3.0, 4.0]], mask=np.array([[False, True], [False, False]]))
    nested = [[1.0, np.ma.masked], [3.0, 4.0]]
    for value in (rows, [rows[0], rows[1]], nested, tuple(nested)):
        np.testing.assert_array_equal(read_numbers("y", value), [[1.0, NAN], [3.0, 4.0]])
    assert read_numbers("y", np.ma.masked).isnan().all()


def test_memory_is_not_shared() -> None:
    value = np.array([1.0, 2.0])
    read_numbers("y", value)[0] = 9.0
    assert value.tolist() == [1.0, 2.0]


def test_booleans_are_zero_and_one() -> None:
    assert read_numbers("y", [True, False]).tolist() == [1.0, 0.0]
    assert read_numbers("y", np.array([True, False])).tolist() == [1.0, 0.0]


DAY = datetime.date(2020, 1, 1)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["1.0", "2.0"], "must hold numbers .*got text"),
        ([1.0, "wet"], "got text, 'wet'"),
        (np.array([1.0, "wet"], dtype=object), "got text, 'wet'"),
        (pd.Categorical(["a", "b"]), "got text"),
        ([1 + 2j], "must be real"),
        (np.array([1, 2j], dtype=object), "must be real"),
        ([DAY, DAY], "got dates"),
        (pd.date_range("2020", periods=2), "got dates"),
        (pd.date_range("2020", periods=2, tz="UTC"), "got dates"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), "got dates"),
        (np.array([1], dtype="timedelta64[D]"), r"durations.*y / np.timedelta64\(1, \"D\"\)"),
        ([datetime.timedelta(1)], "got durations"),
        (pd.Timedelta("1D"), "durations|Timedelta"),
        (np.zeros(2, dtype=[("a", float), ("b", float)]), "fields a, b.*np.stack"),
        ([[1.0], [1.0, 2.0]], "padded with NaN"),
        ([torch.ones(1), torch.ones(2)], "padded with NaN"),
        ({"a": 1.0}, "got dict"),
        (None, "got NoneType"),
        ([object()], "got object"),
    ],
)
def test_what_holds_no_numbers_is_named(value: Any, message: str) -> None:  # noqa: ANN401
    with pytest.raises(ValueError, match=f"`y` .*{message}"):
        read_numbers("y", value)


def test_time_stamps_as_steps_are_told_what_to_take() -> None:
    with pytest.raises(ValueError, match=r"`dt` .*time stamps.*time_steps\(index, \"1D\"\)"):
        read_numbers("dt", pd.date_range("2020", periods=3))
