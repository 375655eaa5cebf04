"""Tables in every form that people have them: what is read is read right, the rest is named."""

from __future__ import annotations

import gzip
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from deepssm.cli.exit_codes import DataError, UsageError
from deepssm.cli.reading import Reading, reading_of
from deepssm.cli.table import Table, read_inputs, read_table

DAYS = [f"2024-01-{day:02d}" for day in range(1, 13)]
VALUES = [1.5, 2.25, float("nan"), 1234.5, -3.0, 4.0, 5.5, 6.0, 7.0, 8.0, 9.0, 10.0]
PLAIN = "\n".join(
    ["t,a", *(f"{t},{'' if v != v else v}" for t, v in zip(DAYS, VALUES, strict=True))]
)


def _read(path: Path, content: str | bytes, **options: Any) -> Table:  # noqa: ANN401
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    given = {"time": "t", "y": ["a"], "u": [], "min_rows": 3}
    reading = {k: options.pop(k) for k in list(options) if k in Reading._fields}
    return read_table(path, **{**given, **options}, reading=reading_of(reading))  # type: ignore[arg-type]


def _same(table: Table) -> None:
    np.testing.assert_array_equal(table.y["a"], VALUES)
    assert table.y.index.equals(pd.DatetimeIndex(DAYS, name="t"))


def _german(text: str) -> str:
    return text.replace(",", ";").replace(".", ",")


FORMS: dict[str, tuple[str, str | bytes, dict[str, Any]]] = {
    "csv": ("d.csv", PLAIN, {}),
    "gzip": ("d.csv.gz", gzip.compress(PLAIN.encode()), {}),
    "gzip without its name": ("d.csv", gzip.compress(PLAIN.encode()), {}),
    "tabs": ("d.tsv", PLAIN.replace(",", "\t"), {}),
    "tabs by option": ("d.txt", PLAIN.replace(",", "\t"), {"sep": "tab"}),
    "spaces by option": ("d.txt", PLAIN.replace(",", "  ").replace("03  ", "03  NA"),
                         {"sep": "space"}),
    "bars": ("d.txt", PLAIN.replace(",", "|"), {}),
    "semicolons and commas": ("d.csv", _german(PLAIN), {}),
    "decimal commas by option": ("d.csv", _german(PLAIN), {"decimal": ",", "sep": ";"}),
    "German thousands": ("d.csv", _german(PLAIN).replace("1234,5", "1.234,5"), {}),
    "quoted decimal commas": (
        "d.csv", "\n".join(["t,a", *(f'{t},"{str(v).replace(".", ",")}"'
                                     for t, v in zip(DAYS, VALUES, strict=True))]), {},
    ),
    "thousands": ("d.csv", PLAIN.replace("1234.5", '"1,234.5"'), {"thousands": ","}),
    "thin thousands": ("d.csv", PLAIN.replace("1234.5", "1 234.5"), {"thousands": " "}),
    "per cent": ("d.csv", PLAIN.replace("5.5", "5.5 %").replace("6.0", "6.0%"),
                 {"percent": True}),
    "dots": ("d.csv", PLAIN.replace("03,", "03,."), {"missing": ["."]}),
    "minus 999": ("d.csv", PLAIN.replace("03,", "03,-999"), {"missing": ["-999"]}),
    "UTF-16": ("d.csv", PLAIN.encode("utf-16"), {}),
    "a byte order mark": ("d.csv", b"\xef\xbb\xbf" + PLAIN.encode(), {}),
    "Windows": ("d.csv", PLAIN.replace("\n", "\r\n"), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", list(FORMS))
def test_one_table_in_many_hands(name: str, tmp_path: Path) -> None:
    file, content, options = FORMS[name]
    _same(_read(tmp_path / file, content, **options))


def test_arrow_files(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"t": pd.DatetimeIndex(DAYS), "a": VALUES})
    frame.to_parquet(tmp_path / "d.parquet")
    frame.set_index("t").to_parquet(tmp_path / "i.parquet")
    frame.to_feather(tmp_path / "d.feather")
    for name in ("d.parquet", "i.parquet", "d.feather"):
        _same(read_table(tmp_path / name, time="t", y=["a"], u=[], min_rows=3))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1" + b"\x00" * 40)
    with pytest.raises(DataError, match="damaged Parquet"):
        read_table(tmp_path / "bad.parquet", time="t", y=["a"], u=[])


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deepssm.cli.exit_codes import MissingExtraError
    from deepssm.cli.failures import translated

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "d.parquet").write_bytes(b"PAR1")
    with pytest.raises(MissingExtraError, match="needs the package 'pyarrow'"), translated():
        read_table(tmp_path / "d.parquet", time="t", y=["a"], u=[])


def test_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pipe:
        buffer = io.BytesIO(PLAIN.encode())

    monkeypatch.setattr(sys, "stdin", Pipe())
    _same(read_table(Path("-"), time="t", y=["a"], u=[], min_rows=3))
    with pytest.raises(DataError, match="the standard input is empty"):
        read_table(Path("-"), time="t", y=["a"], u=[])


REFUSED: dict[str, tuple[str, str | bytes, dict[str, Any], str]] = {
    "JSON": ("d.json", '[{"t": 1}]', {}, "is JSON, no table of text: save it as CSV"),
    "JSON lines": ("d.jsonl", '{"t": 1}\n', {}, "is JSON lines"),
    "JSON by its content": ("d.csv", '[{"t": 1}]', {}, "is JSON"),
    "Excel": ("d.xlsx", b"PK\x03\x04abc", {}, "is an Excel workbook"),
    "a zip": ("d.csv", b"PK\x03\x04abc", {}, "is a zip archive"),
    "half a gzip": ("d.csv.gz", gzip.compress(PLAIN.encode())[:20], {}, "no whole gzip file"),
    "no gzip": ("d.csv.gz", PLAIN, {}, "no whole gzip file"),
    "per cent": ("d.csv", PLAIN.replace("5.5", "5.5%"), {}, "holds '5.5%'.*Pass --percent"),
    "a dot": ("d.csv", PLAIN.replace("03,", "03,."), {}, "holds '.'.*Pass --missing '.'"),
    "thousands or decimals": ("d.csv", PLAIN.replace("1234.5", '"1,234"').replace(".5", ""), {},
                              "'1,234' may be 1234 or 1.234. Pass --thousands , or --decimal ,"),
    "decimals or thousands": ("d.csv", _german(PLAIN).replace("1234,5", "1.234"), {},
                              "'1.234' may be 1234 or 1.234"),
    "both marks decimal": ("d.csv", _german(PLAIN).replace("5,5", "5.5"), {}, "holds '5.5'"),
    "thousands unasked": ("d.csv", PLAIN.replace("1234.5", "1 234.5"), {}, "go to --thousands"),
    "another separator": ("d.csv", PLAIN, {"sep": ";"}, "no column 't'"),
    "no table": ("d.csv", b"t,a\n\x00\x00,1\n", {}, "is not text"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(REFUSED))
def test_other_files_and_cells_are_named(name: str, tmp_path: Path) -> None:
    file, content, options, message = REFUSED[name]
    with pytest.raises(DataError, match=message):
        _read(tmp_path / file, content, **options)


def test_marks_that_cannot_be(tmp_path: Path) -> None:
    for wrong in ({"sep": "::"}, {"decimal": "x"}, {"thousands": ",,"}):
        with pytest.raises(UsageError, match="takes one character"):
            _read(tmp_path / "d.csv", PLAIN, **wrong)
    with pytest.raises(UsageError, match="must differ"):
        _read(tmp_path / "d.csv", PLAIN, decimal=",", thousands=",")
    options = {"sep": "tab", "missing": ["."], "percent": True}
    assert reading_of(reading_of(options).to_config()) == reading_of(options)


LONG = "t,shop,a\n" + "".join(f"{t},{shop},{i + 5 * (shop == 'B')}\n" for shop in "AB"
                              for i, t in enumerate(DAYS))  # fmt: skip


def test_one_series_of_a_long_table(tmp_path: Path) -> None:
    """Averaging both, as the advice was, gives 2.5 more than the first."""
    table = _read(tmp_path / "d.csv", LONG, y=None, series="shop=B")
    assert list(table.y.columns) == ["a"] and table.y["a"].tolist() == list(range(5, 17))
    with pytest.raises(DataError, match=r"'shop' seems to tell 2 series apart.*--id shop=A \(it"):
        _read(tmp_path / "d.csv", LONG, y=["a"])
    with pytest.raises(DataError, match="Choose one with --id shop=NAME: A, B"):
        _read(tmp_path / "d.csv", LONG, series="shop")
    with pytest.raises(DataError, match="no series 'C'"):
        _read(tmp_path / "d.csv", LONG, series="shop=C")
    with pytest.raises(DataError, match="no column 'shp' for --id. Did you mean 'shop'"):
        _read(tmp_path / "d.csv", LONG, series="shp=A")


def test_inputs_are_filled_where_asked(tmp_path: Path) -> None:
    rows = "t,a,u\n2024-01-01,1,4\n2024-01-02,2,\n2024-01-04,4,7\n2024-01-05,6,1\n"
    given = {"y": ["a"], "u": ["u"], "resample": "D"}
    with pytest.raises(DataError, match="input column 'u' has 2 missing.*--fill-inputs"):
        _read(tmp_path / "d.csv", rows, **given)
    for how, expected in (("last", [4, 4, 4, 7, 1]), ("linear", [4, 5, 6, 7, 1]),
                          ("zero", [4, 0, 0, 7, 1])):  # fmt: skip
        table = _read(tmp_path / "d.csv", rows, **given, fill=how)
        assert table.u is not None and table.u["u"].tolist() == expected


def test_working_days_are_a_calendar(tmp_path: Path) -> None:
    days = pd.date_range("2024-01-01", periods=60, freq="B")
    frame = pd.DataFrame({"t": days, "a": np.arange(60.0)})
    table = _read(tmp_path / "d.csv", frame.to_csv(index=False))
    assert table.step == "1 business day (Mon Tue Wed Thu Fri)" and len(table.y) == 60
    holidays = frame.drop(index=[3, 20, 21])
    table = _read(tmp_path / "d.csv", holidays.to_csv(index=False))
    assert table.y.index.equals(days.rename("t")) and table.y["a"].isna().sum() == 3
    assert "3 working days without a row" in table.notes[-1]
    week = pd.offsets.CustomBusinessDay(weekmask="Sun Mon Tue Wed Thu")
    other = frame.assign(t=pd.date_range("2024-01-07", periods=60, freq=week))
    table = _read(tmp_path / "d.csv", other.drop(index=[7]).to_csv(index=False))
    assert table.step == "1 business day (Mon Tue Wed Thu Sun)" and len(table.y) == 60


def test_a_summer_of_local_days_with_a_gap(tmp_path: Path) -> None:
    days = pd.date_range("2024-03-25", periods=12, tz="Europe/Berlin").delete(8)
    rows = "t,a\n" + "".join(f"{day.isoformat()},{i}\n" for i, day in enumerate(days))
    with pytest.raises(DataError, match="2024-04-01 is followed by 2024-04-03.*--resample 1D"):
        _read(tmp_path / "d.csv", rows)
    table = _read(tmp_path / "d.csv", rows, resample="1D")
    assert len(table.y) == 12 and table.y["a"].isna().sum() == 1


def test_a_step_too_fine_is_refused_before_memory_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--resample '1ms' makes 9.47e.* rows, which would take"):
        far = PLAIN.replace("2024-01-12", "2324-01-12").replace("2024-01-11", "2200-01-11")
        _read(tmp_path / "d.csv", far, resample="1ms")


def test_future_inputs_have_labels_if_the_table_has(tmp_path: Path) -> None:
    (tmp_path / "u.csv").write_text("t,u\n2024-01-14,2\n2024-01-13,1\n")
    found = read_inputs(tmp_path / "u.csv", ["u"], time="t")
    assert found["u"].tolist() == [1.0, 2.0] and found.index[0] == pd.Timestamp("2024-01-13")
    (tmp_path / "u.csv").write_text("u\n1\n2\n")
    assert read_inputs(tmp_path / "u.csv", ["u"], time="t").index.tolist() == [0, 1]
    (tmp_path / "u.csv").write_text("when,u\n2024-01-14,2\n2024-01-13,1\n")
    with pytest.raises(DataError, match="no column 't', but times in 'when'"):
        read_inputs(tmp_path / "u.csv", ["u"], time="t")
