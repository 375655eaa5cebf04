"""Are the one-step errors of a fitted model white, normal and of constant variance?"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor

from ..core.abilities import LinearGaussianModel
from ..core.gaussian import whiten
from ..core.methods import InferenceMethod
from ..core.model import Series, StateSpaceModel
from .scores import mask_gaussian


class ResidualTests(NamedTuple):
    """Test statistics and p-values, one for each series and component, `(*batch, obs)`.

    Attributes:
        ljung_box: Statistic and p-value against autocorrelation.
        jarque_bera: Statistic and p-value against non-normality.
        heteroskedasticity: Ratio of late to early mean squares, and its two-sided p-value.
        skewness: 0 for a normal distribution.
        kurtosis: 3 for a normal distribution.
        lags: Lags in the Ljung-Box statistic.
    """

    ljung_box: tuple[Tensor, Tensor]
    jarque_bera: tuple[Tensor, Tensor]
    heteroskedasticity: tuple[Tensor, Tensor]
    skewness: Tensor
    kurtosis: Tensor
    lags: int


def residuals(model: StateSpaceModel, series: Series, method: InferenceMethod) -> Tensor:
    """Return standardised one-step errors, `N(0, I)` if the model is right, `(*batch, time, obs)`.

    Components of a step are decorrelated in their order. NaN are missing entries, those that a
    diffuse start still leaves open, and those without noise that others of the step determine;
    such a one that is not what it must be is infinite.

    Args:
        model: A linear-Gaussian model.
        series: The data.
        method: How to filter.

    Raises:
        ValueError: the model is not linear-Gaussian.

    Source: Durbin & Koopman (2012), sections 2.12 and 7.5.
    """
    if not isinstance(model, LinearGaussianModel):
        raise ValueError(
            f"Residuals need a linear-Gaussian model, got {type(model).__name__}. Use "
            "`deepssm.evaluation` (PIT, coverage) for it."
        )
    with torch.no_grad():
        filtered = method.filter(model, series)
        linear = cast(LinearGaussianModel, model).linear_parameters(series.u, series.dt)
    C, d, R = (x.detach().to(series.y) for x in linear.emission)
    expected = (C @ filtered.predicted_mean[..., None])[..., 0] + d
    S = filtered.predicted_image_cov(C) + R
    error, masked, seen = mask_gaussian(series.y - expected, S)
    size = torch.where(seen, series.y.abs() + expected.abs(), 0.0)
    white, _, counts = whiten(error, masked, size)
    # What is off the support is no standard normal, however large.
    return torch.where(seen & counts, white, torch.where(seen & white.isinf(), white, torch.nan))


def residual_tests(standardized: Tensor, lags: int | None = None) -> ResidualTests:
    r"""Test standardised residuals for whiteness, normality and constant variance.

    .. math:: Q = n(n+2) \sum_{k=1}^{m} \frac{r_k^2}{n-k}, \quad
        N = n \left( \frac{S^2}{6} + \frac{(K-3)^2}{24} \right), \quad
        H = \frac{\sum_{t > n-h} e_t^2}{\sum_{t \le h} e_t^2}

    With `h` a third of `n`. Missing residuals are left out; lags pair what was
    seen that far apart.

    Args:
        standardized: `(*batch, time, obs)`, NaN where there is none.
        lags: `m`; by default a tenth of the observations, between 1 and 20.

    Source: Ljung & Box (1978); Jarque & Bera (1987); Harvey (1989), section 5.4;
        Durbin & Koopman (2012), section 2.12.1.
    """
    from scipy import stats

    e = standardized.movedim(-2, -1).detach().double().cpu()
    n = (~e.isnan()).sum(-1)
    if lags is None:
        lags = int(max(1, min(20, n.max().item() // 10))) if n.numel() else 1
    centred = e - e.nanmean(-1, keepdim=True)
    variance = centred.square().nanmean(-1)
    skewness = centred.pow(3).nanmean(-1) / variance**1.5
    kurtosis = centred.pow(4).nanmean(-1) / variance.square()
    normality = n * (skewness.square() / 6 + (kurtosis - 3).square() / 24)
    whiteness = _ljung_box(centred, variance, n, lags)
    ratio, h = _late_over_early(e, n)
    tail = torch.from_numpy(stats.f.cdf(ratio.numpy(), h.numpy(), h.numpy()))
    return ResidualTests(
        (whiteness, torch.from_numpy(stats.chi2.sf(whiteness.numpy(), lags))),
        (normality, torch.from_numpy(stats.chi2.sf(normality.numpy(), 2))),
        (ratio, 2 * torch.minimum(tail, 1 - tail)),
        skewness,
        kurtosis,
        lags,
    )


def autocorrelation(e: Tensor, lag: int) -> tuple[Tensor, Tensor]:
    """Return the correlation of what was seen `lag` apart, and how many pairs there were.

    Args:
        e: Series on the last axis, `(*axes, time)`, NaN where missing.
        lag: Steps apart, at least 1.
    """
    centred = e - e.nanmean(-1, keepdim=True)
    product = centred[..., lag:] * centred[..., :-lag]
    pairs = (~product.isnan()).sum(-1)
    return product.nanmean(-1) / centred.square().nanmean(-1), pairs


def _ljung_box(e: Tensor, variance: Tensor, n: Tensor, lags: int) -> Tensor:
    total = torch.zeros_like(variance)
    for lag in range(1, min(lags, e.shape[-1] - 1) + 1):
        r, pairs = autocorrelation(e, lag)
        total = total + torch.where(pairs > 0, pairs * r.square(), torch.zeros_like(r))
    return total * (n + 2) / n


def _late_over_early(e: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """Compare the last third of the residuals that exist with the first."""
    h = (n / 3).round()
    rank = (~e.isnan()).cumsum(-1)
    square = torch.where(e.isnan(), torch.zeros_like(e), e.square())
    early = torch.where(rank <= h[..., None], square, torch.zeros_like(e)).sum(-1)
    late = torch.where(rank > (n - h)[..., None], square, torch.zeros_like(e)).sum(-1)
    return late / early, h
