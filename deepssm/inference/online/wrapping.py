"""One observation at a time: the filter as an object that predicts and updates."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.methods import OnlineFilter
from ...core.model import Data, StateSpaceModel
from .state import as_numbers


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
        """Sum of the log-densities of the observations so far, in nats."""
        return self.inner.log_likelihood


def checked_observation(model: StateSpaceModel, y: Data, like: Tensor) -> Tensor:
    """Return one observation on the model's dtype and device, `(obs,)`.

    Raises:
        ValueError: it has the wrong size or is infinite.
    """
    observation = as_numbers(y, like, "y").reshape(-1)
    if observation.numel() != model.obs_dim or bool(torch.isinf(observation).any()):
        raise ValueError(
            f"`y` must hold {model.obs_dim} finite number(s) or NaN, got {observation.tolist()}."
        )
    return observation
