"""Weighted sums over data with gaps, clusters of them, and what a state in one-hot `z` holds."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def weighted_logs(count: Tensor, logs: Tensor) -> Tensor:
    """Return `sum_p count_p logs_kp`, in which `0 log 0` is 0 and has no gradient.

    Args:
        count: Numbers of at least 0, `(*axes, p)`.
        logs: Logarithms, `-inf` among them, `(k, p)`.

    Returns:
        `(*axes, k)`.
    """
    zero = torch.isneginf(logs)
    if not bool(zero.any()):
        return count @ logs.mT
    total = count @ torch.where(zero, 0.0, logs).mT
    hit = (count > 0).to(count.dtype) @ zero.to(count.dtype).mT > 0
    return torch.where(hit, -torch.inf, total)


def chosen(z: Tensor, values: Tensor) -> Tensor:
    """Return the values of the state in one-hot `z`; infinities of other states stay out.

    Args:
        z: `(*axes, k)`.
        values: `(k, p)`.
    """
    return z @ values if bool(torch.isfinite(values).all()) else values[z.argmax(-1)]


def log_row(z: Tensor, log_matrix: Tensor) -> Tensor:
    """Return the logarithms of `z' exp(log_matrix)`, exact where `z` is one-hot.

    Args:
        z: One-hot, or any weights, `(*axes, k)`.
        log_matrix: `(*axes, k, k)`, or what broadcasts to it.
    """
    matrix = log_matrix.expand(
        *torch.broadcast_shapes(z.shape[:-1], log_matrix.shape[:-2]), -1, -1
    )
    if bool(((z == 0) | (z == 1)).all()):
        index = z.argmax(-1).expand(matrix.shape[:-2])[..., None, None]
        return matrix.gather(-2, index.expand(*index.shape[:-1], matrix.shape[-1])).squeeze(-2)
    probs = (z[..., None, :] @ matrix.exp()).squeeze(-2)
    return torch.where(probs > 0, torch.where(probs > 0, probs, 1.0).log(), -torch.inf)


def weighted_mean(y: Tensor, weights: Tensor) -> Tensor:
    """Return means of `y` per state over what is observed, `(num_states, obs)`."""
    seen = ~torch.isnan(y)
    rows = weights.reshape(-1, weights.shape[-1])
    data = torch.where(seen, y, 0.0).reshape(-1, y.shape[-1])
    total = rows.mT @ seen.reshape(data.shape).to(y.dtype)
    return (rows.mT @ data) / total.clamp_min(math.ulp(0.0) ** 0.5)


def clusters(y: Tensor, count: int, generator: torch.Generator, rounds: int = 10) -> Tensor:
    """Return soft assignments of rows to `count` clusters, `(*batch, time, count)`, by k-means.

    Args:
        y: `(*batch, time, obs)`, NaN where missing.
        count: Number of clusters.
        generator: Chooses the first centres, each far from those before.
        rounds: Of k-means.

    Source: Arthur & Vassilvitskii (2007), k-means++.
    """
    flat = y.reshape(-1, y.shape[-1])
    mean, sd = flat.nanmean(0), _nan_sd(flat)
    data = torch.where(torch.isnan(flat), 0.0, (flat - mean) / sd)
    data = data.cpu()
    first = torch.randint(len(data), (1,), generator=generator)
    centres = data[first]
    for _ in range(count - 1):
        far = torch.cdist(data, centres).amin(-1).square() + 1e-12
        centres = torch.cat((centres, data[torch.multinomial(far, 1, generator=generator)]))
    for _ in range(rounds):
        nearest = torch.cdist(data, centres).argmin(-1)
        hot = functional.one_hot(nearest, count).to(data.dtype)
        size = hot.sum(0)[:, None]
        centres = torch.where(size > 0, (hot.mT @ data) / size.clamp_min(1), centres)
    soft = torch.softmax(-2 * torch.cdist(data, centres).square(), -1)
    return (0.9 * soft + 0.1 / count).to(y).reshape(*y.shape[:-1], count)


def _nan_sd(flat: Tensor) -> Tensor:
    sd = (flat - flat.nanmean(0)).square().nanmean(0).sqrt()
    return torch.where(sd > 0, sd, 1.0)
