"""What a compiled loop needs to know of a rule: its points, or that it linearises."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from torch import Tensor

TAYLOR, WEIGHTED, UNSCENTED = 0, 1, 2


class Rule(NamedTuple):
    """A rule for one size of the state.

    Attributes:
        kind: `TAYLOR`, `WEIGHTED` or `UNSCENTED`.
        points: In whitened coordinates, `(points, state)`; none for `TAYLOR`.
        weights: Of the points; for `UNSCENTED` those of the averaged noise, the centre first.
        square: `c^2` of the unscented rule.
        part: How much of the mean's shift is taken from each even difference.
    """

    kind: int
    points: np.ndarray
    weights: np.ndarray
    square: float = 0.0
    part: float = 0.0


def taylor_rule(state_dim: int) -> Rule:
    """Return the rule that linearises by the Jacobian at the mean."""
    return Rule(TAYLOR, np.zeros((0, state_dim)), np.zeros(0))


def weighted_rule(points: Tensor, weights: Tensor) -> Rule:
    """Return a rule by points of positive weight; see `rules.weighted`."""
    return Rule(WEIGHTED, points.numpy(), weights.numpy())


def unscented_rule(state_dim: int, alpha: float, beta: float, kappa: float) -> Rule | None:
    """Return the unscented rule, `None` where its covariance is a difference; see `rules`."""
    n = state_dim
    square, excess = alpha**2 * (n + kappa), beta - alpha**2
    ratio = n / square
    if 1 + excess * ratio <= -1e-9:
        return None
    eye = math.sqrt(square) * np.eye(n)
    weights = np.full(2 * n + 1, 0.5 / square)
    weights[0] = 1 - ratio
    part = (1 - math.sqrt(max(1 + excess * ratio, 0.0))) / ratio
    return Rule(UNSCENTED, np.concatenate((0 * eye[:1], eye, -eye)), weights, square, part)
