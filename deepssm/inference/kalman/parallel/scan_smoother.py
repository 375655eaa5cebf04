"""The smoother in `O(log time)` parallel steps: what the future says about each state, by a scan.

The same elements as the filter's, multiplied from the end, leave whitened equations `W z_t = g +
noise` for the state, given all later observations. Joined to the filtered factor by one QR they
give the smoothed moments; their score and information give the gradient. There is no inverse of
`P` or `Q`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ....core.gaussian import outer, tria
from ....linear.prefix import prefix_products
from .layout import Columns
from .passes import Forward, Gains
from .scan import combine, covariances, elements, eliminate, stack


class LaterData(NamedTuple):
    """What later observations say about each state, counted from its filtered mean.

    Attributes:
        W: Whitened equations `W (z_t - m_t) = g + noise`, `(time, members, n, n)`.
        g: `(time, members, n, columns)`.
        link: `z_t = link z_{t-1} + ...` given all observations, `(time - 1, members, n, n)`.
    """

    W: Tensor
    g: Tensor
    link: Tensor


class Adjoint(NamedTuple):
    """Derivatives of the likelihood of later observations by a filtered state's moments.

    Attributes:
        r: By the mean, `(time, members, n, columns)`.
        N: `r r' - N` is twice that by the covariance, `(time, members, n, n)`.
    """

    r: Tensor
    N: Tensor


class Smoothing(NamedTuple):
    """Smoothed means `(time, members, n, columns)`, covariances and lag-one covariances."""

    mean: Tensor
    cov: Tensor
    cross: Tensor


def scan_later_data(
    columns: Columns, forward: Forward, end: tuple[Tensor, Tensor] | None = None
) -> LaterData:
    """Gather what the future says about each state.

    Args:
        columns: A model and data.
        forward: The filter's results.
        end: Equations for the last state, from what follows the data; none by default.
    """
    made = elements(columns, forward)
    if made is None:
        raise ValueError("`forward` must come from a filter of the same model.")
    n = columns.A.shape[-1]
    last = tuple(torch.zeros_like(x[:1]) for x in made)
    if end is not None:
        last = (*last[:3], *end)
    steps = tuple(torch.cat([x[1:], z]) for x, z in zip(made, last, strict=True))
    *_, W, g = prefix_products(combine, steps, reverse=True)
    A, b, U, own_W, own_g = (x[1:] for x in made)
    # Once more from each product, one step back: it removes what round-off they gathered.
    link, _, _, W_back, g_back = eliminate(A, b, U, W[1:], g[1:])
    W_before, g_before = stack(W_back, g_back, own_W, own_g)
    return LaterData(torch.cat([W_before, W[-1:, :, :n]]), torch.cat([g_before, g[-1:]]), link)


def scan_smoother(
    columns: Columns, forward: Forward, later_data: LaterData | None = None
) -> Smoothing:
    """Return the smoothed moments of all steps."""
    W, g, link = later_data or scan_later_data(columns, forward)
    F = forward.gains.at(forward.slot).F
    _, shift, factor, _, _ = eliminate(F[..., :0], torch.zeros_like(forward.m), F, W, g)
    cov = outer(factor)
    cross = torch.cat([torch.zeros_like(cov[:1]), link @ cov[:-1]])
    return Smoothing(forward.m + shift, cov, cross)


def scan_adjoint(columns: Columns, forward: Forward) -> Adjoint:
    """Return the derivatives by the filtered moments of every step."""
    return adjoint_of(scan_later_data(columns, forward), forward.gains.at(forward.slot).F)


def adjoint_of(later_data: LaterData, F: Tensor) -> Adjoint:
    """Turn equations for states into derivatives by their filtered moments.

    Args:
        later_data: The equations.
        F: Filtered factors, `(time, members, n, n)`.
    """
    W, g, _ = later_data
    eye = torch.eye(F.shape[-1], dtype=F.dtype, device=F.device).expand(W.shape)
    spread = tria(torch.cat([eye, W @ F], -1))
    both = torch.linalg.solve_triangular(spread, torch.cat([W, g], -1), upper=False)
    H, white = both[..., : W.shape[-1]], both[..., W.shape[-1] :]
    return Adjoint(H.mT @ white, H.mT @ H)


def before(adjoint: Adjoint, e: Tensor, gains: Gains) -> Adjoint:
    """Turn derivatives by filtered moments into those by predicted moments.

    Args:
        adjoint: By filtered moments.
        e: Whitened innovations, `(time, members, p, columns)`.
        gains: Of each step.
    """
    r, N = adjoint
    eye = torch.eye(N.shape[-1], dtype=N.dtype, device=N.device)
    left = eye - gains.G @ gains.H
    return Adjoint(r + gains.H.mT @ (e - gains.G.mT @ r), outer(gains.H.mT) + left.mT @ N @ left)


def moments(forward: Forward) -> tuple[Tensor, Tensor]:
    """Return filtered and predicted covariances, `(time, members, n, n)`."""
    return tuple(covariances(x, forward.slot) for x in (forward.gains.F, forward.gains.L))  # type: ignore[return-value]
