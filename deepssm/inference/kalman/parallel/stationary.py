"""The Kalman filter of a time-invariant model: steady steps run through the linear core.

The covariance of such a filter does not depend on the data and converges. From then on the filter
is a `LinearSystem` whose input is the data, and all steady steps are one call of
`LinearSystem.apply`, the function that deep layers call, by blocks, convolution or scan. What is
not steady (the start, a gap and the steps after it) is filtered exactly, by the scan, until the
covariance is back at its steady state. Several such stretches may alternate.

Source: Anderson & Moore (1979), Optimal Filtering, chapter 4.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ....core.gaussian import outer, psd_factor, standard_normal_log_prob
from ....linear.chunk import chunked_by
from ....linear.recurrence import View
from ....linear.riccati import adjoint_innovations, innovations, lyapunov, steady_state
from .layout import Columns
from .passes import Forward, Gains, Plan, SteadyFilter, Stretch
from .scan import scan_filter, update

_SHORT = 16  # A shorter steady stretch is not worth a call.
_LEAST_LEFT = 1e-9  # Of a filtered variance, the least that the smoother may leave.
_STEADY = 1e-12  # Of a covariance; round-off keeps it from repeating to the last digit.


def stationary_filter(columns: Columns) -> Forward | None:
    """Filter all steps; `None` where no steady state is reached for half of them.

    Args:
        columns: A model with constant matrices, and data.
    """
    steady = steady_filter(columns)
    if steady is None:
        return None
    steps = steady.steps
    while (plan := stretches(columns, steps)) is not None:
        forward = _run(columns, steady, plan)
        if forward is not None:
            return forward._replace(plan=Plan(steady._replace(steps=steps), plan))
        steps *= 2
    return None


def steady_filter(columns: Columns) -> SteadyFilter | None:
    """Return the steady filter; `None` where there is none or `S` is singular."""
    noises = outer(columns.LQ), outer(columns.LR)
    A, C, Q, R = (member(x) for x in (columns.A, columns.C, *noises))
    try:
        state = steady_state(A, C, Q, R)
    except (ValueError, RuntimeError):  # singular, somewhere on the way
        return None
    if not bool(state.converged.all()):
        return None
    factor = psd_factor(state.cov, "P").reshape(1, -1, *A.shape[-2:])
    complete = torch.ones_like(columns.seen[:1, :1]).expand(1, factor.shape[1], -1)
    gains = update(columns._replace(seen=complete), factor)
    limit = lyapunov(state.transition.mT, outer((member(gains.H) @ A).mT))
    F = member(gains.F)
    left = torch.linalg.eigvalsh(torch.eye(F.shape[-1]).to(F) - F.mT @ limit @ F)
    if not bool((left > _LEAST_LEFT).all()):
        return None
    radius = float(torch.linalg.eigvals(state.transition).abs().max())
    steps = math.ceil(math.log(1e-17) / (2 * math.log(min(max(radius, 1e-9), 1 - 1e-9))))
    return SteadyFilter(
        innovations(A, C, Q, R, offset=True, steady=state),
        adjoint_innovations(A, C, Q, R, steady=state),
        gains,
        outer(F),
        limit,
        steps + A.shape[-1],
    )


def stretches(columns: Columns, steps: int) -> list[Stretch] | None:
    """Divide time into exact and steady stretches; `None` when most of it is not steady.

    Args:
        columns: Data; a gap in any series is one in all.
        steps: How many steps after a gap, or from the start, are not steady.
    """
    gaps = (~columns.seen.all(-1).all(-1)).nonzero()[:, 0].tolist()
    plan: list[Stretch] = []
    done, first = 0, steps
    for gap in [*gaps, columns.time]:
        if gap >= first + (_SHORT if gap < columns.time else 1):
            plan += [Stretch(done, first, False), Stretch(first, gap, True)]
            done = gap
        first = gap + 1 + steps
    if done < columns.time:
        plan.append(Stretch(done, columns.time, False))
    exact = sum(s.last - s.first for s in plan if not s.steady)
    return plan if 2 * exact <= columns.time else None


def view_for(u: Tensor) -> View | None:
    """Short blocks where arithmetic is dear, else whatever the system finds cheapest."""
    return chunked_by(16) if u.device.type == "cpu" else None


def in_rows(x: Tensor) -> Tensor:
    """Turn `(time, members, row, columns)` into `(columns, members, time, row)`."""
    return x.permute(3, 1, 0, 2)


def in_columns(x: Tensor) -> Tensor:
    """Turn `(columns, members, time, row)` into `(time, members, row, columns)`."""
    return x.permute(2, 1, 3, 0)


def member(x: Tensor) -> Tensor:
    """Drop the axis `time` and, where nothing varies over it, `members`."""
    return x[0, 0] if x.shape[1] == 1 else x[0]


def _run(columns: Columns, steady: SteadyFilter, plan: list[Stretch]) -> Forward | None:
    """Filter stretch by stretch; `None` if one ends before its covariance is steady."""
    start, parts = columns.start, []
    for first, last, is_steady in plan:
        piece = columns.cut(first, last, start)
        part = _steady_steps(piece, steady) if is_steady else scan_filter(piece)
        if part is None or not (is_steady or last == columns.time or _is_steady(part, steady)):
            return None
        parts.append(part)
        if last < columns.time:
            start = columns.predict(last, part.m[-1:]), steady.gains.L
    return _join(parts, plan)


def _steady_steps(piece: Columns, steady: SteadyFilter) -> Forward:
    """Run the steady filter through the linear core, and read off what it predicted."""
    g = Gains(*(x[0] for x in steady.gains))
    y, d, b = (in_rows(x) for x in (piece.y, piece.d, piece.b))
    b = b.expand(*y.shape[:-1], -1)
    A, C = member(piece.A), member(piece.C)
    first = in_rows(piece.start[0]).expand(*b[..., :1, :].shape)
    a, y = first, y - d
    m = first + _innovation(y[..., :1, :], first, C, g) @ g.G.mT
    if piece.time > 1:
        u = torch.cat([y, b], -1)[..., 1:, :]
        m = torch.cat([m, steady.filter.apply(u, m[..., 0, :], view=view_for(u))], -2)
        a = torch.cat([first, m[..., :-1, :] @ A.mT + b[..., 1:, :]], -2)
    e = _innovation(y, a, C, g)
    ll = standard_normal_log_prob(e, y.shape[-1]) - g.volume[:, None]
    gains, slot = steady.gains, torch.zeros(piece.time, dtype=torch.long, device=y.device)
    ll = in_columns(ll[..., None])[:, :, 0]
    return Forward(in_columns(a), in_columns(m), in_columns(e), ll, gains, slot)


def _innovation(y: Tensor, a: Tensor, C: Tensor, gains: Gains) -> Tensor:
    return (y - a @ C.mT) @ gains.W.mT


def _is_steady(part: Forward, steady: SteadyFilter) -> bool:
    cov = outer(part.gains.F[-1])
    scale = steady.cov.diagonal(dim1=-2, dim2=-1).sqrt()
    near = (cov - steady.cov).abs() <= _STEADY * scale[..., None] * scale[..., None, :]
    return bool(near.all())


def _join(parts: list[Forward], plan: list[Stretch]) -> Forward:
    a, m, e = (torch.cat([getattr(part, x) for part in parts]) for x in ("a", "m", "e"))
    ll = torch.cat([part.log_likelihood for part in parts])
    slots, gains_of, count = [], [], 0
    for part, stretch in zip(parts, plan, strict=True):
        gains_of.append(part.gains)
        size = 1 if stretch.steady else part.a.shape[0]
        local = torch.arange(size, device=a.device).expand(part.a.shape[0])
        slots.append(count + local)
        count += size
    members = max(gains.F.shape[1] for gains in gains_of)
    gains = Gains(
        *(
            torch.cat([x.expand(-1, members, *x.shape[2:]) for x in f])
            for f in zip(*gains_of, strict=True)
        )
    )
    return Forward(a, m, e, ll, gains, torch.cat(slots))
