from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deepssm.cli.exit_codes import DataError
from deepssm.cli.table import Table, read_table


def _read(tmp_path: Path, text: str, **options: object) -> Table:
    (tmp_path / "d.csv").write_text(text, encoding="utf-8")
    defaults = {"time": "t", "y": None, "u": [], "min_rows": 3}
    return read_table(tmp_path / "d.csv", **{**defaults, **options})  # type: ignore[arg-type]


def _days(count: int, step: int = 1) -> list[str]:
    days = pd.date_range("2020-01-01", periods=count, freq=f"{step}D")
    return [str(day.date()) for day in days]


def _csv(times: list[str], values: list[object], header: str = "t,a") -> str:
    rows = [f"{t},{v}" for t, v in zip(times, values, strict=True)]
    return "\n".join([header, *rows]) + "\n"


def test_a_plain_table(tmp_path: Path) -> None:
    table = _read(tmp_path, "t,a,b,u\n2020-01-01,1,,0\n2020-01-08,NA,2.5,1\n2020-01-15, 3 ,4,2\n",
                  y=["b", "a"], u=["u"], min_rows=2)  # fmt: skip
    assert list(table.y.columns) == ["b", "a"]
    np.testing.assert_array_equal(table.y["a"], [1.0, np.nan, 3.0])
    assert table.u is not None and table.u["u"].tolist() == [0.0, 1.0, 2.0]
    assert table.y.index[1] == pd.Timestamp("2020-01-08") and table.step == "7 days"
    assert table.dt is None


@pytest.mark.parametrize(
    "times",
    [
        ["19580329", "19580405", "19580412"],
        ["2020-01-31", "2020-02-29", "2020-03-31"],
        ["2020-01-01T00:00:00Z", "2020-01-01T01:00:00Z", "2020-01-01T02:00:00Z"],
        ["01/31/2020", "02/29/2020", "03/31/2020"],
        ["11.01.2020", "12.01.2020", "13.01.2020"],
    ],
)
def test_dates_in_several_hands(tmp_path: Path, times: list[str]) -> None:
    table = _read(tmp_path, _csv(times, [1, 2, 3]))
    assert isinstance(table.y.index, pd.DatetimeIndex) and table.dt is None


@pytest.mark.parametrize("sign", [".", "/"])
def test_days_that_may_be_months_are_refused(sign: str, tmp_path: Path) -> None:
    times = [sign.join(("01", f"{month:02d}", "2020")) for month in range(1, 13)]
    with pytest.raises(DataError, match="line 3: .* may be 2020-01-02 or 2020-02-01"):
        _read(tmp_path, _csv(times, list(range(12))))


def test_summer_time_moves_no_day_and_no_hour(tmp_path: Path) -> None:
    """Days are even on the clock on the wall, hours in UTC; averaging neither is needed."""
    for freq, count, first in (("D", 4, "2020-03-28"), ("h", 4, "2020-03-29")):
        times = pd.date_range(first, periods=count, freq=freq, tz="Europe/Zurich")
        table = _read(tmp_path, _csv([t.isoformat() for t in times], [1, 2, 3, 5]))
        zone = None if freq == "D" else "UTC"
        expected = times.tz_localize(None) if zone is None else times.tz_convert(zone)
        assert [t.isoformat() for t in table.y.index] == [
            t.tz_localize(None).isoformat() for t in expected
        ]
        assert ("clock on the wall" if freq == "D" else "as UTC") in table.notes[0]


def test_a_column_without_a_name_is_not_observed(tmp_path: Path) -> None:
    """Frames written with their row numbers have one."""
    table = _read(tmp_path, _csv(_days(3), ["0,1", "1,2", "2,4"], "t,,a"))
    assert list(table.y.columns) == ["a"]


def test_years_and_row_numbers_are_numbers(tmp_path: Path) -> None:
    years = _read(tmp_path, _csv(["1871", "1872", "1873"], [3, 1, 2]))
    assert years.y.index.tolist() == [1871, 1872, 1873]
    rows = _read(tmp_path, "a\n1\n2\n4\n", time=None)
    assert rows.y.index.tolist() == [0, 1, 2]


def test_rows_out_of_order_are_sorted_and_said_so(tmp_path: Path) -> None:
    table = _read(tmp_path, _csv(["3", "1", "2"], [30, 10, 20]))
    assert table.y["a"].tolist() == [10, 20, 30] and "order of time" in table.notes[0]


def test_resampling_averages_and_leaves_gaps_empty(tmp_path: Path) -> None:
    days = ["2020-01-01", "2020-01-02", "2020-01-02", "2020-01-05"]
    table = _read(tmp_path, _csv(days, [1, 2, 4, 5]), resample="1D")
    np.testing.assert_array_equal(table.y["a"], [1, 3, np.nan, np.nan, 5])
    numbers = _read(tmp_path, _csv(["0", "0.5", "2.02"], [1, 2, 3]), resample="0.5")
    np.testing.assert_array_equal(numbers.y["a"], [1, 2, np.nan, np.nan, 3])


def test_uneven_rows_give_their_steps(tmp_path: Path) -> None:
    table = _read(tmp_path, _csv(["0", "0.5", "2.5", "3"], [1, 2, 3, 5]), uneven=True)
    np.testing.assert_allclose(table.dt, [0, 0.5, 2.0, 0.5])  # type: ignore[arg-type]
    dates = _read(tmp_path, _csv(["2020-01-01", "2020-01-03", "2020-01-05", "2020-01-09"],
                                 [1, 2, 3, 5]), uneven=True)  # fmt: skip
    np.testing.assert_allclose(dates.dt, [0, 1, 1, 2])  # type: ignore[arg-type]
    assert dates.step == "2 days"


BAD = {
    "a column that is not there": (
        _csv(_days(4), [1, 2, 3, 5]), {"y": ["aa"]}, "no column 'aa'. Did you mean 'a'",
    ),
    "a time column that is not there": (
        _csv(_days(4), [1, 2, 3, 5]), {"time": "date"}, "no column 'date'. Its columns: t, a",
    ),
    "text in a number column": (
        _csv(_days(4), [1, "wet", 3, 5]), {}, "line 3: column 'a' holds 'wet'.*Leave a cell empty",
    ),
    "an infinite observation": (_csv(_days(4), [1, "inf", 3, 5]), {}, "holds 'inf'"),
    "a time that is no time": (
        _csv(["2020-01-01", "soon", "2020-01-03"], [1, 2, 3]), {}, "line 3: time column 't'",
    ),
    "an irregular index": (
        _csv([*_days(4, 7), "2020-02-01"], [1, 2, 3, 5, 4]), {},
        "usual step is 7 days, but 2020-01-22 is followed by 2020-02-01. Pass --resample 7D",
    ),
    "a hole in yearly numbers": (
        _csv(["1", "2", "3", "5"], [1, 2, 3, 5]), {}, "usual step is 1, .*--resample 1 ",
    ),
    "a time twice": (_csv(["1", "2", "2", "3"], [1, 2, 3, 5]), {}, "2 occurs more than once"),
    "nothing but gaps": (_csv(_days(4), ["", "", "NA", ""]), {}, "no observation at all"),
    "too few rows": (_csv(_days(4), [1, 2, "", ""]), {}, "2 observations, too few.*needs 3"),
    "a constant column": (_csv(_days(4), [5, 5, 5, 5]), {}, "is constant \\(5\\): leave it out"),
    "gaps in an input": (
        _csv(_days(3), ["1,1", "2,", "3,3"], "t,a,u"), {"y": ["a"], "u": ["u"]}, "input column",
    ),
    "one column twice": (_csv(_days(3), [1, 2, 3]), {"y": ["a"], "u": ["a"]}, "serve once only"),
    "nothing to observe": ("t\n1\n2\n", {}, "no column left to observe"),
    "no rows": ("t,a\n", {}, "no rows"),
    "an empty file": ("", {}, "is empty"),
    "a name twice": ("t,a,a\n1,2,3\n2,3,4\n", {}, "more than one column 'a': rename"),
    "an observation that is no observation": (
        _csv(_days(4), [1, "1e200", 3, 5]), {}, "column 'a' holds 1e\\+200, whose square",
    ),
    "one observation": (_csv(_days(4), [1, "", "", ""]), {}, "has 1 observation, too few"),
    "semicolons": ("t;a\n1;2\n", {}, "has 1 observation, too few"),
    "ragged rows": ("t,a\n1,2\n1,2,3,4\n", {}, "not a CSV table with commas"),
    "a grid of no step": (_csv(_days(4), [1, 2, 3, 5]), {"resample": "often"}, "'often' is not a"),
    "a date grid on numbers": (
        _csv(["1", "2", "3"], [1, 2, 3]), {"resample": "7D"}, "holds numbers; give a number",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_say_what_to_do(case: str, tmp_path: Path) -> None:
    text, options, message = BAD[case]
    with pytest.raises(DataError, match=message):
        _read(tmp_path, text, **options)


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_bytes(b"t,a\n1,\xff\xfe\n")
    with pytest.raises(DataError, match="not text in UTF-8"):
        read_table(tmp_path / "data.csv", time="t", y=None, u=[])
    (tmp_path / "inside.csv").mkdir()
    with pytest.raises(DataError, match="is a folder: give the CSV file"):
        read_table(tmp_path / "inside.csv", time="t", y=None, u=[])
    with pytest.raises(DataError, match="no file.*Did you mean 'data.csv'"):
        read_table(tmp_path / "dta.csv", time="t", y=None, u=[])


@pytest.mark.parametrize(
    ("freq", "rule"), [("MS", "MS"), ("QS", "QS"), ("YS", "YS"), ("15min", "15min"), ("1h", "1h")]
)
def test_the_advised_grid_mends_the_table(freq: str, rule: str, tmp_path: Path) -> None:
    times = [str(t) for t in pd.date_range("2020-01-01", periods=9, freq=freq)]
    del times[4]
    text = _csv(times, list(range(8)))
    with pytest.raises(DataError, match=f"--resample {rule} "):
        _read(tmp_path, text)
    assert _read(tmp_path, text, resample=rule).y["a"].isna().sum() == 1
