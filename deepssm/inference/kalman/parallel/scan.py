r"""The Kalman filter in `O(log time)` parallel steps, in square-root form, on any device.

A step given the state before it is an *element*: `z_t = A z_{t-1} + b + U w`, `w ~ N(0, I)`, once
`y_t` is known, and whitened equations `W z_{t-1} = g + noise`, what `y_t` says about `z_{t-1}`.
Two elements in a row make one: the equations of the later one are moved over the earlier one by a
QR factorization that eliminates `w`. Nothing is inverted but triangles that are at least `I`, and
nothing is subtracted, so `Q` and `P0` may be singular. The products give filtered moments; one
ordinary step from each of them, all at once, removes what round-off the products gathered and
yields the likelihood.

Source: Yaghoobi, Corenflos, Hassan & Sarkka (2025), SIAM Journal on Scientific Computing 47,
"Parallel square-root statistical linear regression for inference in nonlinear state space
models"; Sarkka & Garcia-Fernandez (2021), IEEE Transactions on Automatic Control 66. The form of
the operator is made here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ....core.gaussian import outer, standard_normal_log_prob, tria
from ....linear.prefix import Element, prefix_products
from .layout import Columns
from .passes import Forward, Gains

if TYPE_CHECKING:
    pass


def scan_filter(columns: Columns) -> Forward | None:
    """Filter all steps at once; `None` if an observation has no noise given the state before.

    Args:
        columns: A model and data with at least one step and one series.
    """
    made = elements(columns)
    if made is None:
        return None
    _, m, U, _, _ = prefix_products(combine, made)
    a, L = predicted_from(columns, m[:-1], U[:-1])
    return condition(columns, a, update(columns, L))


def elements(columns: Columns, around: Forward | None = None) -> Element | None:
    """Return the elements `(A, b, U, W, g)` of all steps; the first one holds the start.

    Args:
        columns: A model and data.
        around: Count all states from these filtered means, so that no large level cancels.

    Returns:
        The elements, or `None` if an observation has no noise given the state before.
    """
    mean, factor = columns.start
    members, n, time = columns.y.shape[1], columns.A.shape[-1], columns.time
    b = _steps(columns.b, time, members)[1:].expand(-1, -1, -1, columns.y.shape[-1])
    a = torch.cat([mean.expand(1, *b.shape[1:]), b])
    LQ = _steps(columns.LQ, time, members)[1:]
    L = torch.cat([factor.expand(1, *LQ.shape[1:]), LQ])
    gains = update(columns, L)
    if bool((gains.worst == 0).any()):
        return None
    forward = condition(columns, a if around is None else around.a, gains)
    b = forward.m if around is None else forward.m - around.m
    A = _steps(columns.A, time, members)
    A = torch.cat([torch.zeros_like(A[:1]), A[1:]])
    HA = gains.H @ A
    W, g = stack(HA, forward.e, HA.new_zeros(*HA.shape[:-2], 0, n), forward.e[..., :0, :])
    return A - gains.G @ HA, b, gains.F, W, g


def combine(first: Element, second: Element) -> Element:
    """Return the element of two steps (or stretches) in a row."""
    A1, b1, U1, W1, g1 = first
    A2, b2, U2, W2, g2 = second
    A, b, U, W, g = eliminate(A1, b1, U1, W2, g2)
    pair = torch.cat([A2 @ U, U2], -1)
    return (A2 @ A, A2 @ b + b2, _triangle(pair.mT).mT, *stack(W, g, W1, g1))


def eliminate(
    A: Tensor, b: Tensor, U: Tensor, W: Tensor, g: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Condition `x = A z + b + U w` on `W x = g + noise` for any `z`.

    Returns:
        `(A, b, U, W, g)`: `x` given `z` and the equations, and what these say about `z`.
    """
    n, k = U.shape[-1], A.shape[-1]
    right = torch.cat([W @ U, W @ A, g - W @ b], -1)
    eye = torch.eye(n, right.shape[-1], dtype=right.dtype, device=right.device)
    R = _triangle(torch.cat([eye.expand(*right.shape[:-2], *eye.shape), right], -2))
    X, Y, x = R[..., :n, :n], R[..., :n, n : n + k], R[..., :n, n + k :]
    U = torch.linalg.solve_triangular(X, U, upper=True, left=False)
    return A - U @ Y, b + U @ x, U, R[..., n:, n : n + k], R[..., n:, n + k :]


def stack(W1: Tensor, g1: Tensor, W2: Tensor, g2: Tensor) -> tuple[Tensor, Tensor]:
    """Join two sets of equations `W z = g + noise` to `n` triangular ones."""
    n = W1.shape[-1]
    both = torch.cat([torch.cat([W1, g1], -1), torch.cat([W2, g2], -1)], -2)
    short = n - both.shape[-2]
    if short > 0:
        both = torch.nn.functional.pad(both, (0, 0, 0, short))
    R = _triangle(both)[..., :n, :]
    return R[..., :n], R[..., n:]


def predicted_from(columns: Columns, m: Tensor, F: Tensor) -> tuple[Tensor, Tensor]:
    """Predict each step from the filtered moments of the one before; the first from the start."""
    mean, factor = columns.start
    A, b, LQ = (x[1:] if x.shape[0] > 1 else x for x in (columns.A, columns.b, columns.LQ))
    a, AF = A @ m + b, A @ F
    L = tria(torch.cat([AF, LQ.expand_as(AF)], -1))
    shape = (1, *columns.y.shape[1:2], columns.A.shape[-1])
    first = mean.expand(*shape, columns.y.shape[-1]), factor.expand(*shape, shape[-1])
    return torch.cat([first[0], a]), torch.cat([first[1], L])


def update(columns: Columns, L: Tensor) -> Gains:
    """Condition factors `L` of predicted covariances on what each step observes."""
    rows = columns.seen[..., None]
    C, LR = (torch.where(rows, x, torch.zeros_like(x)) for x in (columns.C, columns.LR))
    CL = C @ L
    top = torch.cat([CL, LR.expand(*CL.shape[:-1], -1)], -1)
    size = top.norm(dim=-1)
    p, n = C.shape[-2:]
    if not bool(columns.seen.all()):
        top = torch.cat([top, torch.diag_embed((~columns.seen).to(L.dtype))], -1)
    below = torch.nn.functional.pad(L.expand(*top.shape[:-2], n, n), (0, top.shape[-1] - n))
    lower = tria(torch.cat([top, below], -2))
    chol, G, F = lower[..., :p, :p], lower[..., p:, :p], lower[..., p:, p:]
    pivots = chol.diagonal(dim1=-2, dim2=-1)
    tiny = 10 * lower.shape[-1] * torch.finfo(L.dtype).eps
    exact = columns.seen & (pivots <= tiny * size)
    safe = torch.where(exact, torch.ones_like(pivots), pivots)
    eye = torch.eye(p, dtype=L.dtype, device=L.device)
    W = torch.linalg.solve_triangular(
        chol + torch.diag_embed(safe - pivots), eye.expand(chol.shape), upper=False
    )
    W = torch.where(rows, W, torch.zeros_like(W))
    part = torch.where(columns.seen, safe / torch.where(size > 0, size, 1.0), 1.0)
    worst = torch.where(exact, torch.zeros_like(part), part).amin(-1)
    return Gains(L, F, G, W @ C, W, safe.log().sum(-1), torch.minimum(worst, _left(L, F, worst)))


def condition(columns: Columns, a: Tensor, gains: Gains, slot: Tensor | None = None) -> Forward:
    """Condition predicted means on what each step observes."""
    g = gains.at(slot)
    v = columns.y - columns.C @ a - columns.d
    e = g.W @ torch.where(columns.seen[..., None], v, torch.zeros_like(v))
    ll = standard_normal_log_prob(e.mT, columns.seen.sum(-1)[..., None]) - g.volume[..., None]
    return Forward(a, a + g.G @ e, e, ll, gains, slot)


def covariances(factor: Tensor, slot: Tensor | None) -> Tensor:
    """Return the covariance of each step from the factors of the slots."""
    cov = outer(factor)
    return cov if slot is None else cov[slot]


def lost_digits(columns: Columns, forward: Forward) -> float:
    """Return what the rounding of a product of two transitions costs, in posterior deviations.

    Small in any units of the states. States turned against each other, whose deviations cancel,
    lose more in products of many steps than one step at a time.
    """
    time = columns.time
    steps = torch.tensor([min(columns.A.shape[-1], time - 1), time // 2, time - 1])
    steps = steps.to(columns.A.device)
    A = (columns.A[steps] if columns.A.shape[0] > 1 else columns.A).abs()
    F = forward.gains.F[steps if forward.slot is None else forward.slot[steps]]
    whiten = torch.linalg.pinv(F, rtol=1e-10).abs()
    return float((whiten @ A @ A @ F.abs()).amax()) * torch.finfo(F.dtype).eps


def _left(L: Tensor, F: Tensor, worst: Tensor) -> Tensor:
    """Smallest ratio of a filtered to a predicted deviation; 0 is a state known exactly."""
    before, after = L.norm(dim=-1), F.norm(dim=-1)
    ratio = torch.where((before > 0) & (after > 0), after / before, torch.ones_like(before))
    return ratio.amin(-1).expand_as(worst)


def _steps(x: Tensor, time: int, members: int) -> Tensor:
    return x.expand(time, members, *x.shape[2:])


def _triangle(matrix: Tensor) -> Tensor:
    return torch.linalg.qr(matrix, mode="r").R
