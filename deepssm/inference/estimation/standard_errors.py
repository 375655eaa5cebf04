"""Standard errors from the curvature of a log-likelihood, and what it says about bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from .objective import Free, Objective, Vector

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


def newton_polish(objective: Objective, steps: int = 3) -> Matrix:
    """Take Newton steps from the best point while they help; return the Hessian at the end."""
    curvature = hessian(objective, objective.best[0])
    for _ in range(steps):
        at, before = objective.best
        _, slope = objective.gradient(at)
        active = objective.active()
        block = curvature[np.ix_(active, active)]
        if np.abs(slope).max(initial=0.0) < 1e-9 or not _positive_definite(block):
            break
        move = np.zeros_like(at)
        move[active] = np.linalg.solve(block, objective.count * slope[active])
        objective.guarded(at - move)
        if objective.best[1] >= before:
            break
        curvature = hessian(objective, objective.best[0])
    return curvature


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

    A positive parameter sits at 0 when 1e-6 of it fits the data as well, to 1e-4 nats; one in an
    interval sits at an end when it is within 1e-5 of the interval's width.
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


def standard_errors(
    objective: Objective,
    curvature: Matrix,
    stuck: list[tuple[str, int, str]],
    scores: Matrix | None = None,
) -> dict[str, Tensor]:
    """Return delta-method standard errors of the constrained parameters, NaN for stuck ones.

    `Cov = J H^-1 J'` with `H` the Hessian over the unconstrained parameters that are not stuck and
    `J` the derivative of the constraints' maps; with `scores`, `Cov = J H^-1 S H^-1 J'`, right
    where the model is wrong.

    Args:
        objective: What was minimised.
        curvature: The Hessian, or the outer products in its place.
        stuck: From `at_bounds`.
        scores: `S`, from `outer_products`.

    Source: Oehlert (1992), The American Statistician 46, 27-29; White (1982), Econometrica 50.
    """
    objective.assign(objective.best[0])
    sizes = [free.tensor.numel() for free in objective.free]
    offsets = dict(zip([f.name for f in objective.free], np.cumsum([0, *sizes]), strict=False))
    loose = objective.active()
    for name, i, _ in stuck:
        loose[offsets[name] + i] = False
    cov = np.full_like(curvature, np.nan)
    block = curvature[np.ix_(loose, loose)]
    if _positive_definite(block):
        inverse = np.linalg.inv(block)
        inner = inverse if scores is None else inverse @ scores[np.ix_(loose, loose)] @ inverse
        cov[np.ix_(loose, loose)] = inner
    result = {}
    for free, size in zip(objective.free, sizes, strict=True):
        rows = slice(offsets[free.name], offsets[free.name] + size)
        result[free.name] = _delta_method(free, cov[rows, rows])
    return result


def _delta_method(free: Free, cov: Matrix) -> Tensor:
    J = free.jacobian().cpu()
    # A stuck entry must not spoil the others: 0 * NaN is NaN.
    used = torch.where(J[:, :, None] * J[:, None, :] != 0, torch.from_numpy(cov), 0.0)
    variance = (J[:, :, None] * used * J[:, None, :]).sum((1, 2))
    return variance.sqrt().reshape(free.constrained(free.tensor.detach()).shape)


def _positive_definite(matrix: Matrix) -> bool:
    if not np.isfinite(matrix).all() or not len(matrix):
        return False
    return bool(np.linalg.eigvalsh(matrix)[0] > 0)


def _bound(objective: Objective, free: Free, at: Vector, i: int, value: float) -> str:
    if free.positive:
        moved = at.copy()
        moved[i] += np.log(1e-6)
        lower, _ = objective.guarded(moved)
        return "0" if objective.count * (lower - value) < 1e-4 else ""
    if isinstance(free.constraint, constraints.interval) and abs(at[i]) > -np.log(1e-5):
        end = "upper_bound" if at[i] > 0 else "lower_bound"
        return f"{float(getattr(free.constraint, end)):g}"
    return ""
