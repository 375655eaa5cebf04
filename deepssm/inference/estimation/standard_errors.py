"""Standard errors from the curvature of a log-likelihood, and what it says about bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.distributions import constraints

from .objective import Free, Objective, Vector

_DECADES = 6 * np.log(10.0)

Matrix = np.ndarray[Any, np.dtype[np.float64]]


def hessian(objective: Objective, at: Vector, step: float = 1e-4) -> Matrix:
    """Return the Hessian of the summed negative log-density, by differences of exact gradients.

    Args:
        objective: What was minimised.
        at: The optimum, unconstrained.
        step: Central difference step, in unconstrained units.
    """
    columns = []
    for i in range(len(at)):
        shift = np.zeros_like(at)
        shift[i] = step * max(1.0, abs(at[i]))
        _, above = objective.gradient(at + shift)
        _, below = objective.gradient(at - shift)
        columns.append((above - below) / (2 * shift[i]))
    matrix = objective.count * np.array(columns).reshape(len(at), len(at))
    return (matrix + matrix.T) / 2


def newton_polish(
    objective: Objective, stuck: list[tuple[str, int, str]] | None = None, steps: int = 3
) -> Matrix:
    """Take Newton steps from the best point while they help; return the Hessian at the end.

    Args:
        objective: What was minimised.
        stuck: Entries at a bound, from `at_bounds`, which stay there.
        steps: At most.
    """
    loose = objective.active()
    for i in positions(objective, stuck or []):
        loose[i] = False
    curvature = hessian(objective, objective.best[0])
    for _ in range(steps):
        at, before = objective.best
        _, slope = objective.gradient(at)
        # What has no curvature is not identified and must not keep the others from their place.
        used = loose & (np.diagonal(curvature) > 0)
        block = curvature[np.ix_(used, used)]
        if np.abs(slope).max(initial=0.0) < 1e-9 or not _positive_definite(block):
            break
        move = np.zeros_like(at)
        move[used] = np.linalg.solve(block, objective.count * slope[used])
        objective.guarded(at - move)
        if objective.best[1] >= before:
            break
        curvature = hessian(objective, objective.best[0])
    return curvature


def positions(objective: Objective, stuck: list[tuple[str, int, str]]) -> list[int]:
    """Return where in the vector entries at a bound stand."""
    sizes = [free.tensor.numel() for free in objective.free]
    offsets = dict(zip([f.name for f in objective.free], np.cumsum([0, *sizes]), strict=False))
    return [int(offsets[name]) + i for name, i, _ in stuck]


def outer_products(objective: Objective, at: Vector, step: float = 1e-5) -> Matrix:
    """Return the sum over steps and series of the outer products of their scores.

    It estimates the same matrix as the Hessian of a right model, and is never indefinite. Scores
    are central differences of each step's log-likelihood; a prior has none.

    Args:
        objective: What was minimised.
        at: The optimum, unconstrained.
        step: Of the differences, in unconstrained units.

    Source: Berndt, Hall, Hall & Hausman (1974), Annals of Economic and Social Measurement 3.
    """
    columns = []
    for i in range(len(at)):
        shift = np.zeros_like(at)
        shift[i] = step * max(1.0, abs(at[i]))
        above, below = (objective.steps(at + sign * shift) for sign in (1.0, -1.0))
        columns.append((above - below) / (2 * shift[i]))
    scores = np.array(columns).reshape(len(at), -1)
    return scores @ scores.T


def at_bounds(objective: Objective) -> list[tuple[str, int, str]]:
    """Find parameters that the data push to a bound: name, entry and which bound.

    A positive parameter sits at 0 when 1e-6 of it fits the data as well, to 1e-4 nats, and some
    multiple of it does not; one in an interval sits at an end when it is within 1e-5 of the
    interval's width and the middle does not fit as well.
    """
    at, value = objective.best
    found, start = [], 0
    for free in objective.free:
        for i in range(free.tensor.numel()):
            bound = _bound(objective, free, at, start + i, value)
            if bound:
                found.append((free.name, i, bound))
        start += free.tensor.numel()
    return found


def _positive_definite(matrix: Matrix) -> bool:
    if not np.isfinite(matrix).all() or not len(matrix):
        return False
    return bool(np.linalg.eigvalsh(matrix)[0] > 0)


def _bound(objective: Objective, free: Free, at: Vector, i: int, value: float) -> str:
    def same(x: float) -> bool:
        moved = at.copy()
        moved[i] = x
        return abs(objective.value(moved) - objective.count * value) < 1e-4

    # What fits as well far inside too says nothing of a bound: the data do not identify it.
    if free.positive:
        low = same(at[i] - _DECADES)
        return "0" if low and not all(same(at[i] + k * _DECADES) for k in range(1, 7)) else ""
    if isinstance(free.constraint, constraints.interval) and abs(at[i]) > -np.log(1e-5):
        end = "upper_bound" if at[i] > 0 else "lower_bound"
        return "" if same(0.0) else f"{float(getattr(free.constraint, end)):g}"
    return ""
