"""The smoother of a time-invariant model: backwards through the linear core.

Over steady steps the derivative of the future's likelihood by the filtered mean is one call of
`LinearSystem.apply` of the transposed filter, in reverse, and the smoothed mean is `m + P r`:
there is no inverse of `P`. Stretches that are not steady are smoothed by the scan, which takes
what follows them as equations for their last state.

Source: de Jong (1989), Journal of the American Statistical Association 84(408).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ....core.gaussian import outer, psd_factor
from ....linear.structure import Dense
from .layout import Columns
from .passes import Forward, Plan, SteadyFilter
from .scan_smoother import (
    Adjoint,
    LaterData,
    Smoothing,
    adjoint_of,
    before,
    scan_later_data,
    scan_smoother,
)
from .stationary import in_columns, in_rows, member, view_for


class _Part(NamedTuple):
    """One stretch on the way back."""

    columns: Columns
    forward: Forward
    adjoint: Adjoint
    later_data: LaterData | None
    steady: SteadyFilter


def stationary_adjoint(columns: Columns, forward: Forward) -> Adjoint:
    """Return the derivatives by the filtered moments of every step."""
    parts = [part.adjoint for part in _backwards(columns, forward)][::-1]
    return Adjoint(*(torch.cat(x) for x in zip(*parts, strict=True)))


def stationary_smoother(columns: Columns, forward: Forward) -> Smoothing:
    """Return the smoothed moments of all steps."""
    parts = [_smooth(part) for part in _backwards(columns, forward)][::-1]
    mean, cov, cross = (torch.cat(x) for x in zip(*parts, strict=True))
    return Smoothing(mean, cov, torch.cat([torch.zeros_like(cross[:1]), cross[1:]]))


def _backwards(columns: Columns, forward: Forward) -> Iterator[_Part]:
    plan: Plan = forward.plan  # type: ignore[assignment]
    A, ending = columns.A[:1], None
    for first, last, is_steady in reversed(plan.stretches):
        part = _cut(forward, first, last)
        piece = columns.cut(first, last, (part.a[:1], part.gains.L[:1]))
        if is_steady:
            later_data, adjoint = None, _steady_adjoint(piece, part, plan.steady, ending)
        else:
            end = None if ending is None else _equations(ending, part.gains.F[-1:])
            later_data = scan_later_data(piece, part, end)
            adjoint = adjoint_of(later_data, part.gains.F)
        yield _Part(piece, part, adjoint, later_data, plan.steady)
        start = Adjoint(adjoint.r[:1], adjoint.N[:1])
        r, N = before(start, part.e[:1], part.gains.at(slice(1)))
        ending = Adjoint(A.mT @ r, A.mT @ N @ A)


def _cut(forward: Forward, first: int, last: int) -> Forward:
    time = slice(first, last)
    gains = forward.gains.at(time if forward.slot is None else forward.slot[time])
    a, m, e, ll = forward[:4]
    return Forward(a[time], m[time], e[time], ll[time], gains)


def _steady_adjoint(
    piece: Columns, part: Forward, steady: SteadyFilter, ending: Adjoint | None
) -> Adjoint:
    """Run the transposed filter from the end; `N` converges too, to its own limit."""
    C, M = member(piece.C), steady.filter.structure.dense()
    a, y, d = (in_rows(x) for x in (part.a, piece.y, piece.d))
    last = torch.zeros_like(a[..., 0, :])
    limit = steady.limit.expand(1, part.gains.F.shape[1], *M.shape[-2:])
    gap = -limit
    if ending is not None:
        last, gap = in_rows(ending.r)[..., 0, :], ending.N - limit
    v = y - d - a @ C.mT
    back = steady.adjoint.apply(v, last, reverse=True, view=view_for(v))
    r = torch.cat([back[..., 1:, :], last[..., None, :]], -2)
    powers = Dense(M).observe(torch.eye(M.shape[-1]).to(M), min(piece.time, 2 * steady.steps))
    powers = powers.movedim(-3, 0).flip(0).reshape(-1, M[..., 0, 0].numel(), *M.shape[-2:])
    near = limit + powers.mT @ gap @ powers
    far = limit.expand(piece.time - len(near), *limit.shape[1:])
    return Adjoint(in_columns(r), torch.cat([far, near]))


def _equations(ending: Adjoint, F: Tensor) -> tuple[Tensor, Tensor]:
    """Turn derivatives by the moments of a state, `N = W' (I + W P W')^-1 W`, into equations."""
    V = psd_factor((ending.N + ending.N.mT) / 2, "N").mT
    eye = torch.eye(V.shape[-1], dtype=V.dtype, device=V.device)
    B = torch.linalg.cholesky(eye - outer(V @ F))
    white = torch.linalg.pinv(V.mT, rtol=1e-13) @ ending.r
    solved = torch.linalg.solve_triangular(B, torch.cat([V, white], -1), upper=False)
    return solved[..., : V.shape[-1]], solved[..., V.shape[-1] :]


def _smooth(part: _Part) -> Smoothing:
    columns, forward, adjoint, later_data, steady = part
    cov = outer(steady.gains.F)
    if later_data is None:
        r = in_rows(adjoint.r) @ member(cov)
        own, cross = _steady_moments(columns, adjoint.N, steady)
        return Smoothing(forward.m + in_columns(r), own, cross)
    inside = scan_smoother(columns, forward, later_data)
    first = Adjoint(adjoint.r[:1], adjoint.N[:1])
    N = before(first, forward.e[:1], forward.gains.at(slice(1))).N
    cross = _link(forward.gains.L[:1], N) @ columns.A[:1] @ cov
    return inside._replace(cross=torch.cat([cross, inside.cross[1:]]))


def _steady_moments(columns: Columns, N: Tensor, steady: SteadyFilter) -> tuple[Tensor, Tensor]:
    """Smoothed and lag-one covariances: one for all steps but those close to the end."""
    far = max(len(N) - 2 * steady.steps, 1)
    N, g = N[far - 1 :], steady.gains
    cov = g.F @ (_identity(N) - g.F.mT @ N @ g.F) @ g.F.mT
    left = _identity(N) - g.G @ g.H
    cross = _link(g.L, outer(g.H.mT) + left.mT @ N @ left) @ columns.A[:1] @ outer(g.F)
    times = torch.ones(len(N), dtype=torch.long, device=N.device)
    times[0] = far
    return cov.repeat_interleave(times, 0), cross.repeat_interleave(times, 0)


def _link(L: Tensor, N: Tensor) -> Tensor:
    """Return `I - P N`, of predicted moments."""
    return _identity(N) - outer(L) @ N


def _identity(x: Tensor) -> Tensor:
    return torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
