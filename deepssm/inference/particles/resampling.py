"""Resampling schemes: which particle each new particle descends from.

A scheme is a function of the normalised log-weights, `(particles, *batch)`, that draws ancestors
of the same shape so that particle `i` has `particles * weight_i` descendants on average.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Resampling = Callable[[Tensor], Tensor]


def systematic(log_weight: Tensor) -> Tensor:
    """Draw ancestors on one random comb: the least noise in most problems.

    Args:
        log_weight: Normalised, `(particles, *batch)`.

    Source: Kitagawa (1996), Journal of Computational and Graphical Statistics 5(1).
    """
    return _invert(log_weight, torch.rand_like(log_weight[:1]).expand_as(log_weight))


def stratified(log_weight: Tensor) -> Tensor:
    """Draw one ancestor in each of `particles` strata of equal mass.

    Args:
        log_weight: Normalised, `(particles, *batch)`.

    Source: Kitagawa (1996); never worse than multinomial (Douc, Cappé & Moulines, 2005).
    """
    return _invert(log_weight, torch.rand_like(log_weight))


def multinomial(log_weight: Tensor) -> Tensor:
    """Draw ancestors independently; the textbook scheme, and the noisiest.

    Args:
        log_weight: Normalised, `(particles, *batch)`.

    Source: Gordon, Salmond & Smith (1993), IEE Proceedings F 140(2).
    """
    count = log_weight.shape[0]
    return _search(log_weight.exp(), torch.rand_like(log_weight), count)


def residual(log_weight: Tensor) -> Tensor:
    """Keep `floor(particles * weight)` copies of each particle and draw the rest.

    Args:
        log_weight: Normalised, `(particles, *batch)`.

    Source: Liu & Chen (1998), Journal of the American Statistical Association 93.
    """
    count = log_weight.shape[0]
    expected = count * log_weight.exp()
    copies = expected.floor()
    rest = expected - copies
    missing = rest.sum(0, keepdim=True).clamp_min(torch.finfo(rest.dtype).tiny)
    drawn = _search(rest / missing, torch.rand_like(rest), count)
    # The first sum(copies) places are the copies, in order; the others take what was drawn.
    place = torch.arange(count, dtype=rest.dtype, device=rest.device)
    place = place.reshape(-1, *[1] * (rest.ndim - 1)).expand_as(rest)
    kept = torch.searchsorted(_last(copies.cumsum(0)), _last(place), right=True)
    kept = kept.movedim(-1, 0).clamp_max(count - 1)
    return torch.where(place < copies.sum(0), kept, drawn)


def effective_size(log_weight: Tensor) -> Tensor:
    """Return `1 / sum w^2`, how many equally weighted particles these are worth, `(*batch,)`.

    Args:
        log_weight: Normalised, `(particles, *batch)`.

    Source: Kong, Liu & Wong (1994), Journal of the American Statistical Association 89.
    """
    return torch.exp(-torch.logsumexp(2 * log_weight, 0))


def _invert(log_weight: Tensor, uniform: Tensor) -> Tensor:
    count = log_weight.shape[0]
    rank = torch.arange(count, dtype=log_weight.dtype, device=log_weight.device)
    rank = rank.reshape(-1, *[1] * (log_weight.ndim - 1))
    return _search(log_weight.exp(), (rank + uniform) / count, count)


def _search(weight: Tensor, ticks: Tensor, count: int) -> Tensor:
    cumulative = weight.cumsum(0)
    # Round-off must not leave the last tick beyond the end of the comb.
    cumulative = cumulative / cumulative[-1:].clamp_min(torch.finfo(weight.dtype).tiny)
    found = torch.searchsorted(_last(cumulative), _last(ticks), right=True)
    return found.movedim(-1, 0).clamp_max(count - 1)


def _last(x: Tensor) -> Tensor:
    return x.movedim(0, -1).contiguous()
