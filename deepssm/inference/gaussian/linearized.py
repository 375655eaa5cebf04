"""A Gaussian pushed through a conditional distribution: the contract of every rule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
)

Conditional = Callable[[Tensor], Distribution]


Wrap = Callable[[Tensor], Tensor]


class Linearized(NamedTuple):
    """`x = mean + slope e + spread n`, with `e` and `n` independent and standard normal.

    Attributes:
        mean: `E[x]`, `(*batch, out)`.
        slope: `Cov(x, e)`, `(*batch, out, state)`: the Jacobian times the factor of `z`.
        spread: Factor of what `e` does not explain, noise included, `(*batch, out, k)`.
    """

    mean: Tensor
    slope: Tensor
    spread: Tensor


class Moments(Protocol):
    """Pushes `N(mean, factor factor')` through a conditional distribution."""

    def __call__(
        self, conditional: Conditional, mean: Tensor, factor: Tensor, wrap: Wrap
    ) -> Linearized:
        """Linearise.

        Args:
            conditional: Maps `z`, `(points, *batch, state)`, to `p(x | z)`.
            mean: `(*batch, state)`.
            factor: `(*batch, state, state)`.
            wrap: Brings differences of `x` to their shortest form; identity but for angles.
        """
        ...


def identity(difference: Tensor) -> Tensor:
    """Return the difference unchanged: no component is an angle."""
    return difference


def circular(components: tuple[int, ...], size: int) -> Wrap:
    """Return the map that brings angular components of a difference to `[-pi, pi)`.

    Args:
        components: Which components are angles, in radians.
        size: How many components there are.
    """
    if not components:
        return identity
    angular = torch.zeros(size, dtype=torch.bool)
    angular[list(components)] = True

    def wrap(difference: Tensor) -> Tensor:
        turned = torch.remainder(difference + math.pi, 2 * math.pi) - math.pi
        return torch.where(angular.to(difference.device), turned, difference)

    return wrap
