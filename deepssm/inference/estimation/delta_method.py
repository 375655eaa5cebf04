"""Standard errors of what people read: probabilities, rates, covariances, not what holds them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from ...core.abilities import HasDerivedNumbers
from ...core.model import Readable
from .objective import Objective, readable_parameters
from .standard_errors import Matrix

# Scaled to a unit diagonal, curvature below this is that of a difference of gradients.
_FLAT = 1e-6
# The existing rule for intervals: this share of the width from an end is the end.
_END = 1e-5


def readable_errors(
    objective: Objective,
    curvature: Matrix,
    stuck: list[tuple[str, int, str]],
    scores: Matrix | None = None,
) -> dict[str, Tensor]:
    """Return delta-method standard errors of readable parameters, by their readable names.

    Logits of a row are determined up to a constant only, so their Hessian `H` is singular. What
    the data determine all the same has the variance `j H^+ j'`, `j` its derivative: that of every
    function of the parameters that stays the same along the null space of `H`. What changes along
    it, and probabilities at 0 or 1, have none (NaN).

    Args:
        objective: What was minimised; its best point is where errors are taken.
        curvature: The Hessian, or the outer products of the scores in its place.
        stuck: Entries at a bound, from `at_bounds`.
        scores: `S` of `H^+ S H^+`, right where the model is wrong.

    Source: Rao (1973), Linear Statistical Inference, section 4a.4: estimable functions; White
        (1982), Econometrica 50.
    """
    objective.assign(objective.best[0])
    parts = _derivatives(objective)
    ends = np.cumsum([0, *(J.shape[1] for _, _, J in parts)])
    starts = {name: int(end) for (name, _, _), end in zip(parts, ends, strict=False)}
    dropped = [starts[name] + i for name, i, _ in stuck]
    for name, part, J in parts:
        if part.value.numel() == J.shape[1]:
            dropped += (starts[name] + _at_end(part).reshape(-1).nonzero()[:, 0]).tolist()
    unit, cov, null = _inverse(curvature, dropped)
    if scores is not None:
        cov = cov @ (unit[:, None] * torch.from_numpy(scores) * unit) @ cov
    result = {}
    for name, part, J in parts:
        rows = slice(starts[name], starts[name] + J.shape[1])
        j = J * unit[rows]
        variance = torch.einsum("ri,ij,rj->r", j, cov[rows, rows], j)
        loose = _share(j @ null[rows], j) | _share(J[:, unit[rows] == 0], J)
        error = torch.where(loose, torch.nan, variance.sqrt()).reshape(part.value.shape)
        result[part.name] = torch.where(_at_end(part), torch.nan, error)
    for name, value, J in _derived(objective):
        j = J * unit
        variance = torch.einsum("ri,ij,rj->r", j, cov, j)
        loose = _share(j @ null, j) | _share(J[:, unit == 0], J)
        result[name] = torch.where(loose, torch.nan, variance.sqrt()).reshape(value.shape)
    return result


def unknown(
    objective: Objective, errors: dict[str, Tensor], stuck: list[tuple[str, int, str]]
) -> list[str]:
    """Return the parameters that are at no end of their range and yet have no standard error.

    Args:
        objective: What was minimised.
        errors: From `readable_errors`.
        stuck: Entries at a bound, from `at_bounds`.
    """
    shown = readable_parameters(objective.model)
    supports = {part.name: part for part in shown.values()}
    held = {shown[name].name if name in shown else name: i for name, i, _ in stuck}
    found = []
    for name, error in errors.items():
        excused = _at_end(supports[name]) if name in supports else torch.zeros_like(error).bool()
        lost = error.isnan() & ~excused.cpu()
        if bool(lost.any()) and not (name in held and int(lost.sum()) == 1):
            found.append(name)
    return found


def listed(names: list[str], most: int = 4) -> str:
    """Return names as a phrase: `a`, `b` and 3 more."""
    quoted = [f"`{name}`" for name in names[:most]]
    rest = len(names) - len(quoted)
    return ", ".join(quoted) + (f" and {rest} more" if rest else "")


def _derivatives(objective: Objective) -> list[tuple[str, Readable, Tensor]]:
    """Return each parameter's name, what is read of it, and `d read / d held`, flat."""
    shown, found = readable_parameters(objective.model), []
    for free in objective.free:
        part = shown.get(free.name)
        if part is None:
            value = free.constrained(free.tensor)
            jacobian = free.jacobian().double().cpu()
            found.append((free.name, Readable(free.name, value), jacobian))
            continue
        rows = [
            torch.autograd.grad(value, free.tensor, retain_graph=True)[0].reshape(-1)
            for value in part.value.reshape(-1).unbind()
        ]
        found.append((free.name, part, torch.stack(rows).double().cpu()))
    return found


def _derived(objective: Objective) -> list[tuple[str, Tensor, Tensor]]:
    """Return numbers that follow from the parameters, and their derivative by all of them."""
    model = objective.model
    if not isinstance(model, HasDerivedNumbers):
        return []
    tensors, found = [free.tensor for free in objective.free], []
    with torch.enable_grad():
        for name, value in model.derived().items():
            rows = [
                torch.autograd.grad(x, tensors, retain_graph=True, materialize_grads=True)
                for x in value.reshape(-1).unbind()
            ]
            J = torch.stack([torch.cat([g.reshape(-1) for g in row]) for row in rows])
            found.append((name, value.detach(), J.double().cpu()))
    return found


def _inverse(curvature: Matrix, dropped: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return units with a diagonal of ones, the pseudo-inverse in them, and the null space."""
    H = torch.from_numpy(curvature).clone()
    H[dropped], H[:, dropped] = 0.0, 0.0
    diagonal = H.diagonal()
    usable = diagonal.isfinite() & (diagonal > 0)
    unit = torch.where(usable, torch.where(usable, diagonal, 1.0).rsqrt(), 0.0)
    scaled = torch.where(usable[:, None] & usable, unit[:, None] * H * unit, 0.0)
    values, vectors = torch.linalg.eigh(scaled)
    known = values > _FLAT
    basis = vectors[:, known]
    return unit, basis / values[known] @ basis.mT, vectors[:, ~known]


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """Tell which rows lie in a part to more than a thousandth, or are all zero."""
    return part.norm(dim=1) >= 1e-3 * whole.norm(dim=1)


def _at_end(part: Readable) -> Tensor:
    if part.support is not constraints.unit_interval:
        return torch.zeros_like(part.value, dtype=torch.bool).cpu()
    value = part.value.detach().cpu()
    return (value < _END) | (value > 1 - _END)
