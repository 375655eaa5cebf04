"""A training goes on from a whole checkpoint of its own, or not at all; one training a folder."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import deepssm as ds
from deepssm.io import checkpoint

Edit = Callable[[dict[str, Tensor], dict[str, Any]], object]


def _data() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(5, 12, 1, generator=generator).cumsum(-2)


def _train(folder: Path, *, resume: bool = False, steps: int = 6) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = ds.models.DeepMarkov(1, 2, hidden=4)
    method = ds.inference.SVI(
        steps=steps, batch_size=2, folder=folder, resume=resume, checkpoint_every=2,
        report_every=2,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    ds.fit(model, _data(), method=method, progress=False, generator=generator)
    return model.state_dict()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> checkpoint.Checkpoint:
    folder = tmp_path_factory.mktemp("training")
    _train(folder)
    return checkpoint.load(folder / "training.safetensors")


def _without(prefix: str) -> Edit:
    def edit(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
        for name in [name for name in tensors if name.startswith(prefix)]:
            del tensors[name]

    return edit


def _instead(name: str, value: object) -> Edit:
    return lambda tensors, config: tensors.update({name: torch.as_tensor(value)})


def _moment(key: str, change: Callable[[Tensor], Tensor]) -> Edit:
    def edit(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
        name = next(n for n in sorted(tensors) if n.startswith("optimizer.") and n.endswith(key))
        tensors[name] = change(tensors[name])

    return edit


def _no_optimizer(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    _without("optimizer.")(tensors, config)
    config["moments"]["optimizer"] = []


def _foreign_parameter(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    for name in [name for name in tensors if name.startswith("optimizer.0.")]:
        tensors[name.replace(".0.", ".999.")] = tensors[name]
    config["moments"]["optimizer"].append(999)


EDITS: dict[str, Edit] = {
    **{f"no {p}": _without(p) for p in (
        "now.", "good.", "optimizer.", "optimizer.0.exp_avg_sq", "good_optimizer.", "batches.",
        "random.",
    )},
    "no optimiser and none told": _no_optimizer,
    "a parameter that is not there": _foreign_parameter,
    "moments of another size": _moment("exp_avg", lambda x: torch.zeros(99)),
    "negative squares": _moment("exp_avg_sq", lambda x: x - 1),
    "moments of integers": _moment("exp_avg", lambda x: x.long()),
    "plan out of range": _instead("batches.plan", [[0, 5]]),
    "plan below range": _instead("batches.plan", [[0, -2]]),
    "plan of nothing": _instead("batches.plan", [[-1, -1]]),
    "plan of floats": _instead("batches.plan", [[0.0, 1.0]]),
    "plan of one axis": _instead("batches.plan", [0, 1]),
    "plan of another batch": _instead("batches.plan", [[0, 1, 2]]),
    "random of zeros": _instead("random.cpu", torch.zeros(5056, dtype=torch.uint8)),
    "random too short": _instead("random.cpu", torch.zeros(7, dtype=torch.uint8)),
    "random of floats": _instead("random.cpu", torch.zeros(5056)),
    "weights of another size": lambda t, c: t.update({n: torch.zeros(77) for n in list(t)[:1]}),
    **{f"{key} {value!r:.30}": (lambda t, c, k=key, v=value: c.update({k: v}))
       for key, values in {
        "step": ("x", -1, 1.5, None, [1]),
        "ranks": (0, 2, "x"),
        "history": ("x", [1], [{"a": "x"}], [[1]], {}),
        "best": (1, {}, {"elbo": "x", "divergence": 1.0}, {"elbo": [1], "divergence": 1.0}),
        "warnings": ("x", [1], {}),
        "counts": ([1], [1, "x"], [1, -1], 3, [1, 2, 3]),
        "caution": ("x", -1.0, 2.0, None),
        "moments": (1, {}, {"optimizer": [0], "other": [0]}, {"optimizer": ["x"]}),
       }.items() for value in values},
    **{f"no {key}": (lambda t, c, k=key: c.pop(k)) for key in (
        "step", "ranks", "history", "best", "warnings", "counts", "caution", "moments",
    )},
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_a_checkpoint_that_is_not_whole_is_refused(
    name: str, trained: checkpoint.Checkpoint, tmp_path: Path
) -> None:
    tensors, config = dict(trained.tensors), copy.deepcopy(trained.config)
    EDITS[name](tensors, config)
    checkpoint.save_tensors(tmp_path / "training.safetensors", config, tensors, "test")
    before = (tmp_path / "training.safetensors").read_bytes()
    with pytest.raises(ValueError, match="is damaged|holds another model|was written by"):
        _train(tmp_path, resume=True, steps=8)
    assert (tmp_path / "training.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["training.safetensors"]


def test_a_whole_checkpoint_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole = _train(tmp_path / "whole", steps=8)
    assert _stopped_at(tmp_path / "parts", 5)
    again = _train(tmp_path / "parts", resume=True, steps=8)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def _stopped_at(folder: Path, count: int) -> bool:
    class Stop(Exception):
        pass

    def stop(record: object) -> None:
        if float(record["step"]) >= count:  # type: ignore[index]
            raise Stop

    torch.manual_seed(0)
    model = ds.models.DeepMarkov(1, 2, hidden=4)
    method = ds.inference.SVI(
        steps=8, batch_size=2, folder=folder, checkpoint_every=2, report_every=2, callbacks=(stop,)
    )
    with pytest.raises(Stop):
        generator = torch.Generator().manual_seed(1)
        ds.fit(model, _data(), method=method, progress=False, generator=generator)
    return (folder / "training.safetensors").is_file()


def test_two_trainings_do_not_share_a_folder(tmp_path: Path) -> None:
    """The second is refused before its model or the folder changes; afterwards it may."""
    seen = []

    def other(record: object) -> None:
        if not seen:
            with pytest.raises(BlockingIOError, match="is writing it"):
                _train(tmp_path / "one")
            seen.append(1)

    torch.manual_seed(0)
    model = ds.models.DeepMarkov(1, 2, hidden=4)
    method = ds.inference.SVI(
        steps=4, batch_size=2, folder=tmp_path / "one", report_every=2, callbacks=(other,)
    )
    ds.fit(model, _data(), method=method, progress=False)
    assert seen
    _train(tmp_path / "one")
    assert {path.name for path in (tmp_path / "one").iterdir()} == {
        "training.safetensors",
        "metrics.jsonl",
    }


def test_what_a_killed_training_left_is_cleared(tmp_path: Path) -> None:
    stale = [".training.safetensors.abcdefgh.tmp", ".metrics.jsonl.abcdefgh.tmp", ".lock"]
    for name in [*stale, "mine.tmp"]:
        (tmp_path / name).write_text("{")
    _train(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "training.safetensors",
        "metrics.jsonl",
        "mine.tmp",
    }
