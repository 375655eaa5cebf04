from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from deepssm.io import frames


def test_a_series_becomes_one_named_column_with_nan_for_gaps() -> None:
    index = pd.date_range("2020-01-01", periods=4, freq="D")
    y, labels, names = frames.from_frame(pd.Series([1.0, None, 3.0, 4.0], index, name="flow"))
    assert names == ("flow",) and labels.equals(index)
    torch.testing.assert_close(
        y, torch.tensor([[1.0], [np.nan], [3.0], [4.0]], dtype=torch.float64), equal_nan=True
    )


@pytest.mark.parametrize("dtype", ["int8", "float32", "Int64", "Float32", "bool", "boolean"])
def test_every_number_type_reads_as_float64(dtype: str) -> None:
    frame = pd.DataFrame(
        {"a": pd.Series([1, 0, 1]).astype(pd.api.types.pandas_dtype(dtype)), "b": [0.5, 1.5, 2.5]}
    )
    y, _, names = frames.from_frame(frame)
    assert y.dtype == torch.float64 and names == ("a", "b")
    assert y.tolist() == [[1.0, 0.5], [0.0, 1.5], [1.0, 2.5]]


@pytest.mark.parametrize("column", [[1, None, 2.5], pd.array([1, pd.NA, 2.5], dtype="Float64")])
def test_none_and_na_are_missing(column: list[float | None]) -> None:
    y, _, _ = frames.from_frame(pd.DataFrame({"a": column}))
    assert y[:, 0].isnan().tolist() == [False, True, False]


def test_the_tensor_does_not_share_memory_with_the_frame() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0]})
    y, _, _ = frames.from_frame(frame)
    y[0] = 9.0
    assert frame["a"].tolist() == [1.0, 2.0, 3.0]


def test_polars_and_xarray_read_like_pandas() -> None:
    polars, xarray = pytest.importorskip("polars"), pytest.importorskip("xarray")
    dates = pd.date_range("2020-01-01", periods=3, freq="h")
    expected = frames.from_frame(pd.DataFrame({"a": [1, None, 3], "b": [4, 5, 6]}, index=dates))
    fast = polars.DataFrame({"t": list(dates), "a": [1, None, 3], "b": [4, 5, 6]})
    array = xarray.DataArray(
        [[1.0, 4.0], [np.nan, 5.0], [3.0, 6.0]],
        {"time": dates, "name": ["a", "b"]},
        ("time", "name"),
    )
    for data in (fast, array):
        assert frames.is_frame(data)
        found = frames.from_frame(data)
        assert found.names == expected.names and (found.index == expected.index).all()
        torch.testing.assert_close(found.y, expected.y, equal_nan=True)
    assert frames.from_frame(polars.Series([1.0, None])).names == ("y",)


def test_tensors_and_arrays_are_not_frames() -> None:
    assert not frames.is_frame(torch.zeros(3)) and not frames.is_frame(np.zeros(3))
    with pytest.raises(ValueError, match="`y` must be a pandas or polars frame.*got list"):
        frames.from_frame([1.0, 2.0])


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"a": ["1", "2", "3"]}, "Column a of `y` must hold numbers, got text, '1' at 0"),
        ({"a": [1.0, "bad", 3.0]}, "got text, 'bad' at 1.*pd.to_numeric"),
        ({"a": pd.Categorical(["u", "v", "u"])}, "Column a of `y` must hold numbers"),
        ({"a": pd.date_range("2020", periods=3)}, "holds dates.*set_index"),
        ({"a": [np.nan] * 3, "b": [np.nan] * 3}, "all 6 entries of a, b are missing"),
        ({"a": []}, "at least one row and one column, got 0 rows and 1 columns"),
    ],
)
def test_columns_that_are_not_numbers_are_named(frame: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frames.from_frame(pd.DataFrame(frame))


def test_repeated_column_names_are_refused() -> None:
    with pytest.raises(ValueError, match="2 columns called a"):
        frames.from_frame(pd.DataFrame([[1.0, 2.0]], columns=["a", "a"]))


@pytest.mark.parametrize(
    ("dates", "message"),
    [
        (["01-01", "01-02", "01-05", "01-06"], r"gap of 3 d after 2020-01-02\).*dt"),
        (["01-01 10:00", "01-01 11:00", "01-01 12:30", "01-01 13:30"], "gap of 1.5 h after"),
        (["01-01", "01-03", "01-02"], "goes back from 2020-01-03 to 2020-01-02.*sort_index"),
        (["01-01", "01-02", "01-02"], "repeats 2020-01-02"),
        (["01-01", None, "01-03"], "missing labels"),
    ],
)
def test_bad_time_indices_are_refused(dates: list[str | None], message: str) -> None:
    index = pd.DatetimeIndex([None if d is None else f"2020-{d}" for d in dates])
    with pytest.raises(ValueError, match=message):
        frames.from_frame(pd.Series(range(len(dates)), index))


def test_the_fix_for_a_missing_row_names_the_calendar_step() -> None:
    index = pd.date_range("2020-01-01", periods=24, freq="MS").delete(15)
    with pytest.raises(ValueError, match=r'after 2021-03-01\).*asfreq\("MS"\)'):
        frames.from_frame(pd.Series(range(23), index))
    periods = pd.period_range("2020-01", periods=24, freq="M").delete(15)
    with pytest.raises(ValueError, match="after 2021-03-01"):
        frames.from_frame(pd.Series(range(23), periods))


def test_irregular_steps_are_data_for_models_in_continuous_time() -> None:
    index = pd.DatetimeIndex(["2020-01-01", "2020-01-02", "2020-01-05", "2020-01-05 12:00"])
    y, labels, _ = frames.from_frame(pd.Series([1.0, 2.0, 3.0, 4.0], index), regular=False)
    assert y.shape == (4, 1)
    assert frames.time_steps(labels, "1D").tolist() == [1.0, 1.0, 3.0, 0.5]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="two or more labels"):
        frames.time_steps(index[:1])


def test_several_index_levels_are_refused() -> None:
    rows = pd.MultiIndex.from_product([["a", "b"], [0, 1]], names=["unit", "time"])
    with pytest.raises(ValueError, match="one index level"):
        frames.from_frame(pd.Series(range(4), rows))


def test_constant_and_empty_columns_get_a_sentence() -> None:
    y = torch.tensor([[2.0, 1.0, np.nan], [2.0, np.nan, np.nan], [np.nan, 3.0, np.nan]])
    constant, empty = frames.data_warnings(y, ("level", "flow", "dead"))
    assert constant.startswith("Column level is constant (2)")
    assert empty.startswith("Column dead has no values")


@pytest.mark.parametrize(
    ("past", "freq", "expected"),
    [
        ("2020-01-31", "ME", ["2020-06-30", "2020-07-31", "2020-08-31"]),
        ("2020-01-04", "W-SAT", ["2020-02-08", "2020-02-15", "2020-02-22"]),
        ("2020-01-01", "B", ["2020-01-08", "2020-01-09", "2020-01-10"]),
        ("2001-01-01", "YS", ["2006-01-01", "2007-01-01", "2008-01-01"]),
    ],
)
@pytest.mark.parametrize("keep_freq", [True, False])
def test_dates_continue_at_their_calendar_step(
    past: str, freq: str, expected: list[str], keep_freq: bool
) -> None:
    index = pd.date_range(past, periods=5, freq=freq, name="when")
    index = index if keep_freq else pd.DatetimeIndex(list(index), name="when")
    future = frames.future_index(index, 3)
    assert future is not None and future.name == "when"
    assert list(future) == list(pd.DatetimeIndex(expected))


def test_time_zones_survive_the_change_of_the_clock() -> None:
    index = pd.date_range("2020-10-24 22:00", periods=5, freq="h", tz="Europe/Berlin")
    future = frames.future_index(pd.DatetimeIndex(list(index)), 3)
    assert future is not None
    expected = pd.date_range(index[-1], periods=4, freq="h")[1:]
    assert (future == expected).all()


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (pd.RangeIndex(3, 9, 2), [9, 11]),
        (pd.Index([10, 20, 30]), [40, 50]),
        (pd.Index([0.5, 0.75, 1.0]), [1.25, 1.5]),
        (pd.Index([1, 2, 4]), [1, 2]),
        (pd.Index(["a", "b"]), [1, 2]),
        (pd.DatetimeIndex(["2020-01-01", "2020-01-02", "2020-01-05"]), [1, 2]),
        (
            pd.period_range("2020-11", periods=2, freq="M"),
            list(pd.period_range("2021-01", periods=2, freq="M")),
        ),
        (pd.to_timedelta([0, 2], unit="s"), list(pd.to_timedelta([4, 6], unit="s"))),
    ],
)
def test_other_labels_continue_or_count_steps(index: pd.Index, expected: list[object]) -> None:
    future = frames.future_index(index, 2)
    assert future is not None and list(future) == expected


def test_no_labels_give_no_labels() -> None:
    assert frames.future_index(None, 3) is None
