"""The state of a training run: history, best weights, last good state, rescues."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.arguments import checked
from ...core.model import Series
from ...io.run_schema import damaged


@checked
class TrainingState:
    """Remembers the best and the last good weights of what is trained.

    Args:
        modules: Everything whose state matters.
        optimizer: Its state goes with the weights.
        averaging: Share of the running average of the weights that outlasts a step; 0 for none.
    """

    def __init__(
        self, modules: nn.Module, optimizer: torch.optim.Optimizer, averaging: float = 0.0
    ) -> None:
        self.modules, self.optimizer, self.averaging = modules, optimizer, averaging
        self.average = copy.deepcopy(modules.state_dict()) if averaging else {}
        self.history: list[dict[str, float]] = []
        self.warnings: list[str] = []
        self.best: dict[str, float] = {"elbo": -math.inf, "divergence": math.nan}
        self.since_best, self.rescues, self.caution = 0, 0, 1.0
        self.best_state = self.good_state = copy.deepcopy(modules.state_dict())
        self.good_optimizer = copy.deepcopy(optimizer.state_dict())

    @property
    def num_parameters(self) -> int:
        """Number of learnt numbers."""
        return sum(p.numel() for p in self.modules.parameters() if p.requires_grad)

    def update(self, step: int) -> None:
        """Take the optimiser's step, the `step`-th, and move the average of the weights."""
        self.optimizer.step()
        if self.average:
            # An average over no more than the steps there were, so that the start is forgotten.
            share = 1 - min(self.averaging, (1 + step) / (10 + step))
            for name, now in self.modules.state_dict().items():
                if now.is_floating_point():
                    self.average[name].lerp_(now, share)
                else:
                    self.average[name].copy_(now)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the average of the weights, where there is one, in place for the block."""
        if not self.average:
            yield
            return
        now = copy.deepcopy(self.modules.state_dict())
        self.modules.load_state_dict(self.average)
        try:
            yield
        finally:
            self.modules.load_state_dict(now)

    def report(self, step: int, record: dict[str, float]) -> None:
        """Add a record to the history, and copy the weights where they are the best so far."""
        score = record.get("bound", record["elbo"])
        self.history.append({"step": float(step), "objective": score, **record})
        if not math.isfinite(score):
            return
        self.good_state = copy.deepcopy(self.modules.state_dict())
        self.good_optimizer = copy.deepcopy(self.optimizer.state_dict())
        self.since_best += 1
        if score > self.best.get("bound", self.best["elbo"]):
            self.best, self.since_best, self.best_state = record, 0, self.good_state

    def rescue(self, step: int, where: str, batch: Series, most: int) -> None:
        """Go back to the last good weights at half the learning rate.

        Args:
            step: The gradient step.
            where: What was not finite.
            batch: Its data.
            most: Rescues allowed.

        Raises:
            FloatingPointError: it was done `most` times already.
        """
        if self.rescues >= most:
            self.restore_best()
            largest = float(torch.nan_to_num(batch.y).abs().max())
            raise FloatingPointError(
                f"The loss became non-finite at step {step}, in {where}, and had done so "
                f"{most} times before. The best weights are restored. Try a lower "
                f"`learning_rate` or `clip`, or look for outliers in `y`: largest {largest:.3g}."
            )
        self.rescues += 1
        self.caution *= 0.5
        self.modules.load_state_dict(self.good_state)
        if self.average:
            self.average = copy.deepcopy(self.good_state)
        self.optimizer.load_state_dict(copy.deepcopy(self.good_optimizer))
        self.warnings.append(
            f"Step {step}: the loss became non-finite in {where}; training went back to the "
            "last good weights at half the learning rate."
        )

    def restore_best(self) -> None:
        """Put the best weights in place."""
        self.modules.load_state_dict(self.best_state)

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return everything as named tensors and plain data, for a checkpoint."""
        states = {"now": self.modules.state_dict(), "good": self.good_state}
        if self.best_state is not self.good_state:
            states["best"] = self.best_state
        if self.average:
            states["average"] = self.average
        tensors = {f"{k}.{name}": x for k, state in states.items() for name, x in state.items()}
        optimizers = {
            "optimizer": self.optimizer.state_dict(),
            "good_optimizer": self.good_optimizer,
        }
        for prefix, state in optimizers.items():
            for index, moments in state["state"].items():
                tensors |= {f"{prefix}.{index}.{name}": x for name, x in moments.items()}
        config = {
            "history": [_plain(record) for record in self.history],
            "best": _plain(self.best),
            "warnings": self.warnings,
            "counts": [self.since_best, self.rescues],
            "caution": self.caution,
            "moments": {name: sorted(state["state"]) for name, state in optimizers.items()},
        }
        return tensors, config

    def load_saved(
        self, tensors: Mapping[str, Tensor], config: Mapping[str, Any], path: str | Path = "?"
    ) -> None:
        """Go back to what `saved` returned.

        Args:
            tensors: Named numbers.
            config: Plain data that fit the schema `TRAINING`.
            path: Where they come from, for errors.

        Raises:
            ValueError: it is not whole, or belongs to another model or guide; nothing changed.
        """
        own = self.modules.state_dict()
        found = {name: tensors.get(f"now.{name}") for name in own}
        wrong = [n for n, x in found.items() if x is None or x.shape != own[n].shape]
        if wrong:
            raise ValueError(
                f"`resume`: the checkpoint holds another model or guide; {wrong[0]} is the first "
                "of its parameters that does not fit. Build both as in the first run."
            )
        has_best = any(name.startswith("best.") for name in tensors)
        parts = ["now", "good", *(["best"] * has_best), *(["average"] * bool(self.average))]
        states = {part: _like(own, tensors, part, path) for part in parts}
        groups = self.optimizer.state_dict()["param_groups"]
        optimizers = {
            name: _optimizer(tensors, name, groups) for name in ("optimizer", "good_optimizer")
        }
        free = [p for group in self.optimizer.param_groups for p in group["params"]]
        for name, found_state in optimizers.items():
            check_moments(found_state["state"], config["moments"].get(name), free, name, path)
        if config["step"] and not config["moments"]["optimizer"]:
            raise damaged(path, "it lacks the state of its optimiser")
        self.good_state = states["good"]
        self.best_state = states.get("best", self.good_state)
        self.average = states.get("average", {})
        self.modules.load_state_dict(states["now"])
        self.optimizer.load_state_dict(optimizers["optimizer"])
        self.good_optimizer = optimizers["good_optimizer"]
        self.history = [_floats(record) for record in config["history"]]
        self.best, self.warnings = _floats(config["best"]), list(config["warnings"])
        self.since_best, self.rescues = config["counts"]
        self.caution = config["caution"]


def _like(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], prefix: str, path: str | Path
) -> dict[str, Any]:
    for name, x in own.items():
        found = tensors.get(f"{prefix}.{name}")
        if found is None or found.shape != x.shape or found.dtype != x.dtype:
            raise damaged(path, f"'{prefix}.{name}' is missing, or of another size or type")
    return {name: tensors[f"{prefix}.{name}"].to(x.device) for name, x in own.items()}


def check_moments(
    state: Mapping[int, Mapping[str, Tensor]],
    told: list[int] | None,
    free: list[Tensor],
    name: str,
    path: str | Path,
) -> None:
    """Check an optimiser's state: one entry for each parameter that it says it has moved.

    Args:
        state: What the file holds, by the number of the parameter.
        told: The numbers that the file says it holds.
        free: The parameters themselves.
        name: What the file calls the optimiser.
        path: The file.

    Raises:
        ValueError: an entry is missing, of another size, or of no parameter.
    """
    if told is None or sorted(state) != told:
        raise damaged(path, f"it lacks a part of '{name}', the state of its optimiser")
    for index, moments in state.items():
        if index >= len(free):
            raise damaged(path, f"'{name}' has a parameter {index}, of {len(free)}")
        shape = free[index].shape
        good = set(moments) == {"step", "exp_avg", "exp_avg_sq"} and all(
            x.is_floating_point() and x.shape == (() if key == "step" else shape)
            for key, x in moments.items()
        )
        if not good or not bool((moments["exp_avg_sq"] >= 0).all() and moments["step"] >= 0):
            raise damaged(path, f"'{name}.{index}' does not fit its parameter")


def _optimizer(tensors: Mapping[str, Tensor], prefix: str, groups: object) -> dict[str, Any]:
    """Return an optimiser's state dictionary from the tensors called `prefix.index.name`."""
    state: dict[int, dict[str, Tensor]] = {}
    for full, tensor in tensors.items():
        head, _, rest = full.partition(".")
        index, _, name = rest.partition(".")
        if head == prefix and index.isdigit():
            state.setdefault(int(index), {})[name] = tensor
    return {"state": state, "param_groups": groups}


def _plain(record: Mapping[str, float]) -> dict[str, Any]:
    return {name: str(x) if not math.isfinite(x) else x for name, x in record.items()}


def _floats(record: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(x) for name, x in record.items()}


def check_finite(*values: Tensor) -> bool:
    """Return whether all values are finite."""
    return all(bool(torch.isfinite(value).all()) for value in values)


def best_line(record: dict[str, float], best: dict[str, float]) -> str:
    """Return one line of progress."""
    return (
        f"elbo {record['elbo']:.3f} (best {best['elbo']:.3f}) "
        f"kl {record['divergence']:.3f} rec {record['reconstruction']:.3f} nats/step"
    )
