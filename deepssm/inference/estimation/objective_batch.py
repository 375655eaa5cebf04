"""Many series with parameters of their own: one batch, climbed by all at their own pace.

The likelihood is a product over series, so every evaluation of the batch is one trial for each of
them, curvature is a small matrix a series, and nothing grows with the square of their number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import constraints, transform_to

from .information import Innovations, information_of, innovations
from .objective import Free, Objective
from .release import kinds_of, released

# A move this long, in unconstrained units, is no longer guided by the slope where it began.
_LONGEST = 3.0

# A series that gains fewer nats than this so many times in a row is left.
_LITTLE, _PATIENCE = 1e-5, 10


class Climbed(NamedTuple):
    """Where the series stand.

    Attributes:
        x: Unconstrained parameters, `(series, parameters)`.
        value: Negative log-likelihood per observed value, `(series,)`.
        slope: Its gradient, `(series, parameters)`.
    """

    x: Tensor
    value: Tensor
    slope: Tensor


class SeriesObjective:
    """An objective that is a sum over series, one row of parameters each.

    Args:
        objective: One for which `separable` is true.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        y = objective.series.y
        self.size = y.shape[:-2].numel()
        self.counts = (~y.isnan()).reshape(self.size, -1).sum(-1).clamp_min(1).double().cpu()

    def vector(self) -> Tensor:
        """Return the present parameters, `(series, parameters)`."""
        parts = [f.tensor.detach().reshape(self.size, -1) for f in self.objective.free]
        return torch.cat(parts, -1).double().cpu()

    def assign(self, x: Tensor) -> None:
        """Move the model."""
        widths = [f.tensor.numel() // self.size for f in self.objective.free]
        with torch.no_grad():
            for free, part in zip(self.objective.free, x.split(widths, -1), strict=True):
                free.tensor.copy_(part.reshape(free.tensor.shape))

    def steps(self, x: Tensor) -> Tensor:
        """Return the log-likelihood of every step, `(series, time)`, NaN where it has none."""
        self.assign(x)
        self.objective.evaluations += 1
        try:
            model, series = self.objective.model, self.objective.series
            return self.objective.inference.log_likelihood(model, series).reshape(self.size, -1)
        except (ValueError, ArithmeticError, RuntimeError):
            return torch.full((self.size, 1), torch.nan)

    def value(self, x: Tensor) -> Tensor:
        """Return the negative log-likelihood per observed value, infinite where it has none."""
        with torch.no_grad():
            return self._finite(-self.steps(x).sum(-1).double().cpu() / self.counts)

    def climbed(self, x: Tensor) -> Climbed:
        """Return value and gradient."""
        with torch.enable_grad():
            total = -self.steps(x).sum(-1)
        tensors = [free.tensor for free in self.objective.free]
        if not total.requires_grad:
            return Climbed(x, torch.full_like(self.counts, torch.inf), torch.zeros_like(x))
        slopes = torch.autograd.grad(total.sum(), tensors)
        slope = torch.cat([s.reshape(self.size, -1) for s in slopes], -1).double().cpu()
        value = self._finite(total.detach().double().cpu() / self.counts)
        value = torch.where(slope.isfinite().all(-1), value, torch.inf)
        return Climbed(x, value, slope.nan_to_num(0.0, 0.0, 0.0) / self.counts[:, None])

    def _finite(self, value: Tensor) -> Tensor:
        return torch.where(value.isfinite(), value, torch.inf)


def separable(objective: Objective) -> bool:
    """Return whether every series has all its parameters for itself, entry by entry."""
    batch = objective.series.batch_shape
    if batch.numel() < 2 or objective.priors or not objective.free:
        return False
    if not all(_own(free, batch) for free in objective.free):
        return False
    each = SeriesObjective(objective)
    x = each.vector()
    moved = x.clone()
    moved[::2] += 0.01
    before, after = each.value(x), each.value(moved)
    each.assign(x)
    return bool(before.isfinite().all()) and torch.allclose(
        before[1::2], after[1::2], rtol=1e-12, atol=0.0
    )


def climb_each(
    each: SeriesObjective,
    limit: int,
    tolerance: float,
    record: Callable[[float], None],
    start: Tensor | None = None,
) -> Climbed:
    """Run a quasi-Newton search with backtracking in every series at once.

    Args:
        each: What to minimise.
        limit: Of evaluations of the batch.
        tolerance: A series stops at this largest entry of its gradient per observed value.
        record: Called with the log-likelihood of all after each evaluation.
        start: Where to begin, `(series, parameters)`, if not where the model stands.

    Source: Nocedal & Wright (2006), algorithm 6.1.
    """
    now = each.climbed(each.vector() if start is None else start)
    eye = torch.eye(now.x.shape[-1], dtype=now.x.dtype).expand(each.size, -1, -1)
    inverse, fresh = eye.clone(), torch.ones(each.size, dtype=torch.bool)
    step, move = torch.ones_like(now.value), _move(inverse, now.slope)
    idle = torch.zeros(each.size, dtype=torch.long)
    for _ in range(limit):
        # Far from where the likelihood bends steps stay short; then others look further.
        stalled = (step < 1e-12) | (idle >= _PATIENCE)
        busy = (now.slope.abs().amax(-1) > tolerance) & ~stalled
        if not bool(busy.any()):
            break
        trial = each.climbed(now.x + torch.where(busy, step, 0.0)[:, None] * move)
        slack = 1e-4 * step * (move * now.slope).sum(-1) + 1e-15 * now.value.abs()
        better = busy & (trial.value <= now.value + slack)
        little = each.counts * (now.value - trial.value) <= _LITTLE
        idle = torch.where(better, torch.where(little, idle + 1, 0), idle)
        inverse, fresh = _secant(inverse, fresh, trial, now, better)
        now = Climbed(*(_choose(better, a, b) for a, b in zip(trial, now, strict=True)))
        move = _choose(better, _move(inverse, now.slope), move)
        step = torch.where(better, 1.0, torch.where(busy, 0.3 * step, step))
        record(-float((now.value * each.counts).sum()))
    return now


def curvature_each(each: SeriesObjective, x: Tensor, step: float = 1e-4) -> Tensor:
    """Return each series' Hessian of its negative log-likelihood, by differences of gradients.

    Args:
        each: What was minimised.
        x: The optimum, `(series, parameters)`.
        step: Central difference step, in unconstrained units.
    """
    columns = []
    for shift in _shifts(x, step):
        above, below = each.climbed(x + shift).slope, each.climbed(x - shift).slope
        columns.append((above - below) / (2 * shift.sum(-1, keepdim=True)))
    matrix = torch.stack(columns, -1) * each.counts[:, None, None]
    return (matrix + matrix.mT) / 2


def outer_products_each(each: SeriesObjective, x: Tensor, step: float = 1e-5) -> Tensor:
    """Return the sum of the outer products of the scores of each series' steps."""
    columns = []
    with torch.no_grad():
        for shift in _shifts(x, step):
            change = each.steps(x + shift).double() - each.steps(x - shift).double()
            columns.append(change.cpu() / (2 * shift.sum(-1, keepdim=True)))
    scores = torch.stack(columns, -1)
    return scores.mT @ scores


def information_each(each: SeriesObjective, x: Tensor, step: float = 1e-5) -> Tensor | None:
    """Return each series' information of its steps' means and variances; see `information`."""
    objective = each.objective

    def found(at: Tensor) -> Innovations | None:
        each.assign(at)
        return innovations(objective.model, objective.series, objective.inference)

    here, moves = found(x), []
    for shift in _shifts(x, step):
        above, below = found(x + shift), found(x - shift)
        if here is None or above is None or below is None:
            return None
        size = shift.sum(-1).reshape(objective.series.batch_shape).to(here.cov)
        moves.append(
            [
                (above.error - below.error) / (2 * size[..., None, None]),
                (above.cov - below.cov) / (2 * size[..., None, None, None]),
            ]
        )
    each.assign(x)
    if here is None:
        return None
    axes = len(objective.series.batch_shape)
    found_each = information_of(here, moves, axes)
    return found_each.reshape(each.size, *found_each.shape[-2:]).cpu()


def polish_each(each: SeriesObjective, now: Climbed) -> tuple[Climbed, Tensor]:
    """Take a Newton step where it helps; return the curvature at the end."""
    curvature = curvature_each(each, now.x)
    factor, info = torch.linalg.cholesky_ex(curvature)
    regular = info == 0
    eye = torch.eye(now.x.shape[-1], dtype=now.x.dtype)
    factor = torch.where(regular[:, None, None], factor, eye)
    move = torch.cholesky_solve((now.slope * each.counts[:, None])[..., None], factor)[..., 0]
    trial = each.climbed(now.x - move.clamp(-_LONGEST, _LONGEST))
    better = regular & (trial.value <= now.value)
    if not bool(better.any()):
        return now, curvature
    now = Climbed(*(_choose(better, a, b) for a, b in zip(trial, now, strict=True)))
    return now, curvature_each(each, now.x)


def bounds_each(each: SeriesObjective, now: Climbed) -> Tensor:
    """Return which parameters sit at a bound, `(series, parameters)`; see `at_bounds`."""

    def same(i: int, x: Tensor) -> Tensor:
        moved = now.x.clone()
        moved[:, i] = x
        return each.counts * (each.value(moved) - now.value).abs() < 1e-4

    columns = []
    for i, kind in enumerate(_kinds(each)):
        at, far = now.x[:, i], 6 * math.log(10.0)
        if kind.positive:
            inside = torch.stack([same(i, at + k * far) for k in range(1, 7)]).all(0)
            columns.append(same(i, at - far) & ~inside)
        elif isinstance(kind.constraint, constraints.interval):
            columns.append((at.abs() > 5 * math.log(10.0)) & ~same(i, torch.zeros_like(at)))
        else:
            columns.append(torch.zeros(each.size, dtype=torch.bool))
    return torch.stack(columns, -1)


def inside_each(each: SeriesObjective, now: Climbed) -> Tensor | None:
    """Return better points further from the bounds, `None` where no series has one."""

    def score(x: Tensor) -> Tensor:
        return each.counts * each.value(x)

    sizes = [free.tensor.numel() // each.size for free in each.objective.free]
    kinds = [kinds_of(f)[:n] for f, n in zip(each.objective.free, sizes, strict=True)]
    x, gained = released(now.x, each.counts * now.value, torch.cat(kinds), score)
    return x if bool(gained.any()) else None


def errors_each(
    each: SeriesObjective, x: Tensor, curvature: Tensor, stuck: Tensor, scores: Tensor | None
) -> dict[str, Tensor]:
    """Return delta-method standard errors by parameter, NaN where stuck or not identified.

    Args:
        each: What was minimised.
        x: The optimum.
        curvature: Of each series, the Hessian or the outer products in its place.
        stuck: From `bounds_each`.
        scores: Outer products for robust errors, or `None`.
    """
    eye = torch.eye(x.shape[-1], dtype=x.dtype)
    loose = ~stuck[:, :, None] & ~stuck[:, None, :]
    block = torch.where(loose, curvature, eye)
    factor, info = torch.linalg.cholesky_ex(block)
    regular = (info == 0) & block.isfinite().flatten(1).all(-1)
    inverse = torch.cholesky_inverse(torch.where(regular[:, None, None], factor, eye))
    if scores is not None:
        inverse = inverse @ torch.where(loose, scores, 0.0) @ inverse
    known = regular[:, None] & ~stuck
    deviations = torch.where(known, inverse.diagonal(dim1=-2, dim2=-1).sqrt(), torch.nan)
    result, start = {}, 0
    for free in each.objective.free:
        shape, stop = free.tensor.shape, start + free.tensor.numel() // each.size
        at = x[:, start:stop].reshape(shape).requires_grad_()
        (scale,) = torch.autograd.grad(free.constrained(at).sum(), at)
        result[free.name] = scale.abs() * deviations[:, start:stop].reshape(shape)
        start = stop
    return result


def names_each(each: SeriesObjective) -> list[str]:
    """Return the name of each column of parameters."""
    return [free.name for free in _kinds(each)]


def _kinds(each: SeriesObjective) -> list[Free]:
    """Return whose column each is."""
    return [f for f in each.objective.free for _ in range(f.tensor.numel() // each.size)]


def _own(free: Free, batch: torch.Size) -> bool:
    entrywise = transform_to(free.constraint).domain.event_dim == 0
    return entrywise and free.tensor.shape[: len(batch)] == batch


def _move(inverse: Tensor, slope: Tensor) -> Tensor:
    """Return the quasi-Newton move, downhill and not too long."""
    move = -(inverse @ slope[..., None])[..., 0]
    uphill = (move * slope).sum(-1, keepdim=True) >= 0
    move = torch.where(uphill, -slope, move)
    return move * (_LONGEST / move.abs().amax(-1, keepdim=True).clamp_min(_LONGEST))


def _secant(
    inverse: Tensor, fresh: Tensor, new: Climbed, old: Climbed, where: Tensor
) -> tuple[Tensor, Tensor]:
    """Update the inverse curvature of the series in `where` whose slope rose along the move."""
    s, y = new.x - old.x, new.slope - old.slope
    sy, yy = (s * y).sum(-1), y.square().sum(-1)
    usable = where & (sy > 1e-10 * s.norm(dim=-1) * yy.sqrt())
    sy, yy = (torch.where(usable, x, 1.0)[:, None, None] for x in (sy, yy))
    eye = torch.eye(s.shape[-1], dtype=s.dtype)
    start = torch.where(fresh[:, None, None], sy / yy * eye, inverse)
    turn = eye - s[:, :, None] * y[:, None, :] / sy
    updated = turn @ start @ turn.mT + s[:, :, None] * s[:, None, :] / sy
    return _choose(usable, updated, inverse), fresh & ~usable


def _choose(where: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(where.reshape(-1, *(1,) * (a.ndim - 1)), a, b)


def _shifts(x: Tensor, step: float) -> list[Tensor]:
    """Return one move a parameter, the same parameter in every series at once."""
    sizes: Any = step * x.abs().clamp_min(1.0)
    eye = torch.eye(x.shape[-1], dtype=x.dtype)
    return [sizes * row for row in eye]
