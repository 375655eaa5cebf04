"""One observation at a time: the filter as an object that predicts and updates."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ...core.model import StateSpaceModel
from .state import Reading


class OnlineFilter(Protocol):
    """A running filter. `update` conditions on an observation, `predict` moves one step.

    It starts at `p(z_1)`: the first call is `update`, then `predict` and `update` alternate.
    A run over a series equals the batch filter.
    """

    @property
    def log_likelihood(self) -> float:
        """Sum of the log-densities of the readings so far, in nats."""
        ...

    def predict(self, dt: float | None = None, u: Reading | None = None) -> None:
        """Move the state one step; `dt` and `u` are those of the arriving step."""
        ...

    def update(self, y: Reading, u: Reading | None = None) -> float:
        """Condition on one observation, `(obs,)`, NaN where missing; return its log-density."""
        ...

    @property
    def mean(self) -> Tensor:
        """Mean of the current state, `(state,)`."""
        ...

    @property
    def cov(self) -> Tensor:
        """Covariance of the current state, `(state, state)`."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything needed to go on later, as tensors."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` returned."""
        ...


class Around:
    """What a running filter put around another passes on: its state, and its likelihood.

    Args:
        inner: The other, at its start.
    """

    def __init__(self, inner: OnlineFilter) -> None:
        self.inner = inner

    @property
    def mean(self) -> Tensor:
        """Mean of the current state, `(state,)`."""
        return self.inner.mean

    @property
    def cov(self) -> Tensor:
        """Covariance of the current state, `(state, state)`."""
        return self.inner.cov

    @property
    def log_likelihood(self) -> float:
        """Sum of the log-densities of the readings so far, in nats."""
        return self.inner.log_likelihood


@runtime_checkable
class OnlineMethod(Protocol):
    """A method that can run one step at a time."""

    def online(self, model: StateSpaceModel) -> OnlineFilter:
        """Return a filter at the model's start."""
        ...


def checked_reading(model: StateSpaceModel, y: Reading, like: Tensor) -> Tensor:
    """Return one reading on the model's dtype and device, `(obs,)`.

    Raises:
        ValueError: it has the wrong size or is infinite.
    """
    try:
        reading = torch.as_tensor(y, dtype=like.dtype, device=like.device).reshape(-1)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`y` must hold numbers or NaN, got {y!r}.") from error
    if reading.numel() != model.obs_dim or bool(torch.isinf(reading).any()):
        raise ValueError(
            f"`y` must hold {model.obs_dim} finite number(s) or NaN, got {reading.tolist()}."
        )
    return reading
