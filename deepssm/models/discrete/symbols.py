"""Symbols without an order as numbers, so that they are a vector of one component."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, constraints

from ...core.deprecation import renamed_class


class SymbolDistribution(Distribution):
    """A categorical distribution over numbers, as a vector of one component.

    Args:
        logits: `(*axes, categories)`.
    """

    # torch declares a property and its own distributions set a plain dict, as here.
    arg_constraints: dict[str, constraints.Constraint] = {}  # pyright: ignore[reportIncompatibleMethodOverride]

    def __init__(self, logits: Tensor) -> None:
        self.base = Categorical(logits=logits, validate_args=False)
        super().__init__(self.base.batch_shape, torch.Size((1,)), validate_args=False)

    @property
    def mean(self) -> Tensor:
        """Mean of the number; symbols without an order have none that means anything."""
        return (self.base.probs * self._values()).sum(-1, keepdim=True)

    @property
    def variance(self) -> Tensor:
        """Variance of the number."""
        gap = self._values() - self.mean
        return (self.base.probs * gap.square()).sum(-1, keepdim=True)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw numbers, `(*sample_shape, *axes, 1)`."""
        return self.base.sample(torch.Size(sample_shape))[..., None].to(self.base.probs.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log-probabilities, `(*axes)`."""
        return self.base.log_prob(value[..., 0])

    def _values(self) -> Tensor:
        probs = self.base.probs
        return torch.arange(probs.shape[-1], dtype=probs.dtype, device=probs.device)


SymbolLaw = renamed_class("SymbolLaw", SymbolDistribution)
