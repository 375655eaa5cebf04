"""Every command on real tables, from the CSV to the files it writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from deepssm import data
from deepssm.cli import main as cli
from deepssm.cli.run_folder import RunFolder
from deepssm.cli.saved_runs import load

FILES = {
    "config.toml",
    "model.safetensors",
    "metrics.jsonl",
    "results.nc",
    "report.html",
    "log.txt",
}


def _main(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = cli.main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def nile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the Nile as CSV and a local level learnt from it."""
    folder = tmp_path_factory.mktemp("nile")
    series = data.nile()
    years = pd.DataFrame({"year": pd.DatetimeIndex(series.index).year, "flow": series.to_numpy()})
    years.to_csv(folder / "nile.csv", index=False)
    words = ["fit", folder / "nile.csv", "--time", "year", "--model", "local-level"]
    assert cli.main([str(word) for word in [*words, "--out", folder / "run"]]) == 0
    return folder


def test_fit_writes_a_whole_run_folder(nile: Path) -> None:
    """Durbin & Koopman's variances, 15098.5 and 1469.2, must stand in `results.nc`."""
    assert {path.name for path in (nile / "run").iterdir()} == FILES
    with xr.open_datatree(nile / "run" / "results.nc", engine="h5netcdf") as tree:
        posterior = tree["posterior"].to_dataset().load()
        methods = np.asarray(tree["predictions"]["method"]).tolist()
    assert float(posterior["noise_variance"].squeeze()) == pytest.approx(15098.52, rel=1e-3)
    assert float(posterior["level_variance"].squeeze()) == pytest.approx(1469.18, rel=1e-3)
    assert methods == ["local-level", "last value"]
    config = RunFolder(nile / "run").read_config()
    assert config["learning"]["local-level"]["objective"] == pytest.approx(-633.46456, abs=1e-3)
    assert config["data"]["rows"] == 100 and config["models"]["local-level"]["y"] == ["flow"]
    page = (nile / "run" / "report.html").read_text()
    assert page.count("<svg") >= 5 and len(page) < 1_000_000
    assert page.count("<svg") == page.count('aria-label="')


def test_forecast_of_a_run_is_the_textbooks(
    nile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = nile / "fc.csv"
    code, text, _ = _main(capsys, "forecast", nile / "run", "--horizon", 30, "-o", out)
    table = pd.read_csv(out, index_col=0)
    assert code == 0 and text.splitlines()[-1].startswith(f"Wrote {out}. Next: deepssm backtest")
    assert table.index.tolist() == list(range(1971, 2001))
    assert table["flow_mean"].iloc[0] == pytest.approx(798.37, rel=1e-3)
    variances = (table["flow_sd"] ** 2).iloc[[0, -1]].tolist()
    assert variances == pytest.approx([20600.3, 63204.2], rel=2e-3)
    z95 = (table["flow_upper95"] - table["flow_mean"]) / table["flow_sd"]
    np.testing.assert_allclose(z95, 1.959964, rtol=1e-5)
    assert {"flow_lower50", "flow_upper80", "flow_lower95"} <= set(table.columns)


def test_filter_and_smooth_fill_the_gaps_of_a_new_table(
    nile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv(nile / "nile.csv")
    gaps = table.index[20:40].append(table.index[60:80])
    table.loc[gaps, "flow"] = np.nan
    table.to_csv(nile / "gaps.csv", index=False)
    for verb in ("filter", "smooth"):
        out = nile / f"{verb}.csv"
        code, text, _ = _main(capsys, verb, nile / "run", nile / "gaps.csv", "-o", out)
        assert (
            code == 0
            and "The 40 missing observations are filled" in text
            and f"Wrote {out}." in text
        )
    smoothed = pd.read_csv(nile / "smooth.csv", index_col=0)
    assert smoothed["level_mean"].iloc[30] == pytest.approx(893.79, rel=2e-3)
    assert smoothed["level_sd"].iloc[30] ** 2 == pytest.approx(9715.0, rel=1e-2)
    spread = smoothed["flow_sd"] ** 2 - smoothed["level_sd"] ** 2
    np.testing.assert_allclose(spread, 15098.5, rtol=1e-3)
    filtered = pd.read_csv(nile / "filter.csv", index_col=0)
    assert filtered["level_mean"].iloc[-1] == pytest.approx(smoothed["level_mean"].iloc[-1])
    assert (filtered["log_likelihood"].iloc[20:40] == 0).all()


def test_backtest_and_report_speak_json(nile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = nile / "bt.csv"
    words = ("backtest", nile / "run", "--horizon", 5, "-o", out, "--json")
    code, text, _ = _main(capsys, *words)
    found = json.loads(text)
    assert code == 0 and found["written"] == str(out)
    assert found["scores"]["local-level"]["crps"] < found["scores"]["last value"]["crps"]
    assert len(pd.read_csv(out)) == 5
    page = nile / "again.html"
    code, text, _ = _main(capsys, "report", nile / "run", "-o", page, "--json")
    assert code == 0 and set(json.loads(text)["scores"]) == {
        "local-level (linear, exact)",
        "last value",
    }
    assert page.read_text() == (nile / "run" / "report.html").read_text()


def test_a_run_that_is_there_is_kept(nile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (nile / "run" / "config.toml").read_text()
    code, _, line = _main(
        capsys, "fit", nile / "nile.csv", "--time", "year", "--out", nile / "run"
    )
    assert code == 3 and "--overwrite" in line and line.count("\n") == 1
    assert (nile / "run" / "config.toml").read_text() == before


def _weeks(count: int = 60) -> pd.DataFrame:
    days = pd.date_range("2020-01-01", periods=count, freq="7D")
    values = 10 + np.sin(np.arange(count) / 4) + 0.01 * np.arange(count)
    return pd.DataFrame({"t": days, "a": values.round(3)})


def _bad(name: str) -> tuple[pd.DataFrame, list[str], str]:
    table = _weeks()
    if name == "text":
        return table.assign(a=table["a"].astype(str).where(table.index != 7, "wet")), [], "'wet'"
    if name == "irregular":
        return table.drop(index=[5, 6, 7]), [], "--resample 7D"
    if name == "missing":
        return table.assign(a=np.nan), [], "no observation at all"
    if name == "short":
        return table.head(6), [], "too few"
    if name == "season":
        return table, ["--model", "structural", "--period", "40"], "needs 80"
    if name == "holdout":
        return table, ["--holdout", "99"], "leaves nothing of 60 rows"
    return table, ["--y", "aa"], "no column 'aa'. Did you mean 'a'"


@pytest.mark.parametrize(
    "name", ["column", "text", "irregular", "missing", "short", "season", "holdout"]
)
def test_unusable_data_is_one_line_code_3_and_no_folder(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, words, message = _bad(name)
    table.to_csv(tmp_path / "d.csv", index=False)
    out = tmp_path / "runs" / "x"
    words = ["fit", tmp_path / "d.csv", "--time", "t", "--out", out, *words]
    code, printed, line = _main(capsys, *words)
    assert code == 3 and message in line
    assert line.count("\n") == 1 and not printed and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "structural", "--time", "n", "--y", "a"], "needs --period"),
        (["--y", "a,b"], "takes one column, got a, b"),
        (["--model", "constant-velocity", "--u", "b", "--y", "a"], "takes no inputs"),
        (["--y", "a", "--period", "5"], "has no season"),
        (["--model", "deep-kalman", "--y", "a", "--ar", "1"], "has no autoregressive part"),
    ],
)
def test_settings_that_do_not_fit_are_wrong_usage(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = _weeks().assign(b=np.arange(60.0), n=np.arange(60))
    table.to_csv(tmp_path / "d.csv", index=False)
    time = [] if "--time" in words else ["--time", "t"]
    code, _, line = _main(
        capsys, "fit", tmp_path / "d.csv", "--out", tmp_path / "x", *time, *words
    )
    assert code == 2 and message in line and not (tmp_path / "x").exists()


def test_a_step_that_fails_midway_leaves_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepssm.cli.commands import fit

    def fail(*_: object, **__: object) -> None:
        raise FloatingPointError("the loss became NaN")

    monkeypatch.setattr(fit, "learn", fail)
    _weeks().to_csv(tmp_path / "d.csv", index=False)
    code, _, line = _main(
        capsys, "fit", tmp_path / "d.csv", "--time", "t", "--out", tmp_path / "x"
    )
    assert code == 4 and "the loss became NaN" in line
    assert [path.name for path in tmp_path.iterdir()] == ["d.csv"]


def test_a_deep_model_comes_back_from_its_folder_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Inputs, a season and a holdout; the same seed gives the same forecast after reloading."""
    table = _weeks(80).assign(u=np.cos(np.arange(80)))
    table.loc[[20, 21, 50], "a"] = np.nan
    table.to_csv(tmp_path / "d.csv", index=False)
    table.tail(30).to_csv(tmp_path / "new.csv", index=False)
    pd.DataFrame({"u": np.cos(np.arange(80, 86))}).to_csv(tmp_path / "u.csv", index=False)
    words = [
        "fit",
        tmp_path / "d.csv",
        "--time",
        "t",
        "--y",
        "a",
        "--u",
        "u",
        "--out",
        tmp_path / "r",
    ]
    words += ["--model", "deep-kalman", "--steps", "4", "--period", "25.1", "--holdout", "10"]
    code, text, _ = _main(capsys, *words)
    assert code == 0 and "deep-kalman (deep, approximate)" in text
    tables = []
    for name in ("one.csv", "two.csv"):
        words = ["forecast", tmp_path / "r", "--horizon", "6", "--u-future", tmp_path / "u.csv"]
        assert _main(capsys, *words, "-o", tmp_path / name)[0] == 0
        tables.append((tmp_path / name).read_text())
    assert tables[0] == tables[1] and tables[0].count("\n") == 7
    page = tmp_path / "frames.html"
    assert _main(capsys, "report", tmp_path / "r", "--frames", "1x1", "-o", page)[0] == 0
    for title in ("Frames, gaps filled", "What the state is used for: deep-kalman"):
        assert f"<h2>{title}</h2>" in page.read_text()
    assert "data:image/png;base64" in page.read_text(), "frames are part of the page"
    code, _, line = _main(capsys, "report", tmp_path / "r", "--frames", "2x3", "-o", page)
    assert code == 2 and "--frames 2x3 needs 6 columns; the run has 1" in line
    words = ["smooth", tmp_path / "r", tmp_path / "new.csv", "-o", tmp_path / "s.csv"]
    assert _main(capsys, *words)[0] == 0
    assert len(pd.read_csv(tmp_path / "s.csv")) == 30
    code, _, line = _main(capsys, "forecast", tmp_path / "r", "--horizon", "6")
    assert code == 2 and "needs --u-future CSV with u" in line


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("weights", "not a usable checkpoint"),
        ("settings", "models.local-level.harmonics is missing"),
        ("results", "is damaged"),
        ("gone", "there is no run folder"),
    ],
)
def test_a_damaged_run_is_one_line_and_code_3(
    damage: str, message: str, nile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(nile / "run", run)
    if damage == "weights":
        whole = (run / "model.safetensors").read_bytes()
        (run / "model.safetensors").write_bytes(whole[:-3])
    if damage == "settings":
        text = (run / "config.toml").read_text()
        (run / "config.toml").write_text(text.replace("harmonics", "__import__"))
    if damage == "results":
        (run / "results.nc").write_bytes(b"\x00" * 100)
    if damage == "gone":
        shutil.rmtree(run)
    code, _, line = _main(capsys, "forecast", run, "-o", tmp_path / "fc.csv")
    assert code == 3 and message in line and line.count("\n") == 1
    assert not (tmp_path / "fc.csv").exists()


def test_a_table_of_another_step_is_refused(
    nile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.DataFrame({"year": np.arange(1971, 1991, 2), "flow": np.arange(900.0, 910.0)})
    table.to_csv(tmp_path / "new.csv", index=False)
    code, _, line = _main(capsys, "smooth", nile / "run", tmp_path / "new.csv")
    assert code == 3 and "2 apart, but the run was learnt on steps of 1" in line


def test_uneven_rows_with_two_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A forecast of uneven rows goes on by the usual step; `load` gives what the command used."""
    chance = np.random.default_rng(0)
    days = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.cumsum(chance.integers(1, 5, 60)), "D")
    path = np.cumsum(np.cumsum(chance.normal(size=(60, 2)), 0), 0).round(3)
    table = pd.DataFrame({"t": days, "px": path[:, 0], "py": path[:, 1]})
    table.to_csv(tmp_path / "d.csv", index=False)
    words = ["fit", tmp_path / "d.csv", "--time", "t", "--out", tmp_path / "r"]
    assert _main(capsys, *words)[0] == 3
    assert _main(capsys, *words, "--model", "constant-velocity")[0] == 0
    words = ["forecast", tmp_path / "r", "--horizon", "4", "-o", tmp_path / "fc.csv"]
    assert _main(capsys, *words)[0] == 0
    found = pd.read_csv(tmp_path / "fc.csv", index_col=0, parse_dates=True)
    usual = days.to_series().diff().median()
    assert found.index.tolist() == [days[-1] + usual * k for k in (1, 2, 3, 4)]
    fit = load(tmp_path / "r")
    again = fit.forecast(4, dt_future=1.0)
    np.testing.assert_allclose(found["py_mean"], again.mean[:, 1].detach(), rtol=1e-8)
    with pytest.raises(ValueError, match="there is no run folder"):
        load(tmp_path / "nowhere")


@pytest.mark.slow
def test_the_demo_keeps_its_promise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both models beat seasonal naive; their 90 % bands cover 85 to 99 % of the held-out weeks.

    Weeks after one origin err together, so that right bands may well cover nearly all of them:
    at seed 0 the deep model covers 102 of 104.
    """
    code, text, _ = _main(capsys, "demo", "--out", tmp_path / "demo", "--json")
    scores = json.loads(text)["scores"]
    naive = scores.pop("seasonal naive")
    assert code == 0 and len(scores) == 2
    for score in scores.values():
        assert score["crps"] < naive["crps"] and 0.85 <= score["cov90"] <= 0.99
    assert {path.name for path in (tmp_path / "demo").iterdir()} == FILES
    page = tmp_path / "again.html"
    assert _main(capsys, "report", tmp_path / "demo", "-o", page)[0] == 0
    assert page.read_text() == (tmp_path / "demo" / "report.html").read_text()
