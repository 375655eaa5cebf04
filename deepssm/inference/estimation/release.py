"""Leaving points where a slope vanishes only because of how a parameter is held.

A variance is held as its logarithm, so near 0 the slope of the likelihood in the logarithm is the
slope in the variance times the variance: it vanishes although the variance wants to grow. The
same holds at the ends of an interval. Every search therefore ends with a look further inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from .objective import Free, Objective, Vector

# Factors of 100 in a variance between trials, and how many; a search that ran off to less than
# `exp(_LEAST)` is looked for from there on.
_STRIDE, _TRIALS, _LEAST = math.log(100.0), 26, -100.0
# Beyond this, an entry of an interval is within a thousandth of its ends.
_NEAR_END, _INSIDE = 7.0, (4.0, 2.0, 0.0)

Move = Callable[[Tensor], Tensor]


def kinds_of(free: Free) -> Tensor:
    """Say how each entry of a flat unconstrained tensor meets a bound.

    Returns:
        1 where it is the logarithm of something positive, 3 where of the root of a variance, 2 in
        an interval, else 0.
    """
    kind, shape = free.constraint, free.tensor.shape
    while isinstance(kind, constraints.independent):
        kind = kind.base_constraint
    if isinstance(kind, constraints.greater_than | type(constraints.nonnegative)):
        return torch.ones(free.tensor.numel(), dtype=torch.long)
    if isinstance(kind, constraints.interval):
        return torch.full((free.tensor.numel(),), 2)
    if isinstance(kind, _CHOLESKY) and free.tensor.ndim >= 2:
        return 3 * torch.eye(*shape[-2:], dtype=torch.long).expand(shape).reshape(-1)
    return torch.zeros(free.tensor.numel(), dtype=torch.long)


def trials(at: Tensor, kind: int) -> list[Tensor]:
    """Return places further inside, one after the other, from where an entry is, `(*series,)`.

    Args:
        at: The unconstrained entry.
        kind: From `kinds_of`.
    """
    if kind in (1, 3):
        stride = _STRIDE if kind == 1 else _STRIDE / 2
        return [at.clamp_min(_LEAST) + k * stride for k in range(1, _TRIALS + 1)]
    if kind == 2:
        return [torch.where(at.abs() > _NEAR_END, at.sign() * x, at) for x in _INSIDE]
    return []


def released(
    at: Tensor,
    value: Tensor,
    kinds: Tensor,
    score: Callable[[Tensor], Tensor],
    gain: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    """Move entries off their bounds where the log-likelihood is higher further inside.

    Args:
        at: Unconstrained parameters, `(*series, parameters)`.
        value: The negative log-likelihood there, `(*series,)`, in nats.
        kinds: From `kinds_of`, `(parameters,)`.
        score: The negative log-likelihood at other parameters.
        gain: Least gain in nats that is worth another search.

    Returns:
        Where to search next, and which series have gained.
    """
    moved = torch.zeros_like(value, dtype=torch.bool)
    for i in kinds.nonzero().flatten().tolist():
        best, lowest, before = at, value, value
        going = torch.ones_like(moved)
        for place in trials(at[..., i], int(kinds[i])):
            trial = at.clone()
            trial[..., i] = torch.where(going, place, at[..., i])
            now = torch.where(going, score(trial), torch.inf).nan_to_num(torch.inf)
            better = now < torch.minimum(lowest, value - gain)
            best = torch.where(better[..., None], trial, best)
            lowest = torch.where(better, now, lowest)
            # Downhill in likelihood: along one variance it does not turn up again.
            going = going & (now <= before + 1e-9 * (1.0 + before.abs()))
            before = torch.where(going, now, before)
            if not bool(going.any()):
                break
        moved = moved | (lowest < value)
        at, value = best, lowest
    return at, moved


def inside(objective: Objective) -> Vector | None:
    """Return a better point further from the bounds than the best so far, if there is one.

    The model is left at the best so far.
    """
    kinds = [kinds_of(free) for free in objective.free]
    if not kinds:
        return None
    at = torch.from_numpy(np.array(objective.best[0]))
    value = torch.tensor(objective.value(objective.best[0]), dtype=torch.float64)

    def score(x: Tensor) -> Tensor:
        return torch.tensor(objective.value(x.numpy()), dtype=torch.float64)

    moved, gained = released(at, value, torch.cat(kinds), score)
    objective.assign(objective.best[0])
    return moved.numpy() if bool(gained) else None


_CHOLESKY = (
    type(constraints.lower_cholesky),
    type(constraints.positive_definite),
    type(constraints.positive_semidefinite),
)
