"""`deepssm fit --resume` goes on where Ctrl-C stopped."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from deepssm.checkpoint import load
from deepssm.cli import main
from deepssm.inference.training_state import Keeper

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
    report = Keeper.report

    def stop(self: Keeper, step: int, record: dict[str, float]) -> None:
        report(self, step, record)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "report", stop)
        assert main(["fit", str(data), *WORDS, "--out", str(parts)]) == 130
    assert "Same command with --resume goes on" in capsys.readouterr().err
    training = tmp_path / "parts.training"
    assert (training / "training.safetensors").is_file() and not parts.exists()
    assert main(["fit", str(data), *WORDS, "--out", str(parts), "--resume"]) == 0
    assert not training.exists()
    left, right = (load(run / "model.safetensors").tensors for run in (whole, parts))
    assert left.keys() == right.keys()
    assert all((left[name] == right[name]).all() for name in left)
