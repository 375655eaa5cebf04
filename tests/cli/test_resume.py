"""`deepssm fit --resume` goes on where Ctrl-C stopped."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from deepssm.cli.exit_codes import DataError
from deepssm.cli.main import main
from deepssm.cli.resume import begin_training
from deepssm.cli.table import Table, read_table
from deepssm.inference.variational.state import TrainingState
from deepssm.io.checkpoint import load

WORDS = ["--y", "level", "--model", "deep-kalman", "--steps", "60", "--hidden", "4"]


@pytest.mark.slow
@pytest.mark.usefixtures("ctrl_c")
def test_a_stopped_fit_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data.csv"
    rows = [f"{(i * 37) % 11 + 0.1 * i}" for i in range(60)]
    data.write_text("\n".join(["level", *rows]))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(["fit", str(data), *WORDS, "--out", str(whole)]) == 0
    report = TrainingState.report

    def stop(self: TrainingState, step: int, record: dict[str, float]) -> None:
        report(self, step, record)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingState, "report", stop)
        assert main(["fit", str(data), *WORDS, "--out", str(parts)]) == 130
    assert "Same command with --resume goes on" in capsys.readouterr().err
    training = tmp_path / "parts.training"
    assert (training / "training.safetensors").is_file() and not parts.exists()
    assert main(["fit", str(data), *WORDS, "--out", str(parts), "--resume"]) == 0
    assert not training.exists()
    left, right = (load(run / "model.safetensors").tensors for run in (whole, parts))
    assert left.keys() == right.keys()
    assert all((left[name] == right[name]).all() for name in left)


def test_other_data_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One value, one row or one column differs; the command says so before it learns anything."""
    data, out = tmp_path / "data.csv", tmp_path / "run"
    data.write_text("\n".join(["level,other", *(f"{i % 7},{i % 5}" for i in range(60))]))
    training = tmp_path / "run.training"
    table = _table(data, ["level"])
    begin_training(training, table, resume=False)
    (training / "training.safetensors").write_bytes(b"")
    begin_training(training, _table(data, ["level"]), resume=True)  # The same data pass.
    changed = table._replace(y=table.y.copy())
    changed.y.iloc[5] += 1e-9
    for other in (changed, _table(data, ["other"]), table._replace(y=table.y.iloc[1:])):
        with pytest.raises(DataError, match="--resume: the data changed"):
            begin_training(training, other, resume=True)
    data.write_text(data.read_text().replace("3,3", "3,4"))
    data.write_text(data.read_text().replace("6,1", "5,1"))
    assert main(["fit", str(data), *WORDS, "--out", str(out), "--resume"]) == 3
    assert "the data changed since" in capsys.readouterr().err
    assert not out.exists()
    (training / "data.json").unlink()
    with pytest.raises(DataError, match="does not say what it was learnt from"):
        begin_training(training, table, resume=True)
    begin_training(training, table, resume=False)  # A new start leaves nothing of the old one.
    assert not (training / "training.safetensors").exists()


def test_a_training_that_failed_at_once_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that left a checkpoint keeps it."""
    data, training = tmp_path / "data.csv", tmp_path / "run.training"
    data.write_text("\n".join(["level", *(f"{i % 7}" for i in range(60))]))
    checkpoint = training / "training.safetensors"
    for before in (False, True):

        def fail(*args: object, before: bool = before, **kwargs: object) -> None:
            if before:
                checkpoint.write_bytes(b"")
            raise FloatingPointError("the loss is not finite")

        monkeypatch.setattr("deepssm.cli.commands.fit.learn", fail)
        assert main(["fit", str(data), *WORDS, "--out", str(tmp_path / "run")]) == 4
        assert training.exists() == before and not (tmp_path / "run").exists()


def _table(path: Path, columns: list[str]) -> Table:
    return read_table(path, time=None, y=columns, u=[])
