"""The advice for a gap is run, and what comes out is taken and holds every row that was there."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

from deepssm.io import frames


def _advice(y: object) -> str:
    with pytest.raises(ValueError, match="irregular") as refusal:
        frames.from_frame(y)
    found = re.search(r"Use (.*?) \((?:fills|averages|numbers)", str(refusal.value))
    assert found is not None, str(refusal.value)
    return found.group(1)


def _followed(y: Any) -> Any:  # noqa: ANN401
    return eval(_advice(y), {"y": y, "pd": pd, "np": np})


GRIDS: dict[str, pd.Index] = {
    **{
        f"{freq} {zone}": pd.date_range("2019-03-01", periods=30, freq=freq, tz=zone)
        for freq in ("MS", "ME", "QS", "QE", "YS", "YE", "W-TUE", "B", "D", "h", "15min", "YS-JUL",
                     "QE-NOV", "2D")
        for zone in (None, "Europe/Berlin")
    },
    "the 15th": pd.date_range("2020-01-15", periods=30, freq=pd.DateOffset(months=1)),
    "Sunday to Thursday": pd.date_range(
        "2020-01-05", periods=30, freq=pd.offsets.CustomBusinessDay(weekmask="Sun Mon Tue Wed Thu")
    ),
    **{
        f"periods {freq}": pd.period_range("2019-03-01", periods=30, freq=freq)
        for freq in ("M", "Q", "Y", "W", "D", "h")
    },
    "durations": pd.timedelta_range("0s", periods=30, freq="90s"),
    "years": pd.Index(range(1871, 1901)),
    "every fifth": pd.Index(range(0, 150, 5)),
    "tenths": pd.Index(np.arange(30) / 10),
}  # fmt: skip


@pytest.mark.parametrize("name", list(GRIDS))
def test_advice_for_a_gap_keeps_every_row_and_is_taken(name: str) -> None:
    whole, values = GRIDS[name], np.arange(1.0, 31.0)
    y = pd.Series(values, whole).drop(whole[[7, 19, 20]])
    mended = _followed(y)
    found = frames.from_frame(mended).y[:, 0].numpy()
    expected = np.where(np.isin(np.arange(30), [7, 19, 20]), np.nan, values)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", [n for n in GRIDS if "periods" not in n or n[-1] != "h"])
def test_whole_grids_are_taken_and_go_on(name: str) -> None:
    """Without a stored frequency; the next label is that of the grid made one longer."""
    whole = GRIDS[name]
    bare = whole if isinstance(whole, pd.PeriodIndex) else pd.Index(list(whole[:-1]))
    bare = bare[:29]
    data = frames.from_frame(pd.Series(range(29), bare))
    ahead = frames.future_index(data.index, 1)
    assert ahead is not None
    if isinstance(whole[-1], float):
        assert ahead[0] == pytest.approx(whole[-1])
    else:
        assert ahead[0] == whole[-1]


@pytest.mark.parametrize("zone", [None, "America/New_York"])
def test_times_off_every_grid_are_averaged(zone: str | None) -> None:
    chance = np.random.default_rng(0)
    hours = pd.date_range("2020-03-01", periods=200, freq="h", tz=zone)
    y = pd.Series(range(200), hours + pd.to_timedelta(chance.integers(-59, 60, 200), "s"))
    assert frames.from_frame(_followed(y)).y.shape[0] in (200, 201)


def test_irregular_months_blame_the_gap_and_not_february() -> None:
    months = pd.date_range("2020-01-01", periods=24, freq="MS").delete(15)
    with pytest.raises(ValueError, match=r"gap of 61 d after 2021-03-01\)"):
        frames.from_frame(pd.Series(range(23), months))
    late = pd.DatetimeIndex([*pd.date_range("2020-01-01", periods=12, freq="MS"), "2021-01-02"])
    with pytest.raises(ValueError, match="irregular.*after 2020-12-01"):
        frames.from_frame(pd.Series(range(13), late))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([0, 1, 3, 4], "gap of 2 after 1"),
        ([1871, 1872, 1875, 1876], "gap of 3 after 1872"),
        ([0.0, 0.1, 0.4, 0.5], "gap of 0.3 after 0.1"),
        ([2, 1, 3], "goes back from 2 to 1.*sort_index"),
        ([1, 2, 2, 3], "repeats 2"),
        (["2020-01-01", "2020-01-02", "2020-01-04"], "gap of 2 d after 2020-01-02"),
        (["2020-01-02", "2020-01-01", "2020-01-03"], "goes back"),
        (["2020-01-01", "2020-01-01", "2020-01-03"], "repeats 2020-01-01"),
        (["2020-01-01", "soon", "2020-01-03"], "Row 1 .*'soon', which is no date"),
        (["01/02/2020", "01/03/2020", "01/04/2020"], "may be 2020-01-02 or 2020-02-01"),
        (["2020-W01", "2020-W02", "2020-W04"], "gap of 14 d after 2020-01-06"),
        (["2020Q1", "2020Q2", "2020Q4"], "gap of 183 d after 2020-04-01"),
        (["a", "b", "a"], "repeats a"),
        ([pd.Timestamp("2020-01-01").date(), pd.Timestamp("2020-01-02").date(),
          pd.Timestamp("2020-01-05").date()], "gap of 3 d after 2020-01-02"),
        (pd.array([0, 1, 3], dtype="Int64"), "gap of 2 after 1"),
        (pd.Categorical([0, 1, 3]), "gap of 2 after 1"),
    ],
)  # fmt: skip
def test_labels_of_every_kind_are_refused_as_dates_are(index: Any, message: str) -> None:  # noqa: ANN401
    with pytest.raises(ValueError, match=message):
        frames.from_frame(pd.Series(range(len(index)), pd.Index(index)))


def test_text_and_date_objects_are_dates_and_names_are_names() -> None:
    days = pd.date_range("2020-01-01", periods=5)
    for index in (
        days.strftime("%Y-%m-%d"),
        pd.Index([day.date() for day in days]),
        pd.Index([day.to_pydatetime() for day in days], dtype=object),
        pd.CategoricalIndex(days.strftime("%Y-%m-%d")),
    ):
        assert frames.from_frame(pd.Series(range(5), index)).index.equals(days)
    weeks = frames.from_frame(pd.Series([1, 2, 3], ["2020-W52", "2020-W53", "2021-W01"])).index
    assert list(weeks) == list(pd.date_range("2020-12-21", periods=3, freq="7D"))
    names = pd.Index(["north", "south", "east"])
    assert frames.from_frame(pd.Series([1, 2, 3], names)).index.equals(names)


def test_uneven_numbers_are_data_for_models_in_continuous_time() -> None:
    y = pd.Series([1.0, 2.0, 3.0], [0.0, 0.5, 2.0])
    assert frames.from_frame(y, regular=False).y.shape == (3, 1)
    with pytest.raises(ValueError, match="goes back"):
        frames.from_frame(y.iloc[::-1], regular=False)


def test_frames_of_other_libraries_hear_their_own_words() -> None:
    pl, xr = pytest.importorskip("polars"), pytest.importorskip("xarray")
    days = pd.date_range("2020-01-01", periods=6).delete(3)
    fast = pl.DataFrame({"day": list(days), "a": range(5)})
    mended = eval(_advice(fast), {"y": fast, "pl": pl})
    assert frames.from_frame(mended).y.shape == (6, 1)
    backwards = fast.sort("day", descending=True)
    with pytest.raises(ValueError, match=r'goes back.*y\.sort\("day"\)'):
        frames.from_frame(backwards)
    array = xr.DataArray(np.arange(5.0), {"day": days}, ("day",))
    mended = eval(_advice(array), {"y": array})
    assert frames.from_frame(mended).y.shape == (6, 1)
    with pytest.raises(ValueError, match=r'y\.sortby\("day"\)'):
        frames.from_frame(array[::-1])


def test_xarray_alone_hears_its_own_words() -> None:
    xr = pytest.importorskip("xarray")
    days = pd.date_range("2020-01-01", periods=6).delete(3)
    array = xr.DataArray(np.arange(5.0), {"day": days}, ("day",))
    assert frames.from_frame(eval(_advice(array), {"y": array})).y.shape == (6, 1)
    table = xr.Dataset({"a": array, "b": array}).resample(day="D").asfreq()
    assert frames.from_frame(table).names == ("a", "b")
    wide = xr.DataArray(np.ones((2, 5)), {"name": ["a", "b"], "day": days}, ("name", "day"))
    with pytest.raises(ValueError, match=r'time first.*y\.transpose\("day", "name"\)'):
        frames.from_frame(wide)


@pytest.mark.parametrize("step", ["1d", "1h", "1mo"])
def test_polars_keeps_its_zone_and_its_midnights(step: str) -> None:
    pl = pytest.importorskip("polars")
    from datetime import datetime

    ends = datetime(2020, 3, 1), datetime(2020, 7, 1)
    when = pl.datetime_range(*ends, step, time_zone="Europe/Berlin", eager=True)
    y = pl.DataFrame({"t": when, "a": pl.Series(range(len(when)), dtype=pl.Decimal(10, 2))})
    for table in (y, y.lazy()):
        found = frames.from_frame(table)
        assert str(found.index.tz) == "Europe/Berlin"  # type: ignore[attr-defined]
        assert found.index[-1] == pd.Timestamp("2020-07-01", tz="Europe/Berlin")
        assert found.y[-1, 0] == len(when) - 1


def test_arrow_tables_read_like_pandas() -> None:
    pa = pytest.importorskip("pyarrow")
    from decimal import Decimal

    days = pd.date_range("2020-01-01", periods=4)
    cells = [Decimal("1.5"), None, Decimal("2"), Decimal("3")]
    table = pa.table({"day": pa.array([d.date() for d in days]), "a": cells})
    found = frames.from_frame(table)
    assert found.names == ("a",) and (found.index == days).all()
    np.testing.assert_array_equal(found.y[:, 0], [1.5, np.nan, 2.0, 3.0])
    short = table.take([0, 1, 3])
    code = _advice(short)
    assert frames.from_frame(eval(code, {"y": short})).y.shape == (4, 1)
