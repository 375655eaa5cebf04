"""What a training run writes while it runs: checkpoints, `metrics.jsonl`, callbacks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.arguments import checked
from ...io import checkpoint
from ...io.atomic import naming, remove_stale_files, write_text
from ...io.lock import locked_folder
from ...io.run_schema import TRAINING, damaged, require_schema
from . import distributed
from .minibatches import Minibatches
from .state import TrainingState

FILES = ("training.safetensors", "metrics.jsonl")

Callback = Callable[[Mapping[str, float]], object]
"""Receives one record of the history whenever one is made."""


@contextmanager
def locked_training(folder: str | Path | None) -> Iterator[None]:
    """Keep other trainings out of a folder while the block runs; `None` is no folder.

    What a training that was killed has left half-written is removed. Under `torchrun` the first
    process holds the lock for all.

    Raises:
        BlockingIOError: another training writes there.
    """
    with locked_folder(folder if distributed.is_first() else None):
        if folder is not None:
            remove_stale_files(Path(folder), [RunLog(folder).checkpoint_name, *FILES])
        yield


@checked
class RunLog:
    """The folder of a training run.

    It holds `training.safetensors`, from which a run goes on as if it had never stopped, and
    `metrics.jsonl`, one record a line. Under `torchrun` the first process writes the metrics and
    every process a checkpoint of its own, for each has a random state of its own.

    Args:
        folder: Where to write; `None` writes nothing.
        callbacks: Called with every record.
    """

    def __init__(self, folder: str | Path | None, callbacks: tuple[Callback, ...] = ()) -> None:
        self.folder, self.callbacks = None if folder is None else Path(folder), callbacks

    @property
    def checkpoint_file(self) -> Path | None:
        """The checkpoint of this process."""
        return None if self.folder is None else self.folder / self.checkpoint_name

    @property
    def checkpoint_name(self) -> str:
        """What it is called."""
        rank = distributed.rank()
        return f"training-{rank}.safetensors" if rank else FILES[0]

    @property
    def metrics_file(self) -> Path | None:
        """The course of training."""
        return None if self.folder is None else self.folder / "metrics.jsonl"

    def begin(self, history: list[dict[str, float]]) -> None:
        """Start `metrics.jsonl` with the records so far, none in a new run."""
        if self.metrics_file is not None and distributed.is_first():
            write_text(self.metrics_file, "".join(_line(record) for record in history))

    def record(self, record: dict[str, float]) -> None:
        """Append one record and tell the callbacks."""
        if not distributed.is_first():
            return
        if self.metrics_file is not None:
            path = self.metrics_file
            with naming(path, path), path.open("a", encoding="utf-8") as file:
                file.write(_line(record))
        for callback in self.callbacks:
            callback(record)

    def save(self, step: int, training: TrainingState, batches: Minibatches) -> None:
        """Write the checkpoint: `step` steps are done.

        Args:
            step: Number of steps done.
            training: Weights, optimiser and history.
            batches: Their place in the data.
        """
        if self.checkpoint_file is None:
            return
        tensors, config = training.saved()
        device = batches.series.y.device
        tensors |= {"random.cpu": torch.get_rng_state(), "batches.plan": batches.plan}
        if device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(device)
        config = {"step": step, "ranks": distributed.world_size(), **config}
        checkpoint.save_tensors(self.checkpoint_file, config, tensors, "the training state")

    def interrupted(self) -> str:
        """Return what to tell a user who stopped the run."""
        note = "Training was interrupted; the best weights so far are in place."
        path = self.checkpoint_file
        if path is None or not path.is_file():
            return note
        return f"{note} Go on with `SVI(folder={str(self.folder)!r}, resume=True)`: {path}."

    def resume(self, training: TrainingState, batches: Minibatches) -> int:
        """Go back to the checkpoint, if there is one; return the number of steps done.

        Raises:
            ValueError: the checkpoint is damaged, or belongs to another model, guide, batch size
                or number of processes; nothing was changed.
        """
        path = self.checkpoint_file
        if path is None or not path.is_file():
            return 0
        found = checkpoint.load(path)
        tensors, config = found.tensors, found.config
        require_schema(TRAINING, config, path)
        plan, random = _plan(tensors, batches, path), _random(tensors, batches, path)
        if config.get("ranks") != distributed.world_size() or plan.shape[1] != batches.size:
            raise ValueError(
                f"`resume`: `{path}` was written by {config.get('ranks')} process(es) with "
                f"batches of {plan.shape[1]}, now there are {distributed.world_size()} and "
                f"{batches.size}. Use the settings of the first run, or another `folder`."
            )
        training.load_saved(tensors, config, path)
        batches.plan = plan
        torch.set_rng_state(random["random.cpu"])
        if "random.cuda" in random:
            torch.cuda.set_rng_state(random["random.cuda"], batches.series.y.device)
        return int(config["step"])


def _plan(tensors: Mapping[str, Tensor], batches: Minibatches, path: Path) -> Tensor:
    """Return the checked rows still to come of an epoch."""
    plan = tensors.get("batches.plan")
    rows = len(batches.series.y)
    if plan is None or plan.dtype != torch.long or plan.ndim != 2:
        raise damaged(path, "it lacks the plan of the epoch, 'batches.plan'")
    if plan.numel() and not (-1 <= int(plan.min()) and int(plan.max()) < rows):
        raise damaged(
            path, f"its plan names series from {int(plan.min())} to {int(plan.max())} of {rows}"
        )
    if len(plan) and bool((plan < 0).all(1).any()):
        raise damaged(path, "its plan has a batch of no series")
    return plan


def _random(tensors: Mapping[str, Tensor], batches: Minibatches, path: Path) -> dict[str, Tensor]:
    """Return the checked states of the random generators, tried on ones of their own."""
    device = batches.series.y.device
    found = {}
    for name in ("cpu", "cuda") if device.type == "cuda" else ("cpu",):
        state = tensors.get(f"random.{name}")
        generator = torch.Generator(device if name == "cuda" else "cpu")
        try:
            if state is None or state.shape != generator.get_state().shape:
                raise ValueError("it is missing or of another size")
            generator.set_state(state)
        except (RuntimeError, TypeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise damaged(path, f"no random state 'random.{name}': {reason}") from None
        found[f"random.{name}"] = state
    return found


def _line(record: Mapping[str, float]) -> str:
    plain: dict[str, Any] = {k: v if math.isfinite(v) else None for k, v in record.items()}
    return json.dumps(plain, allow_nan=False) + "\n"
