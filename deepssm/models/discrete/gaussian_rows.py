"""Rows of Gaussian data, grouped by what of them is missing: densities and sums of many states."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class FilledRows(NamedTuple):
    """Rows with one pattern of gaps, these filled by their expectation in each state.

    Attributes:
        value: `(states or 1, obs, rows)`.
        extra: Covariance of what was filled in, `(states, obs, obs)`, or `None`.
        phi: Features, `(rows, features)`.
        weight: `(states, rows)`.
    """

    value: Tensor
    extra: Tensor | None
    phi: Tensor
    weight: Tensor

    def moment(self) -> Tensor:
        """Return `sum w phi phi'`, `(states, features, features)`."""
        square = (self.phi[:, :, None] * self.phi[:, None, :]).flatten(1)
        return (self.weight @ square).unflatten(-1, (self.phi.shape[1], -1))

    def target(self) -> Tensor:
        """Return `sum w y phi'`, `(states, obs, features)`."""
        if len(self.value) > 1:
            return (self.value * self.weight[:, None, :]) @ self.phi
        both = (self.value[0].mT[:, :, None] * self.phi[:, None, :]).flatten(1)
        return (self.weight @ both).unflatten(-1, (-1, self.phi.shape[1]))

    def scatter(self, coefficients: Tensor) -> Tensor:
        """Return `sum w (y - C phi)(y - C phi)'`, `(states, obs, obs)`."""
        tensors = self.value[0].mT, self.phi, coefficients.permute(1, 2, 0), self.weight.mT
        if len(self.value) == 1 and _compilable(*tensors):
            from ...ops.quadratic_kernels import weighted_squares

            out = self.phi.new_empty(len(coefficients), *(tensors[0].shape[1:] * 2))
            weighted_squares(*(x.detach().contiguous().numpy() for x in (*tensors, out)))
            return out
        left = self.value - coefficients @ self.phi.mT
        total = (left * self.weight[:, None, :]) @ left.mT
        if self.extra is None:
            return total
        return total + self.weight.sum(-1)[:, None, None] * self.extra


def groups_of(seen: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return rows with the same gaps together: their indices, and which components they have.

    Args:
        seen: `(rows, obs)`.
    """
    every = torch.arange(len(seen), device=seen.device)
    if bool(seen.all()):
        return [(every, torch.ones_like(seen[0]))] if len(seen) else []
    if seen.shape[1] <= 62:
        powers = 2 ** torch.arange(seen.shape[1], device=seen.device)
        group = torch.unique((seen.long() * powers).sum(-1), return_inverse=True)[1]
    else:
        group = torch.unique(seen, dim=0, return_inverse=True)[1]
    order = torch.argsort(group, stable=True)
    parts = order.split(torch.bincount(group).tolist())
    return [(rows, seen[rows[0]]) for rows in parts]


def marginal(factor: Tensor, pattern: Tensor) -> Tensor:
    """Return the factors of the covariance of some components, `(states, some, some)`."""
    if bool(pattern.all()):
        return factor
    rows = factor[:, pattern]
    return torch.linalg.cholesky(rows @ rows.mT)


def all_log_densities(
    value: Tensor, phi: Tensor, seen: Tensor, coefficients: Tensor, factor: Tensor
) -> Tensor:
    """Return log-densities of what is seen of every row in every state, `(rows, states)`.

    Args:
        value: `(rows, obs)`, anything where not seen.
        phi: `(rows, features)`.
        seen: `(rows, obs)`; a row of which nothing is seen has log-density 0.
        coefficients: `(states, obs, features)`.
        factor: `(states, obs, obs)`.
    """
    if bool(seen.all()):
        return log_densities(value, phi, coefficients, factor)
    groups, found = groups_of(seen), []
    for rows, pattern in groups:
        if not bool(pattern.any()):
            found.append(value.new_zeros(len(rows), len(factor)))
            continue
        whole = len(rows) == len(value)
        y, given = (value, phi) if whole else (value[rows], phi[rows])
        if not bool(pattern.all()):
            y = y[:, pattern]
        known = marginal(factor, pattern)
        found.append(log_densities(y, given, coefficients[:, pattern], known))
    if len(found) == 1:
        return found[0]
    order = torch.argsort(torch.cat([rows for rows, _ in groups]))
    return torch.cat(found)[order]


def log_densities(value: Tensor, phi: Tensor, coefficients: Tensor, factor: Tensor) -> Tensor:
    """Return `log N(y; C_k phi, L_k L_k')` of every row in every state, `(rows, states)`.

    Args:
        value: `(rows, obs)`.
        phi: `(rows, features)`.
        coefficients: `C`, `(states, obs, features)`.
        factor: `L`, `(states, obs, obs)`.
    """
    size = value.shape[-1]
    diagonal = factor.diagonal(dim1=-2, dim2=-1)
    offset = -diagonal.log().sum(-1) - 0.5 * size * math.log(2 * math.pi)
    eye = torch.eye(size, dtype=factor.dtype, device=factor.device).expand_as(factor)
    inverse = torch.linalg.solve_triangular(factor, eye, upper=False)
    tensors = value, phi, coefficients, inverse, offset
    plain = not (torch.is_grad_enabled() and any(x.requires_grad for x in tensors))
    if plain and _compilable(*tensors):
        return _compiled(*tensors)
    white = inverse @ (value.mT - coefficients @ phi.mT)
    return (offset[:, None] - 0.5 * white.square().sum(1)).mT


def _compilable(*tensors: Tensor) -> bool:
    return all(x.device.type == "cpu" and x.dtype == torch.float64 for x in tensors)


def _compiled(
    value: Tensor, phi: Tensor, coefficients: Tensor, inverse: Tensor, offset: Tensor
) -> Tensor:
    from ...ops.quadratic_kernels import quadratic_forms

    out = torch.empty(len(value), len(offset), dtype=value.dtype)
    given = value, phi, coefficients.permute(1, 2, 0), inverse.permute(1, 2, 0), offset, out
    quadratic_forms(*(x.detach().contiguous().numpy() for x in given))
    return out


def require_spread(y: Tensor, seen: Tensor) -> Tensor:
    """Return the variance of each component over what was seen, `(obs,)`.

    Args:
        y: `(rows, obs)`.
        seen: `(rows, obs)`.

    Raises:
        ValueError: A component does not vary, so that a free deviation has no best value.
    """
    count = seen.sum(0)
    # About a number of the data first: what does not vary then has a variance of exactly 0.
    first = y.gather(0, seen.int().argmax(0, keepdim=True)).nan_to_num(0.0)
    left = y - first if bool(seen.all()) else torch.where(seen, y - first, 0.0)
    mean = left.sum(0) / count.clamp_min(1)
    spread = (left.square().sum(0) / count.clamp_min(1)) - mean.square()
    if bool((spread < 1e-6 * mean.square()).any()):
        spread = torch.where(seen, left - mean, 0.0).square().sum(0) / count.clamp_min(1)
    flat = (spread == 0).nonzero()
    if len(flat):
        at = int(flat[0])
        raise ValueError(
            f"`y` does not vary in component {at} ({int(count[at])} usable observations), so the "
            "likelihood of Gaussian states grows without bound as their deviations shrink. Give "
            "more data, or freeze the deviations: `emission.requires_grad_(False)` keeps a "
            "family as it is, `emission.raw_scale` (of mixtures `log_sd`) alone its deviations."
        )
    return spread
