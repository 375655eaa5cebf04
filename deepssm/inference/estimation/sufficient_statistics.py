"""Expected sufficient statistics of a linear-Gaussian model, with gaps treated as latent."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...core.results import Smoothed


class Moments(NamedTuple):
    """`sum_t E[s_t s_t'], E[s_t x_t'], E[x_t x_t']` of a regression `s = G x + noise`.

    Attributes:
        ss: `(n, n)`.
        sx: `(n, k)`.
        xx: `(k, k)`.
        count: Number of summed terms.
    """

    ss: Tensor
    sx: Tensor
    xx: Tensor
    count: int

    def solve(self, fixed: Tensor, free: Tensor) -> Tensor:
        """Return the maximiser of `G` whose columns outside `free` stay at `fixed`.

        Args:
            fixed: `(n, k)`.
            free: Which columns move, `(k,)` of bool.
        """
        if not bool(free.any()):
            return fixed
        kept = torch.where(free, torch.zeros_like(fixed), fixed)
        target = (self.sx - kept @ self.xx)[:, free]
        solution = fixed.clone()
        solution[:, free] = torch.linalg.solve(self.xx[free][:, free], target.mT).mT
        return solution

    def noise(self, G: Tensor) -> Tensor:
        """Return the covariance of `s - G x` that maximises the expected density."""
        half = self.sx @ G.mT
        total = self.ss - half - half.mT + G @ self.xx @ G.mT
        return (total + total.mT) / (2 * self.count)


def transition_moments(smoothed: Smoothed, u: Tensor | None) -> Moments:
    """Return the moments of `z_t` on `x_t = [z_{t-1}, u_t, 1]` for `t > 1`, summed over series."""
    mean, cov = smoothed.mean, smoothed.cov
    now, before = mean[..., 1:, :], mean[..., :-1, :]
    extra = _regressors(now, None if u is None else u[..., 1:, :])
    x = torch.cat([before, extra], -1)
    n = mean.shape[-1]
    ss = _outer(now, now) + _total(cov[..., 1:, :, :])
    sx = _outer(now, x)
    sx[:, :n] += _total(smoothed.cross_cov[..., 1:, :, :])
    xx = _outer(x, x)
    xx[:n, :n] += _total(cov[..., :-1, :, :])
    return Moments(ss, sx, xx, now[..., 0].numel())


def emission_moments(
    y: Tensor, smoothed: Smoothed, u: Tensor | None, C: Tensor, offset: Tensor, R: Tensor
) -> Moments:
    """Return the moments of `y_t` on `x_t = [z_t, u_t, 1]`, missing entries integrated out.

    A missing component is `g + H z + e`, `e ~ N(0, V)`, given the state and what was seen.

    Args:
        y: `(*batch, time, obs)` with NaN.
        smoothed: Under the present parameters.
        u: `(*batch, time, input)`.
        C: Present emission matrix, `(obs, state)`.
        offset: Present `D u + d`, broadcastable to `y`.
        R: Present noise covariance, `(obs, obs)`.

    Source: Shumway & Stoffer (1982), Journal of Time Series Analysis 3, 253-264.
    """
    mean, cov = smoothed.mean, smoothed.cov
    seen = ~y.isnan()
    gain = _gain(R, seen)
    clean = torch.where(seen, y - offset, torch.zeros_like(y))
    g = offset + (gain @ clean[..., None])[..., 0]
    H = C - gain @ torch.where(seen[..., None], C, torch.zeros_like(C))
    V = R - gain @ torch.where(seen[..., None], R, torch.zeros_like(R))
    expected = g + (H @ mean[..., None])[..., 0]
    x = torch.cat([mean, _regressors(mean, u)], -1)
    n = mean.shape[-1]
    spread = H @ cov
    ss = _outer(expected, expected) + _total(spread @ H.mT + V)
    sx = _outer(expected, x)
    sx[:, :n] += _total(spread)
    xx = _outer(x, x)
    xx[:n, :n] += _total(cov)
    return Moments(ss, sx, xx, y[..., 0].numel())


def _gain(R: Tensor, seen: Tensor) -> Tensor:
    """Return `R_{.o} R_oo^{-1}` spread over all columns, zero in those not seen."""
    pair = seen[..., :, None] & seen[..., None, :]
    eye = torch.eye(R.shape[-1], dtype=R.dtype, device=R.device)
    right = torch.where(seen[..., None], R, torch.zeros_like(R))
    return torch.linalg.solve(torch.where(pair, R, eye), right).mT


def _regressors(like: Tensor, u: Tensor | None) -> Tensor:
    ones = like.new_ones(*like.shape[:-1], 1)
    return ones if u is None else torch.cat([u.expand(*like.shape[:-1], -1), ones], -1)


def _outer(a: Tensor, b: Tensor) -> Tensor:
    return a.reshape(-1, a.shape[-1]).mT @ b.reshape(-1, b.shape[-1])


def _total(x: Tensor) -> Tensor:
    return x.reshape(-1, *x.shape[-2:]).sum(0)
