"""What a training run keeps: history, best weights, last good state, rescues."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from ..base import Series


class Keeper:
    """Remembers the best and the last good weights of what is trained.

    Args:
        modules: Everything whose state matters.
        optimizer: Its state goes with the weights.
    """

    def __init__(self, modules: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.modules, self.optimizer = modules, optimizer
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

    def report(self, step: int, record: dict[str, float]) -> None:
        """Add a record to the history, and keep the weights where they are the best so far."""
        self.history.append({"step": float(step), "objective": record["elbo"], **record})
        if not math.isfinite(record["elbo"]):
            return
        self.good_state = copy.deepcopy(self.modules.state_dict())
        self.good_optimizer = copy.deepcopy(self.optimizer.state_dict())
        self.since_best += 1
        if record["elbo"] > self.best["elbo"]:
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
        self.optimizer.load_state_dict(copy.deepcopy(self.good_optimizer))
        self.warnings.append(
            f"Step {step}: the loss became non-finite in {where}; training went back to the "
            "last good weights at half the learning rate."
        )

    def restore_best(self) -> None:
        """Put the best weights in place."""
        self.modules.load_state_dict(self.best_state)


def check_finite(*values: Tensor) -> bool:
    """Return whether all values are finite."""
    return all(bool(torch.isfinite(value).all()) for value in values)


def best_line(record: dict[str, float], best: dict[str, float]) -> str:
    """Return one line of progress."""
    return (
        f"elbo {record['elbo']:.3f} (best {best['elbo']:.3f}) "
        f"kl {record['divergence']:.3f} rec {record['reconstruction']:.3f} nats/step"
    )
