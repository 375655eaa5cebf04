"""The command line aligns by the library's own code, and keeps a fit whatever fails after it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deepssm.cli import main as cli
from deepssm.cli.saved_runs import load


def _main(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = cli.main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def _driven(days: pd.DatetimeIndex) -> pd.DataFrame:
    chance = np.random.default_rng(1)
    frame = pd.DataFrame({"t": days, "price": chance.normal(size=len(days))})
    frame["rain"] = chance.normal(size=len(days))
    frame["a"] = 3 * frame["price"] - frame["rain"] + 0.1 * chance.normal(size=len(days))
    return frame


def test_future_inputs_go_by_their_dates_and_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows reversed, columns turned and rows too many give one forecast; other dates none."""
    frame = _driven(pd.date_range("2024-01-01", periods=64))
    frame.iloc[:60].to_csv(tmp_path / "d.csv", index=False)
    run = tmp_path / "a run"
    words = ["fit", tmp_path / "d.csv", "--time", "t", "--y", "a", "--u", "price,rain",
             "--model", "local-level", "--out", run]  # fmt: skip
    code, text, _ = _main(capsys, *words)
    assert code == 0 and f"Next: deepssm forecast '{run}' --horizon" in text
    later = frame.iloc[60:].drop(columns="a")
    tables = {
        "in order": later,
        "reversed": later.iloc[::-1],
        "turned": later[["rain", "t", "price"]],
        "all": frame.drop(columns="a"),
        "no dates": later.drop(columns="t"),
    }
    found = {}
    for name, table in tables.items():
        table.to_csv(tmp_path / "u.csv", index=False)
        out = tmp_path / "fc.csv"
        options = ["--horizon", 4, "--u-future", tmp_path / "u.csv", "-o", out]
        assert _main(capsys, "forecast", run, *options)[0] == 0, name
        found[name] = pd.read_csv(out, index_col=0)
        pd.testing.assert_frame_equal(found[name], found["in order"])
    direct = load(run).forecast(4, u_future=later.set_index("t")[["rain", "price"]]).mean[:, 0]
    np.testing.assert_allclose(found["all"]["a_mean"], direct.detach(), rtol=1e-8)
    for shift in ("365D", "1D"):
        late = later.assign(t=later["t"] + pd.Timedelta(shift))
        late.to_csv(tmp_path / "u.csv", index=False)
        code, _, line = _main(capsys, "forecast", run, *options)
        assert code == 3 and "has no row for 2024-03-01" in line
    later.iloc[:3].drop(columns="t").to_csv(tmp_path / "u.csv", index=False)
    code, _, line = _main(capsys, "forecast", run, *options)
    assert code == 3 and "has 3 rows, expected one a step: 4" in line


@pytest.mark.parametrize("holidays", [False, True])
def test_working_days_are_fitted_and_forecast_by_date(
    holidays: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = _driven(pd.date_range("2024-01-01", periods=80, freq="B"))[["t", "a"]]
    frame = frame.drop(index=[12, 40]) if holidays else frame
    frame.to_csv(tmp_path / "d.csv", index=False)
    words = ["fit", tmp_path / "d.csv", "--time", "t", "--model", "structural", "--out"]
    assert _main(capsys, *words, tmp_path / "r")[0] == 0
    out = tmp_path / "fc.csv"
    assert _main(capsys, "forecast", tmp_path / "r", "--horizon", 7, "-o", out)[0] == 0
    dates = pd.read_csv(out, index_col=0, parse_dates=True).index
    after = pd.date_range(frame["t"].iloc[-1], periods=8, freq="B")[1:]
    assert list(dates) == list(after)
    assert (
        "season of 5 rows"
        in (tmp_path / "r" / "config.toml").read_text() + load(tmp_path / "r").summary()
        or load(tmp_path / "r").model.state_dim > 2
    )


def test_weekdays_on_a_grid_of_days_keep_their_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No Saturday was ever seen, so that the naive forecast of a week fails."""
    _driven(pd.date_range("2024-01-01", periods=60, freq="B"))[["t", "a"]].to_csv(
        tmp_path / "d.csv", index=False
    )
    words = ["fit", tmp_path / "d.csv", "--time", "t", "--resample", "1D", "--out", tmp_path / "r"]
    code, _, line = _main(capsys, *words)
    assert code == 0, line


@pytest.mark.parametrize("broken", ["baseline", "scores", "picture"])
def test_what_fails_after_learning_does_not_cost_the_fit(
    broken: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no such thing")

    where = {
        "baseline": "deepssm.cli.holdout.naive_backtest",
        "scores": "deepssm.cli.holdout.backtest",
        "picture": "deepssm.cli.report_page.smoothed_section",
    }[broken]
    monkeypatch.setattr(where, fail)
    _driven(pd.date_range("2024-01-01", periods=40))[["t", "a"]].to_csv(
        tmp_path / "d.csv", index=False
    )
    words = ["fit", tmp_path / "d.csv", "--time", "t", "--model", "local-level", "--json"]
    code, text, line = _main(capsys, *words, "--out", tmp_path / "r")
    assert code == 0, line
    notes = json.loads(text)["warnings"]
    page = (tmp_path / "r" / "report.html").read_text()
    assert any("no such thing" in note for note in notes) or "no such thing" in page
    assert load(tmp_path / "r").forecast(3).mean.shape == (3, 1)


def test_two_seasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A day of 4 and a week of 28 rows: both are in the model, and come back from the folder."""
    steps = np.arange(84)
    wave = 3 * np.sin(2 * np.pi * steps / 4) + 2 * np.sin(2 * np.pi * steps / 28)
    noise = np.random.default_rng(0).normal(size=84)
    frame = pd.DataFrame({"t": pd.date_range("2024-01-01", periods=84, freq="6h")})
    frame.assign(a=(wave + 0.1 * noise).round(4)).to_csv(tmp_path / "d.csv", index=False)
    words = ["fit", tmp_path / "d.csv", "--time", "t", "--model", "structural", "--period",
             "28,4", "--out", tmp_path / "r"]  # fmt: skip
    assert _main(capsys, *words)[0] == 0
    fit = load(tmp_path / "r")
    assert any(name.startswith("season2") for name in fit.model.state_names)
    ahead = np.arange(84, 98)
    expected = 3 * np.sin(2 * np.pi * ahead / 4) + 2 * np.sin(2 * np.pi * ahead / 28)
    np.testing.assert_allclose(fit.forecast(14).mean[:, 0].detach(), expected, atol=0.5)
    assert "--period 4,28" in (tmp_path / "r" / "config.toml").read_text()
    code, _, line = _main(capsys, *words[:-3], "1,2,3", "--out", tmp_path / "x")
    assert code == 2 and "one or two seasons" in line
