"""Angles on the line: which whole turns lie between images, and between a reading and its mean.

Gaussians live on the line, angles on the circle. Points that are more than half a turn apart are
told apart by continuity along the segment between them; a reading takes the turn that its
predictive distribution makes most probable.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from ...core.gaussian import beside, tria
from ..simulation.angles import Wrap, identity, is_angular
from .linearized import Conditional, Linearized

_HALVINGS = 10
"""Segments are followed from `2 ** -10` of their length: affine angles up to 3000 radians."""
_WIDE = 0.3
"""Standard deviation in radians from which turns are not told by the shortest way alone."""


class Images(NamedTuple):
    """A conditional at the centre, at the points of a rule, and at points that are not weighed.

    Attributes:
        distribution: At all of them; the centre is first, the points follow.
        centre: Mean at the centre, `(*batch, out)`.
        steps: Mean at each point less that at the centre, `(points, *batch, out)`.
        unweighted: How many come after the points.
    """

    distribution: Distribution
    centre: Tensor
    steps: Tensor
    unweighted: int


def images(
    conditional: Conditional, mean: Tensor, factor: Tensor, points: Tensor, wrap: Wrap
) -> Images:
    """Push points `m + L x_i` and take differences from the image of the centre `m`.

    A difference of angles is the one that arises continuously between centre and point: a heading
    that is pushed through an identity keeps a spread of any width, and a bearing stays within half
    a turn.

    Args:
        conditional: What to push through.
        mean: `m`, `(*batch, state)`.
        factor: `L`, `(*batch, state, state)`.
        points: `x_i`, `(points, state)`.
        wrap: Shortens differences of images.
    """
    x = torch.cat((torch.zeros_like(points[:1]), points))
    if wrap is identity:
        pushed = conditional(spread_out(mean, factor, x))
        return Images(pushed, pushed.mean[0], pushed.mean[1:] - pushed.mean[0], 0)
    count, fraction = len(points), 2.0**-_HALVINGS
    pushed = conditional(spread_out(mean, factor, torch.cat((x, fraction * points))))
    image = pushed.mean
    raw = image[1 : 1 + count] - image[0]
    with torch.no_grad():
        near = wrap(image[1 + count :] - image[0])
        turns = _turns(raw, near / fraction, wrap)
        doubt = (raw + turns - near / fraction).abs() > 1
        if bool((doubt & is_angular(wrap, raw)).any()):
            path = _followed(conditional, mean, factor, points, wrap)
            turns = _turns(raw, path, wrap)
    return Images(pushed, image[0], raw + turns, count)


def spread_out(mean: Tensor, factor: Tensor, points: Tensor) -> Tensor:
    """Return `m + L x_i`, `(points, *batch, state)`."""
    return mean + torch.einsum("...ij,kj->k...i", factor, points)


def _turns(raw: Tensor, expected: Tensor, wrap: Wrap) -> Tensor:
    """Return the whole turns that bring angular differences next to what is expected."""
    gap = raw - expected
    return wrap(gap) - gap


def _followed(
    conditional: Conditional, mean: Tensor, factor: Tensor, points: Tensor, wrap: Wrap
) -> Tensor:
    """Return twice the difference at half of each segment, found from its first thousandth on.

    Each is expected to be twice the one before. That is exact where angles are affine; and it
    errs by less than half a turn, so that the right turn is found, where they grow monotonically
    to less than half a turn, as a bearing does along any straight line.
    """
    fractions = [2.0**-k for k in range(_HALVINGS, 0, -1)]
    x = torch.cat([torch.zeros_like(points[:1]), *(f * points for f in fractions)])
    image = conditional(spread_out(mean, factor, x)).mean
    expected = torch.zeros_like(image[1 : 1 + len(points)])
    for at in image[1:].split(len(points)):
        raw = at - image[0]
        expected = 2 * (raw + _turns(raw, expected, wrap))
    return expected


def innovation(
    step: Linearized, y: Tensor, observed: Tensor, wrap: Wrap
) -> tuple[Tensor, Tensor | None]:
    """Return `y - mean` on the most probable turn, and what other turns add to its log-density.

    Components are taken in order, angles last: each is reduced given those before it, so that two
    compasses that agree stay together where the heading is unknown. The log-density becomes that
    of a wrapped normal distribution, term by term.

    Args:
        step: The linearised emission.
        y: `(*batch, obs)`, anything finite where missing.
        observed: `(*batch, obs)`.
        wrap: Shortens differences of observations.

    Returns:
        `(*batch, obs)`, and `(*batch,)` or `None` where predictions are narrow.

    Source: Babai (1986), Combinatorica 6, for the nearest plane; Mardia & Jupp (2000), section
        3.5.7, for the wrapped normal.
    """
    residual = wrap(y - step.mean)
    if wrap is identity:
        return residual, None
    angular = is_angular(wrap, residual)
    joint = beside(step.slope, step.spread)
    if not bool((joint.detach().norm(dim=-1)[..., angular] > _WIDE).any()):
        return residual, None
    order = angular.to(torch.uint8).argsort(stable=True)
    seen, circular = observed[..., order], angular[order].tolist()
    rows = torch.where(seen[..., None], joint[..., order, :], 0.0)
    rows = beside(rows, torch.diag_embed((~seen).to(rows.dtype)))
    scale = tria(rows)
    left, white, more = residual[..., order], [], torch.zeros_like(residual[..., 0])
    out = list(left.unbind(-1))
    for i, turns in enumerate(circular):
        rest = out[i] - sum((scale[..., i, j] * w for j, w in enumerate(white)), 0.0)
        sd = scale[..., i, i]
        if turns:
            short = torch.remainder(rest + math.pi, 2 * math.pi) - math.pi
            out[i], rest = out[i] + (short - rest).detach(), short
            more = more + torch.where(seen[..., i], _other_turns(rest, sd), 0.0)
        known = sd > 0
        white.append(torch.where(known, rest / torch.where(known, sd, 1.0), 0.0))
    return torch.stack(out, -1)[..., order.argsort()], more


def _other_turns(error: Tensor, sd: Tensor) -> Tensor:
    """Return the log of a wrapped normal density over that of the normal, at `|error| <= pi`."""
    narrow = sd < 2
    small, large = torch.where(narrow, sd, 1.0).clamp_min(1e-6), torch.where(narrow, 2.0, sd)
    turns = 2 * math.pi * torch.arange(-2, 3, dtype=sd.dtype, device=sd.device)
    square = error[..., None].square() - (error[..., None] + turns).square()
    sum_of_turns = torch.logsumexp(square / (2 * small[..., None].square()), -1)
    k = torch.arange(1, 5, dtype=sd.dtype, device=sd.device)
    waves = torch.exp(-k.square() * large[..., None].square() / 2) * torch.cos(
        k * error[..., None]
    )
    density = (1 + 2 * waves.sum(-1)) / (2 * math.pi)
    normal = -0.5 * (error / large).square() - (large * math.sqrt(2 * math.pi)).log()
    return torch.where(narrow, sum_of_turns, density.log() - normal)
