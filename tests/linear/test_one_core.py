"""A deep layer and a Kalman filter call one function, and every view of it serves both."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from deepssm.linear import Dense, Diagonal, Recurrence, View, innovations, looped
from deepssm.linear import system as core
from deepssm.models import S4D

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_layer_and_filter_run_through_the_same_function(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[type] = []

    def recording(recurrence: Recurrence, u: Tensor, z0: Tensor | None) -> tuple[Tensor, Tensor]:
        seen.append(type(recurrence.transition))
        return looped(recurrence, u, z0)

    def choose(*_: object) -> View:
        return recording

    layer, u, y = S4D(3, 4), torch.randn(2, 10, 3), torch.randn(10, 1)
    system = innovations(torch.eye(1), torch.eye(1), torch.eye(1), torch.eye(1))
    expected = layer(u), system.apply(y)
    monkeypatch.setattr(core, "_cheapest", choose)
    torch.testing.assert_close((layer(u), system.apply(y)), expected)
    assert seen == [Diagonal, Dense]


def test_example_shows_every_view_of_both(capsys: pytest.CaptureFixture[str]) -> None:
    results = runpy.run_path(str(EXAMPLES / "one_core.py"))["main"](300)
    assert max(results[name] for name in ("layer", "kalman", "same", "door")) < 1e-10
    assert results["filtered"] < 0.8 * results["raw"]
    printed = capsys.readouterr().out
    assert all(printed.count(f"{view}:") == 2 for view in ("loop", "scan", "chunk", "convolution"))


def test_example_remembers_a_signal(tmp_path: Path) -> None:
    results = runpy.run_path(str(EXAMPLES / "hippo_memory.py"))["main"](1000, str(tmp_path))
    assert results["all, 8"] > results["all, 16"] > results["all, 32"]
    assert results["all, 32"] < 3e-4 and results["recent, 16"] < 5e-4
    assert (tmp_path / "hippo_memory.svg").stat().st_size > 1000
