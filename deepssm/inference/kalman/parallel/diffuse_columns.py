r"""Exactly diffuse starts in the batched filters: slopes are further columns of data.

Given the diffuse coefficients `delta` the start is proper, and every mean is affine in them. Their
slopes are what the same filter makes of data that are zero, started in the diffuse directions, so
they are `k` more columns and no special case. Whitened innovations `e + E delta ~ N(0, I)` are
equations for `delta`; QR factorizations gather those of all steps up to each one, by a scan.

Source: de Jong (1991), Annals of Statistics 19, 1073-1083; Durbin & Koopman (2012), section 5.7.
The gathering by a scan is made here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ....core.diffuse import Diffuse, combined
from ....linear.prefix import prefix_products
from ..diffuse import (
    UNDETERMINED,
    cross_spread,
    hardly_determined,
    proper_and_diffuse,
    solve_equations,
    steps_left_open,
)
from .layout import Columns
from .passes import Forward

# Slopes so small a part of their largest change no digit of any coefficient.
_GONE = 1e-30
_MANY = 256  # steps that tell something, after which the compiled loop takes over


class Moments(NamedTuple):
    """Moments of all steps, `(time, members, ...)`.

    Attributes:
        mean: `(time, members, n, columns)`. cov: `(time, members, n, n)`.
        diffuse: What the first steps leave open.
    """

    mean: Tensor
    cov: Tensor
    diffuse: Diffuse | None


class Known(NamedTuple):
    """What the data up to each step say about the diffuse coefficients.

    Attributes:
        U: `U delta = Z + noise`, upper triangular, `(steps, members, k, k)`; later steps than
            these say nothing more.
        Z: `(steps, members, k, columns)`.
        log_likelihood: Of each step, `(time, members, columns)`.
    """

    U: Tensor
    Z: Tensor
    log_likelihood: Tensor

    @property
    def hardly_determined(self) -> Tensor:
        """Whether round-off may decide which directions are determined, `(members,)`."""
        return hardly_determined(self.U[-1])

    def mix(self, x: Tensor) -> Tensor:
        """Turn columns and slopes of a mean into what all data make of them.

        Args:
            x: `(time, members, row, columns + k)`, the slopes last.

        Returns:
            Columns at the coefficients' posterior mean, then slopes times their factor.
        """
        return _mixed(x, *solve_equations(self.U[-1], self.Z[-1])[:2])

    def filtered(self, m: Tensor, cov: Tensor) -> Moments:
        """Return moments of each step given the data up to it.

        Args:
            m: `(time, members, n, columns + k)`.
            cov: Given the coefficients, `(time, members, n, n)`.
        """
        return self._moments(m, cov, self.U, self.Z)

    def predicted(self, a: Tensor, cov: Tensor) -> Moments:
        """Return moments of each step given the data before it."""
        U, Z = (torch.cat([torch.zeros_like(x[:1]), x]) for x in (self.U, self.Z))
        return self._moments(a, cov, U, Z)

    def smoothed(self, mean: Tensor, cov: Tensor, cross: Tensor) -> tuple[Moments, Tensor]:
        """Return moments of each step, and of each with the one before it, given all data."""
        U, Z = self.U[-1:], self.Z[-1:]
        found = self._moments(mean, cov, U, Z)
        _, inverse, undetermined = solve_equations(U, Z)
        slopes = mean[..., -U.shape[-1] :].movedim(0, 1)
        cross = cross.expand(len(mean), *slopes.shape[:1], -1, -1).movedim(0, 1)
        link = cross_spread(slopes, cross, inverse.movedim(0, 1), undetermined.movedim(0, 1))
        return found, link.movedim(1, 0)

    def _moments(self, x: Tensor, cov: Tensor, U: Tensor, Z: Tensor) -> Moments:
        step = torch.arange(len(x), device=x.device).clamp(max=len(U) - 1)
        center, inverse, undetermined = (part[step] for part in solve_equations(U, Z))
        slopes = x[..., -U.shape[-1] :]
        parts = proper_and_diffuse(
            slopes, cov.expand(*slopes.shape[:-1], -1), inverse, undetermined
        )
        count = steps_left_open(undetermined.movedim(0, 1))
        first = Diffuse(*(part[:count] for part in parts)) if count else None
        return Moments(x[..., : -U.shape[-1]] + slopes @ center, combined(*parts), first)


def add_slopes(columns: Columns, directions: Tensor) -> Columns:
    """Return the columns and, after them, the slopes of their means in the diffuse coefficients.

    Args:
        columns: A model and data.
        directions: `(n, k)`.
    """
    size, (n, k) = columns.y.shape[-1], directions.shape

    def padded(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x.expand(*x.shape[:-1], size), (0, k))

    mean, factor = columns.start
    slopes = directions.detach().to(mean).expand(*mean.shape[:-2], n, k)
    start = torch.cat([mean.expand(*mean.shape[:-1], size), slopes], -1), factor
    y, b, d = (padded(x) for x in (columns.y, columns.b, columns.d))
    return columns._replace(start=start, y=y, b=b, d=d)


def gather(columns: Columns, forward: Forward, k: int) -> Known | None:
    """Gather what the whitened innovations of all steps say about the coefficients.

    The first steps go one by one until every direction is determined, since what a step adds to
    the likelihood before that depends on the order of its rows; all others go at once.

    Args:
        columns: A model and data, with slopes.
        forward: The filter's results.
        k: Number of slopes.

    Returns:
        `None` if many steps leave a direction open.
    """
    size = columns.y.shape[-1] - k
    rows = torch.cat([forward.e[..., size:], -forward.e[..., :size]], -1)
    told = rows[: _steps_that_tell(rows[..., :k])]
    first = _one_by_one(told, k)
    if first is None:
        return None
    M, gained = first
    if len(M) < len(told):
        later = told[len(M) :]
        elements = torch.cat(
            [M[-1:], _absorb(later.new_zeros(*later.shape[:2], *M.shape[2:]), later)[0]]
        )
        (found,) = prefix_products(_combine, (elements,))
        # Once more from each product, one step on: it removes what round-off they gathered.
        once, left = _absorb(found[:-1], later)
        volume = _volume(once[..., :k]) - _volume(found[:-1, ..., :k])
        M, gained = torch.cat([M, once]), torch.cat([gained, -0.5 * left - volume[..., None]])
    gained = torch.cat([gained, -0.5 * rows[len(told) :, ..., k:].square().sum(-2)])
    count = columns.seen.sum(-1, dtype=gained.dtype)[..., None]
    volume = forward.gains.at(forward.slot).volume[..., None]
    gained = gained - 0.5 * math.log(2 * math.pi) * count - volume
    return Known(M[..., :k], M[..., k:], gained)


def _steps_that_tell(slopes: Tensor) -> int:
    """Return after how many steps the slopes have died out."""
    size = slopes.abs().amax(-2)
    alive = (size > _GONE * size.amax(0)).flatten(1).any(-1).nonzero()
    return int(alive[-1]) + 1 if len(alive) else 1


def _one_by_one(rows: Tensor, k: int) -> tuple[Tensor, Tensor] | None:
    """Return equations after each step and what it adds to the likelihood, while some are open."""
    M = rows.new_zeros(rows.shape[1], k, rows.shape[-1])
    tells = (rows[..., :k] != 0).flatten(1).any(-1).tolist()
    equations, gained, count = [], [], 0
    for step, some in zip(rows, tells, strict=True):
        gains = -0.5 * step[..., k:].square().sum(-2)
        if some:
            gains = torch.zeros_like(gains)
            for row in step.unbind(-2):
                M, gain = _rotate(M, row)
                gains = gains + gain
            count += 1
        equations.append(M)
        gained.append(gains)
        if some and not bool(solve_equations(M[..., :k], M[..., k:])[2].any()):
            break
        if count > _MANY:
            return None
    return torch.stack(equations), torch.stack(gained)


def _rotate(M: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate one equation into `M = [U | Z]`; return also its log-density, as `absorb` does."""
    k, equations, volume = M.shape[-2], list(M.unbind(-2)), torch.ones_like(row[..., :1])
    for i, old in enumerate(equations):
        pivot, head = old[..., i : i + 1], row[..., i : i + 1]
        column = torch.stack([head, *(other[..., i : i + 1] for other in equations[:i])])
        redundant = (pivot == 0) & (head.abs() <= UNDETERMINED * column.norm(dim=0))
        head = torch.where(redundant, 0.0, head)
        radius = torch.hypot(pivot, head)
        safe = torch.where(radius > 0, radius, 1.0)
        cos = torch.where(head == 0, 1.0, pivot / safe)
        sin = torch.where(head == 0, 0.0, head / safe)
        grown = torch.where(pivot > 0, radius / torch.where(pivot > 0, pivot, 1.0), radius)
        volume = volume * torch.where(head == 0, 1.0, grown)
        equations[i], row = cos * old + sin * row, cos * row - sin * old
        row = torch.where(torch.arange(row.shape[-1], device=row.device) == i, 0.0, row)
    return torch.stack(equations, -2), -0.5 * row[..., k:].square() - volume.log()


def _absorb(M: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate rows into the equations `M = [U | Z]`; return these and the squares left over."""
    k = M.shape[-2]
    R = torch.linalg.qr(torch.cat([M, rows], -2), mode="r").R
    return R[..., :k, :], R[..., k:, k:].square().sum(-2)


def _combine(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (_absorb(first[0], second[0])[0],)


def _volume(U: Tensor) -> Tensor:
    """Return `log |det U|`."""
    return U.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)


def _mixed(x: Tensor, center: Tensor, inverse: Tensor) -> Tensor:
    slopes = x[..., -inverse.shape[-1] :]
    return torch.cat([x[..., : -inverse.shape[-1]] + slopes @ center, slopes @ inverse], -1)
