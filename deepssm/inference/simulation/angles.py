"""Differences of vectors some of whose components are angles."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

Wrap: TypeAlias = Callable[[Tensor], Tensor]
"""Brings a difference, `(*axes, size)`, to its shortest form; identity but for angles."""


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
