"""Counts and binary numbers whose rate or probability may be exactly 0, or 1.

torch's own distributions give NaN there, as a value or as a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn import functional


class CountDistribution(dist.Poisson):
    """A Poisson distribution by the logarithm of its rate, which may be `-inf`.

    Args:
        log_rate: `(*axes)`.
    """

    def __init__(self, log_rate: Tensor) -> None:
        self.log_rate = log_rate
        super().__init__(log_rate.exp(), validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> CountDistribution:
        """Return the same distribution with more leading axes."""
        return CountDistribution(self.log_rate.expand(torch.Size(batch_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log-probabilities, with `0 log 0 = 0`."""
        terms = value * torch.where(value > 0, self.log_rate, 0.0)
        return terms - self.rate - torch.lgamma(value + 1)


class BinaryDistribution(dist.Bernoulli):  # pyright: ignore[reportUntypedBaseClass]
    """A Bernoulli distribution by its logit, which may be infinite.

    Args:
        logits: `(*axes)`.
    """

    def __init__(self, logits: Tensor) -> None:
        super().__init__(logits=logits, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> BinaryDistribution:
        """Return the same distribution with more leading axes."""
        return BinaryDistribution(self.logits.expand(torch.Size(batch_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log-probabilities, with `0 log 0 = 0`."""
        return functional.logsigmoid(torch.where(value > 0, self.logits, -self.logits))
