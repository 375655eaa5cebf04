"""What a command may replace, how much memory it may take, what it may show and what may fail."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

import deepssm as ds
from deepssm.cli import main as cli
from deepssm.cli.saved_runs import load
from deepssm.io.budget import in_words, require_memory
from deepssm.io.terminal import printable


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a small model, and its data beside it."""
    folder = tmp_path_factory.mktemp("careful")
    days = pd.date_range("2020-01-01", periods=40)
    flow = [(37 * i) % 11 + 0.1 * i for i in range(40)]
    pd.DataFrame({"day": days, "flow": flow}).to_csv(folder / "data.csv", index=False)
    words = ["fit", str(folder / "data.csv"), "--time", "day", "--model", "local-level"]
    assert cli.main([*words, "--out", str(folder / "run")]) == 0
    return folder / "run"


def _main(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    capsys.readouterr()
    code = cli.main([str(word) for word in words])
    return code, capsys.readouterr().err


def test_overwrite_replaces_a_run_and_nothing_else(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = tmp_path / "proj"
    project.mkdir()
    shutil.copy(run.parent / "data.csv", project / "data.csv")
    (project / "thesis.tex").write_text("ten years")
    words = ("fit", project / "data.csv", "--time", "day", "--model", "local-level")
    for out in (project, project / "..", Path("/"), Path.home()):
        code, line = _main(capsys, *words, "--out", out, "--overwrite")
        assert code == 3 and "no run folder" in line and line.count("\n") == 1
    assert {path.name for path in project.iterdir()} == {"data.csv", "thesis.tex"}
    # The table lies in the run folder itself: it stays there.
    shutil.copytree(run, tmp_path / "run")
    shutil.copy(run.parent / "data.csv", tmp_path / "run" / "data.csv")
    words = ("fit", tmp_path / "run" / "data.csv", "--time", "day", "--model", "local-level")
    assert _main(capsys, *words, "--out", tmp_path / "run", "--overwrite")[0] == 0
    assert (tmp_path / "run" / "data.csv").read_text() == (run.parent / "data.csv").read_text()
    load(tmp_path / "run")


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes of POSIX")
def test_only_regular_files_are_replaced(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data.csv"
    shutil.copy(run.parent / "data.csv", data)
    mine, link, pipe = tmp_path / "mine", tmp_path / "link", tmp_path / "pipe"
    mine.write_text("mine")
    link.symlink_to(mine)
    os.mkfifo(pipe)
    protected = tmp_path / "protected"
    protected.write_text("mine")
    protected.chmod(0o444)
    refused = {
        data: "would replace",
        run / "results.nc": "would replace",
        run / "config.toml": "would replace",
        link: "is a symbolic link",
        pipe: "is no regular file",
        protected: "is write-protected",
        tmp_path: "is a folder",
        Path("/dev/stdout"): "is a symbolic link",
        Path("/dev/null"): "is no regular file",
    }
    before = data.read_text()
    for verb in (("filter", run, data), ("smooth", run, data), ("forecast", run, data)):
        for out, message in refused.items():
            code, line = _main(capsys, *verb, "-o", out)
            assert code in (2, 3) and message in line and line.count("\n") == 1, (out, line)
    for verb in ("backtest", "report"):
        code, line = _main(capsys, verb, run, "-o", link)
        assert code == 3 and "is a symbolic link" in line
    assert data.read_text() == before and link.is_symlink() and pipe.is_fifo()
    assert mine.read_text() == protected.read_text() == "mine"
    assert Path("/dev/stdout").is_symlink()


def test_a_dash_is_standard_output(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert cli.main(["forecast", str(run), "--horizon", "3", "-o", "-"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("day,flow_mean") and captured.out.count("\n") == 4
    assert "Wrote the table to standard output" in captured.err
    assert not Path("-").exists()
    code, line = _main(capsys, "forecast", run, "-o", "-", "--json")
    assert code == 2 and "choose one" in line


def test_what_memory_has_no_room_for_is_refused_with_its_size(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = run.parent / "data.csv"
    wide = tmp_path / "wide.csv"
    wide.write_text("t,a\n1800-01-01,1\n2000-01-01,2\n" + "".join(
        f"19{i:02d}-01-01,{i % 7}\n" for i in range(50)
    ))  # fmt: skip
    numbers = tmp_path / "numbers.csv"
    numbers.write_text("t,a\n0,1\n1e9,2\n" + "".join(f"{i + 1},{i % 7}\n" for i in range(50)))
    deep = ("fit", data, "--time", "day", "--model", "deep-kalman", "--out", tmp_path / "new")
    level = ("fit", data, "--time", "day", "--out", tmp_path / "new")
    for words in (
        ("forecast", run, "--horizon", 10**9, "-o", tmp_path / "fc.csv"),
        ("forecast", run, "--samples", 10**9, "-o", tmp_path / "fc.csv"),
        (*deep, "--state-dim", 50_000),
        (*deep, "--hidden", 10**9),
        ("fit", wide, "--time", "t", "--resample", "1ms", "--out", tmp_path / "new"),
        ("fit", wide, "--time", "t", "--resample", "1ns", "--out", tmp_path / "new"),
        ("fit", numbers, "--time", "t", "--resample", "1e-9", "--out", tmp_path / "new"),
    ):
        code, line = _main(capsys, *words)
        assert code == 3 and "of memory" in line and line.count("\n") == 1, line
    code, line = _main(capsys, *level, "--ar", 5000)
    assert code == 3 and "needs 10000" in line
    assert not (tmp_path / "new").exists() and not (tmp_path / "fc.csv").exists()


def test_verbs_refuse_what_memory_has_no_room_for() -> None:
    model = ds.models.LocalLevel()
    y = torch.randn(5, 1, dtype=torch.float64)
    fit = ds.fit(model, y, progress=False)
    for call, name in (
        (lambda: ds.forecast(model, y, 10**10), "horizon=10000000000"),
        (lambda: fit.forecast(10**10), "horizon=10000000000"),
        (lambda: ds.forecast(model, y, 3, num_samples=10**10), "num_samples=10000000000"),
        (lambda: ds.sample_posterior(model, y, num_samples=10**10), "num_samples=10000000000"),
        (lambda: fit.sample_posterior(10**10), "num_samples=10000000000"),
        (lambda: ds.impute(model, y, num_samples=10**10), "num_samples=10000000000"),
        (lambda: ds.simulate(ds.models.DeepMarkov(1, 2), 10**10), "time=10000000000"),
        (lambda: ds.simulate(ds.models.DeepMarkov(1, 2), 9, num_samples=10**10), "num_samples="),
    ):
        with pytest.raises(ValueError, match=f"`.*{name}.*` would take .* of memory"):
            call()
    require_memory(1.0, "a byte", "")
    assert in_words(1536) == "1.5 KiB" and in_words(float("inf")) == "more than 1 YiB"


def test_names_cannot_speak_to_the_terminal(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b]0;owned\x07\x9b31m\u202e\u2028"
    table = tmp_path / "data.csv"
    table.write_text(f"day,{evil}\n1,2\n", encoding="utf-8")
    for words in (
        ("filter", run, "--which", evil),
        ("filter", run, "-o", tmp_path / "a.csv", tmp_path / evil),
        ("filter", evil),
        (evil,),
        ("fit", table, "--y", "nosuch", "--out", tmp_path / "new"),
        ("fit", table, "--model", evil),
        ("forecast", run, "--horizon", evil),
    ):
        code, line = _main(capsys, *words)
        assert code and line.count("\n") == 1
        assert all(c.isprintable() for c in line.rstrip("\n")), words
    assert printable("é 🛰 a\tb\n") == "é 🛰 a\tb\n"
    assert printable("\x1b\x9b\u202e\udc80") == "\\x1b\\x9b\\u202e\\udc80"


@pytest.mark.parametrize(
    "where",
    [
        "deepssm.cli.holdout.backtest",
        "deepssm.cli.holdout.naive_backtest",
        "deepssm.cli.holdout.calibration_warnings",
        "deepssm.cli.report_page.forecast_section",
        "deepssm.cli.report_sections.plot_pit",
        "deepssm.cli.commands.fit.page_of",
        "deepssm.cli.netcdf.to_datatree",
    ],
)
def test_a_failing_score_or_picture_costs_no_fit(
    where: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise ZeroDivisionError("the moon is full")

    with monkeypatch.context() as patch:
        patch.setattr(where, fail)
        words = ("fit", run.parent / "data.csv", "--time", "day", "--model", "local-level")
        assert _main(capsys, *words, "--out", tmp_path / "run")[0] == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "the moon is full" in page
    left, right = load(run).forecast(3), load(tmp_path / "run").forecast(3)
    torch.testing.assert_close(left.mean, right.mean)
