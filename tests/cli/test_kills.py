"""Whenever a process is stopped: no unreadable folder, nothing stale, training goes on exactly."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deepssm.cli import main as cli
from deepssm.cli.saved_runs import load
from deepssm.io import checkpoint
from deepssm.io.folders import new_folder
from deepssm.io.lock import locked

from . import killing

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


def _kill_fits(folder: Path, count: int, seed: int, *, deep: bool = False) -> None:
    data, out = folder / "data.csv", folder / "run"
    killing.write_data(data)
    words = killing.fit_words(data, out, deep=deep)
    whole = killing.run(words)
    assert whole.code == 0, whole.text
    faults = []
    for number, after in killing.moments(count, 1.1 * whole.seconds, seed):
        before = {path.name for path in folder.iterdir()}
        ended = killing.run(words, number, after)
        found = killing.faults_of_run(out, number, ended.code, before)
        faults += [f"signal {number} after {after:.2f} s: {fault}" for fault in found]
    assert killing.run(words).code == 0
    assert {path.name for path in folder.iterdir()} == {"run", "data.csv"}
    assert not faults, "\n".join(faults)


def _kill_trainings(folder: Path, count: int, seed: int) -> None:
    """Stopped again and again, a training comes to the weights of one that ran through."""
    steps = 120
    assert killing.run(killing.trainer_words(folder / "whole", steps)).code == 0
    words = killing.trainer_words(folder / "parts", steps)
    for number, after in killing.moments(count, 0.4, seed):
        killing.run(words, number, after, seen="begun")
        path = folder / "parts" / "training.safetensors"
        if path.exists():
            checkpoint.load(path)
    assert killing.run(words).code == 0
    left, right = (
        checkpoint.load(folder / name / "model.safetensors").tensors for name in ("whole", "parts")
    )
    assert left.keys() == right.keys()
    assert all((left[name] == right[name]).all() for name in left)
    assert {path.name for path in (folder / "parts").iterdir()} == {
        "training.safetensors",
        "metrics.jsonl",
        "model.safetensors",
    }


@pytest.mark.slow
def test_sixty_stopped_fits_leave_whole_runs(tmp_path: Path) -> None:
    _kill_fits(tmp_path, 60, 0)


@pytest.mark.slow
def test_stopped_fits_of_a_deep_model_leave_whole_runs(tmp_path: Path) -> None:
    _kill_fits(tmp_path, 12, 1, deep=True)


@pytest.mark.slow
def test_sixty_stopped_trainings_go_on_bit_for_bit(tmp_path: Path) -> None:
    _kill_trainings(tmp_path, 60, 2)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_fit_leaves_nothing_or_what_the_next_clears(number: int, tmp_path: Path) -> None:
    """Stopped while it learns: no run, and after the next start no trace."""
    data, out = tmp_path / "data.csv", tmp_path / "run"
    killing.write_data(data)
    words = killing.fit_words(data, out)
    ended = killing.run(words, number, seen="Learning")
    assert ended.code in (-signal.SIGKILL, 128 + signal.SIGTERM) and not out.exists()
    assert not killing.faults_of_run(out, number, ended.code, set())
    assert cli.main(words[3:]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"run", "data.csv"}
    load(out)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize(
    "where",
    [
        "deepssm.cli.commands.fit.learn",
        "deepssm.cli.commands.fit.write_fits",
        "deepssm.cli.holdout.backtest",
        "deepssm.cli.commands.fit.page_of",
        "deepssm.cli.main._report",
        "deepssm.cli.main._parse",
    ],
)
def test_a_signal_at_any_stage_ends_in_a_sentence(
    where: str,
    number: signal.Signals,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    """Scores and pictures that fail cost no fit, but a signal is obeyed there too."""
    data, out = tmp_path / "data.csv", tmp_path / "run"
    killing.write_data(data)
    usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    heard = signal.signal(number, usual)  # under nohup SIGHUP is ignored
    request.addfinalizer(lambda: signal.signal(number, heard))
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGHUP)}
    monkeypatch.setattr(where, lambda *args, **options: signal.raise_signal(number))
    assert cli.main(killing.fit_words(data, out)[3:]) == 128 + number
    assert "deepssm: stopped" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} - {"run"} == {"data.csv"}
    assert out.exists() is (where == "deepssm.cli.main._report")
    assert {kind: signal.getsignal(kind) for kind in before} == before


def test_the_exit_code_is_that_of_the_signal_wherever_it_comes() -> None:
    """In an `exec` of text too, through which a plain `KeyboardInterrupt` becomes SIGINT."""
    code = (
        "import signal, sys\n"
        "from deepssm.cli import main as cli\n"
        "cli._parse = lambda words: exec('signal.raise_signal(signal.SIGTERM)')\n"
        "sys.exit(cli.main(['doctor']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 128 + signal.SIGTERM and done.stderr.count("\n") == 1


def test_two_commands_do_not_share_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second is refused in a sentence that names the first; a lock of the dead is none."""
    data, out = tmp_path / "data.csv", tmp_path / "run"
    killing.write_data(data)
    words = killing.fit_words(data, out)
    code = (
        "import sys, pathlib\n"
        "from deepssm.io.lock import locked\n"
        "with locked(pathlib.Path(sys.argv[1]), 'run'):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    lock = tmp_path / ".run.lock"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as first:
        assert first.stdout is not None and first.stdout.readline() == b"held\n"
        assert cli.main(words[3:]) == 3
        line = capsys.readouterr().err
        assert f"process {first.pid} on" in line and "is writing it" in line
        first.kill()
    assert lock.exists() and not out.exists()
    with locked(lock, "run"), pytest.raises(BlockingIOError), locked(lock, "run"):
        pass
    assert not lock.exists()


def test_an_older_run_survives_a_swap_that_was_cut_short(tmp_path: Path) -> None:
    """Without an exchange of names there is a moment with neither; the next start mends it."""
    (tmp_path / ".run.abcdefgh.old").mkdir()
    (tmp_path / ".run.abcdefgh.old" / "a.txt").write_text("older")
    (tmp_path / ".run.bcdefghi.tmp").mkdir()
    (tmp_path / ".run.bcdefghi.tmp" / "a.txt").write_text("half")
    (tmp_path / ".run.cdefghij.tmp").mkdir()
    (tmp_path / ".run.cdefghij.tmp" / "thesis").write_text("mine")
    (tmp_path / ".run.b.cdefghij.tmp").mkdir()
    with (
        pytest.raises(FileExistsError, match="--overwrite"),
        new_folder(tmp_path / "run", files=["a.txt"], is_own=lambda path: True),
    ):
        pass
    assert (tmp_path / "run" / "a.txt").read_text() == "older"
    assert (tmp_path / "run" / "thesis").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"run", ".run.b.cdefghij.tmp"}


def test_a_full_disk_names_the_file_and_leaves_the_older_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit on the size of files stands for the disk: the larger files of a run hit it."""
    import resource

    data, out = tmp_path / "data.csv", tmp_path / "run"
    killing.write_data(data)
    words = killing.fit_words(data, out)[3:]
    assert cli.main(words) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    capsys.readouterr()
    try:
        code = cli.main(words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    lines = capsys.readouterr().err.splitlines()
    assert code == 3 and str(out) in lines[-1] and ".tmp" not in lines[-1]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"run", "data.csv"}


def test_every_write_that_fails_names_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk is full at the first, second, ... file of a run."""
    data, out = tmp_path / "data.csv", tmp_path / "run"
    killing.write_data(data)
    words = killing.fit_words(data, out)[3:]
    assert cli.main(words) == 0
    write = Path.write_bytes
    for name in ("config.toml", "model.safetensors", "report.html"):

        def full(path: Path, data: bytes, name: str = name) -> int:
            if f".{name}." in path.name:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(path, data)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", full)
            capsys.readouterr()
            assert cli.main(words) == 3
        last = capsys.readouterr().err.splitlines()[-1]
        assert last == f"deepssm: {out / name}: No space left on device"
        load(out)
    assert {path.name for path in tmp_path.iterdir()} == {"run", "data.csv"}
