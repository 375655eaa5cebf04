"""A crafted file costs one sentence: no traceback, no time, no memory, and nothing is left."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from deepssm.cli import main as cli

from . import crafted

ALL = [*crafted.configs(), *crafted.metrics(), *crafted.results(), *crafted.weights()]
assert len(ALL) + len(crafted.CSV) >= 200


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a small model."""
    folder = tmp_path_factory.mktemp("crafted")
    rows = "\n".join(str((37 * i) % 11 + 0.1 * i) for i in range(40))
    (folder / "data.csv").write_text(f"flow\n{rows}\n")
    words = ["fit", str(folder / "data.csv"), "--model", "local-level"]
    assert cli.main([*words, "--out", str(folder / "run")]) == 0
    return folder / "run"


def _peak() -> float:
    """Return the most memory that this process has taken, in bytes."""
    if sys.platform == "win32":
        return 0.0
    import resource

    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found * (1.0 if sys.platform == "darwin" else 1024.0)


def _try(
    words: list[str], codes: tuple[int, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> str:
    """Run a command; return what is wrong with how it ended, empty if nothing is."""
    before, memory = sorted(folder.rglob("*")), _peak()
    capsys.readouterr()
    start = time.process_time()
    try:
        code = cli.main([*words, "-o" if words[0] != "fit" else "--out", str(folder / "new")])
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:300]
    seconds, grown = time.process_time() - start, _peak() - memory
    lines = capsys.readouterr().err.splitlines()
    (folder / "new").unlink(missing_ok=True) if code == 0 else None
    left = sorted(set(folder.rglob("*")) - set(before))
    faults = []
    if code not in codes:
        faults.append(f"exit code {code}")
    if code and (len(lines) != 1 or not lines[0].startswith("deepssm: ") or "\x1b" in lines[0]):
        faults.append(f"{len(lines)} lines")
    if code and len(lines[-1] if lines else "") > 1200:
        faults.append(f"{len(lines[-1])} letters")
    if seconds > 2.0 or grown > 300e6:
        faults.append(f"{seconds:.1f} s, {grown / 1e6:.0f} MB")
    if left:
        faults.append(f"left {left}")
    return ", ".join([*faults, *lines[-1:]]) if faults else ""


def _check(
    run: Path,
    tmp_path: Path,
    cases: Iterable[tuple[str, crafted.Craft]],
    codes: tuple[int, ...],
    capsys: pytest.CaptureFixture[str],
    command: str = "filter",
) -> None:
    faults = {}
    for name, craft in cases:
        copied = tmp_path / "run"
        shutil.copytree(run, copied)
        craft(copied)
        fault = _try([command, str(copied)], codes, tmp_path, capsys)
        if fault:
            faults[name] = fault
        shutil.rmtree(copied)
    assert not faults, "\n".join(f"{name}: {fault}" for name, fault in faults.items())


def test_a_crafted_run_folder_is_refused_in_one_sentence(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sample of every kind; the whole corpus is below."""
    _check(run, tmp_path, crafted.chosen(ALL, 6), (3,), capsys)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["filter", "forecast"])
def test_every_crafted_run_folder_is_refused_in_one_sentence(
    command: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _check(run, tmp_path, ALL, (3,), capsys, command)


def test_a_flipped_byte_is_refused_or_harmless(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A flipped digit of a number is a number: such a file is valid."""
    _check(run, tmp_path, crafted.flipped(5, 0), (0, 3, 4), capsys)


@pytest.mark.slow
def test_no_flipped_byte_breaks_a_command(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _check(run, tmp_path, crafted.flipped(150, 1), (0, 3, 4), capsys)


def test_a_crafted_table_is_refused_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faults = {}
    for name, data in crafted.CSV.items():
        (tmp_path / "data.csv").write_bytes(data)
        words = ["fit", str(tmp_path / "data.csv"), "--model", "local-level"]
        fault = _try(words, (3,), tmp_path, capsys)
        if fault:
            faults[name] = fault
    assert not faults, "\n".join(f"{name}: {fault}" for name, fault in faults.items())
