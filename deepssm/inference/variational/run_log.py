"""What a training run writes while it runs: checkpoints, `metrics.jsonl`, callbacks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ...core.arguments import checked
from ...io import checkpoint
from ...io.atomic import write_text
from . import distributed
from .minibatches import Minibatches
from .state import TrainingState

Callback = Callable[[Mapping[str, float]], object]
"""Receives one record of the history whenever one is made."""


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
        rank = distributed.rank()
        name = f"training-{rank}.safetensors" if rank else "training.safetensors"
        return None if self.folder is None else self.folder / name

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
            with self.metrics_file.open("a", encoding="utf-8") as file:
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
            ValueError: the checkpoint belongs to another model, guide, batch size or number of
                processes.
        """
        path = self.checkpoint_file
        if path is None or not path.is_file():
            return 0
        found = checkpoint.load(path)
        tensors, config = found.tensors, found.config
        plan = tensors["batches.plan"]
        if config.get("ranks") != distributed.world_size() or plan.shape[1] != batches.size:
            raise ValueError(
                f"`resume`: `{path}` was written by {config.get('ranks')} process(es) with "
                f"batches of {plan.shape[1]}, now there are {distributed.world_size()} and "
                f"{batches.size}. Use the settings of the first run, or another `folder`."
            )
        training.load_saved(tensors, config)
        batches.plan = plan
        torch.set_rng_state(tensors["random.cpu"])
        device = batches.series.y.device
        if device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"], device)
        return int(config["step"])


def _line(record: Mapping[str, float]) -> str:
    plain: dict[str, Any] = {k: v if math.isfinite(v) else None for k, v in record.items()}
    return json.dumps(plain, allow_nan=False) + "\n"
