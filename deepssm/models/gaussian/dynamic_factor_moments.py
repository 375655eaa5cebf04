"""How a dynamic factor model climbs its expected log joint density: one step of EM."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...core.model import Series
from ...core.results import Smoothed
from ..structural.regression import Autoregressive


class Rows(NamedTuple):
    """Moments of each observed series on `x_t = [f_t, 1]`, over the steps at which it was seen.

    Attributes:
        yy: `sum_t y_t^2`, `(obs,)`.
        yx: `sum_t y_t E[x_t]`, `(obs, k)`.
        xx: `sum_t E[x_t x_t']`, `(obs, k, k)`.
        count: Steps seen, `(obs,)`.
    """

    yy: Tensor
    yx: Tensor
    xx: Tensor
    count: Tensor

    def regression(self, present: Tensor, free: Tensor) -> Tensor:
        """Return the best coefficients, `(obs, k)`; columns outside `free` stay at `present`.

        Args:
            present: `(obs, k)`.
            free: Which columns move, `(k,)` of bool.
        """
        kept = torch.where(free, torch.zeros_like(present), present)
        target = (self.yx - (self.xx @ kept[..., None])[..., 0])[:, free]
        inverse = torch.linalg.pinv(self.xx[:, free][:, :, free], hermitian=True)
        found = present.clone()
        found[:, free] = (inverse @ target[..., None])[..., 0]
        return torch.where(self.count[:, None] > 0, found, present)

    def noise(self, coefficients: Tensor, present: Tensor) -> Tensor:
        """Return the best noise variances, `(obs,)`; `present` where nothing was seen."""
        fit = (self.xx @ coefficients[..., None])[..., 0]
        total = self.yy + (coefficients * (fit - 2 * self.yx)).sum(-1)
        found = total / self.count.clamp_min(1)
        return torch.where((self.count > 0) & (found > 0), found, present)


def emission_rows(series: Series, smoothed: Smoothed, factors: list[int]) -> Rows:
    """Return the moments of the emission, of which every row has noise of its own.

    Args:
        series: The data.
        smoothed: Moments of the states.
        factors: Where the factors stand among the states.
    """
    y = series.y.reshape(-1, series.y.shape[-1])
    seen = (~y.isnan()).to(y)
    y = torch.where(y.isnan(), torch.zeros_like(y), y)
    mean = smoothed.mean[..., factors].reshape(len(y), -1)
    cov = smoothed.cov[..., factors, :][..., factors].reshape(len(y), -1)
    x = torch.cat([mean, torch.ones_like(mean[:, :1])], -1)
    k = mean.shape[-1]
    xx = torch.einsum("tj,ta,tb->jab", seen, x, x)
    xx[:, :k, :k] += (seen.mT @ cov).reshape(-1, k, k)
    return Rows((y * y).sum(0), y.mT @ x, xx, seen.sum(0))


class Lags(NamedTuple):
    """Moments of an autoregression `f_t = phi' x_{t-1} + e_t`, `e ~ N(0, 1)`, over all series.

    Attributes:
        fx: `sum_{t > 1} E[f_t x_{t-1}]`, `(order,)`.
        xx: `sum_{t > 1} E[x_{t-1} x_{t-1}']`, `(order, order)`.
        first: `sum E[x_1 x_1']` over series, `(order, order)`.
        count: Number of series.
    """

    fx: Tensor
    xx: Tensor
    first: Tensor
    count: int

    def loss(self, part: Autoregressive) -> Tensor:
        """Return minus the expected log density up to constants, in nats."""
        phi, cov = part.coefficients, part.start().cov
        steps = (phi @ self.xx @ phi) / 2 - phi @ self.fx
        lower = torch.linalg.cholesky(cov)
        start = torch.cholesky_solve(self.first, lower).diagonal().sum() / 2
        return steps + start + self.count * lower.diagonal().log().sum()


def lag_moments(smoothed: Smoothed, rows: slice) -> Lags:
    """Return the moments of one factor.

    Args:
        smoothed: Moments of the states.
        rows: Which states are the factor and its lags.
    """
    mean, cov = smoothed.mean[..., rows], smoothed.cov[..., rows, rows]
    n = mean.shape[-1]
    second = cov + mean[..., :, None] * mean[..., None, :]
    cross = smoothed.cross_cov[..., 1:, rows, rows][..., 0, :]
    fx = cross + mean[..., 1:, :1] * mean[..., :-1, :]
    first = second[..., 0, :, :].reshape(-1, n, n)
    before = second[..., :-1, :, :].reshape(-1, n, n)
    return Lags(fx.reshape(-1, n).sum(0), before.sum(0), first.sum(0), len(first))


def climb_lags(part: Autoregressive, moments: Lags) -> None:
    """Move a factor's partial autocorrelations to the maximum of its expected density."""
    held = part.get_parameter("partial_autocorrelations_unconstrained")
    before = held.detach().clone()
    optimizer = torch.optim.LBFGS(
        [held], max_iter=50, tolerance_grad=1e-9, tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        with torch.enable_grad():
            loss = moments.loss(part) / moments.xx.diagonal().sum().clamp_min(1.0)
        (held.grad,) = torch.autograd.grad(loss, held)
        return loss

    start = float(closure())
    optimizer.step(closure)  # pyright: ignore[reportArgumentType]  # torch wants a float
    if not float(closure()) <= start:
        with torch.no_grad():
            held.copy_(before)
    held.grad = None
