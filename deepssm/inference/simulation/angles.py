"""Differences and averages of vectors some of whose components are angles."""

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


def is_angular(wrap: Wrap, like: Tensor) -> Tensor:
    """Return which components are angles, `(size,)`: those in which a whole turn is nothing.

    Args:
        wrap: Shortens differences.
        like: Anything of these components, `(*axes, size)`.
    """
    turn = torch.full((like.shape[-1],), 2 * math.pi, dtype=like.dtype, device=like.device)
    return wrap(turn).abs() < 1


def average(values: Tensor, wrap: Wrap, weights: Tensor | None = None) -> Tensor:
    """Return the mean over the first axis; angles are averaged about their mean direction.

    That is `m + sum w wrap(x - m)` with `m` the angle of `sum w exp(i x)`, which no order of the
    values and no choice of one of them changes.

    Args:
        values: `(count, *axes, size)`.
        wrap: Shortens differences.
        weights: `(count, *axes)`, summing to one over the first axis; equal ones if `None`.

    Source: Mardia & Jupp (2000), Directional Statistics, section 2.2, for the mean direction.
    """

    def mean(x: Tensor) -> Tensor:
        return x.mean(0) if weights is None else (weights[..., None] * x).sum(0)

    if wrap is identity:
        return mean(values)
    direction = torch.atan2(mean(values.sin()), mean(values.cos()))
    # On the turn of the values, so that a path of angles that grow goes on growing.
    plain = mean(values)
    centre = torch.where(is_angular(wrap, values), plain + wrap(direction - plain), plain)
    return centre + mean(wrap(values - centre))
