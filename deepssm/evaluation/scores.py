"""Proper scores and coverage of forecasts. Lower is better; a missing observation scores NaN.

Scores keep the shape of `y`, so that they can be averaged over any axes with `torch.nanmean`: an
observation that is missing is never counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from ..core.gaussian import whiten
from ..core.results import Forecast


def crps(forecast: Forecast, y: Tensor) -> Tensor:
    """Continuous ranked probability score, from the draws if there are any, else the moments.

    Args:
        forecast: Of the observations `y`.
        y: What happened, `(*batch, horizon, obs)`; NaN where nothing was seen.

    Returns:
        `(*batch, horizon, obs)`, in the units of `y`.
    """
    if forecast.samples is not None and not forecast.gaussian:
        return crps_samples(y, forecast.samples)
    return crps_gaussian(y, forecast.mean, standard_deviation(forecast))


def crps_gaussian(y: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
    """CRPS of a Gaussian, `sd (w (2 Phi(w) - 1) + 2 phi(w) - 1/sqrt(pi))`, `w = (y - mean) / sd`.

    Args:
        y: Any shape, as are `mean` and `sd`.
        mean: Predictive mean.
        sd: Predictive standard deviation. Where it is 0 the score is `|y - mean|`; where it is
            infinite nothing was forecast, and the score is NaN.

    Source:
        Gneiting, Raftery, Westveld and Goldman (2005), equation 5.
    """
    # scoringrules' torch backend takes 1/sqrt(pi) in float32, an error of 3e-8.
    error, certain = y - mean, sd == 0
    w = error / torch.where(certain, 1.0, sd)
    density = torch.exp(-w.square() / 2) / math.sqrt(2 * math.pi)
    score = sd * (w * (2 * torch.special.ndtr(w) - 1) + 2 * density - 1 / math.sqrt(math.pi))
    return torch.where(sd.isinf(), torch.nan, torch.where(certain, error.abs(), score))


def crps_samples(y: Tensor, samples: Tensor) -> Tensor:
    """CRPS estimated without bias from draws, `E|X - y| - E|X - X'| / 2`.

    Args:
        y: `(*axes)`.
        samples: At least two draws, `(num_samples, *axes)`.

    Raises:
        ValueError: there are fewer than two draws.

    Source:
        Zamo and Naveau (2018), Estimation of the CRPS with limited information, equation 10
        (probability-weighted moments, equal to the fair estimator).
    """
    import scoringrules

    if len(samples) < 2:
        raise ValueError(f"`samples` must hold two or more draws, got {len(samples)}.")
    members = samples.movedim(0, -1)
    return cast("Tensor", scoringrules.crps_ensemble(y, members, estimator="pwm", backend="torch"))


def energy_score(y: Tensor, samples: Tensor) -> Tensor:
    """Energy score `E||X - y|| - E||X - X'|| / 2`, the CRPS of a vector, without bias.

    Args:
        y: `(*axes, obs)`. Components that are missing are left out of the norms.
        samples: At least two draws, `(num_samples, *axes, obs)`.

    Returns:
        `(*axes)`, NaN where all of `y` is missing.

    Raises:
        ValueError: there are fewer than two draws.

    Source:
        Gneiting and Raftery (2007), Strictly proper scoring rules, section 4.3.
    """
    if len(samples) < 2:
        raise ValueError(f"`samples` must hold two or more draws, got {len(samples)}.")
    rows = y.reshape(-1, y.shape[-1])
    draws = samples.reshape(len(samples), -1, y.shape[-1]).movedim(0, 1)
    scores = [_energy(row, x) for row, x in zip(rows, draws, strict=True)]
    return torch.stack(scores).reshape(y.shape[:-1])


def _energy(y: Tensor, samples: Tensor) -> Tensor:
    seen = ~y.isnan()
    if not seen.any():
        return y.new_tensor(math.nan)
    x = samples[:, seen]
    # `pdist` holds each unordered pair once, so its mean is E||X - X'|| over distinct draws.
    return (x - y[seen]).norm(dim=-1).mean() - torch.nn.functional.pdist(x).mean() / 2


def log_score(y: Tensor, mean: Tensor, cov: Tensor) -> Tensor:
    """Negative log density of each step under a Gaussian with the forecast's moments, in nats.

    For a forecast by draws this is the Dawid-Sebastiani score of their moments (halved, with its
    constant), which is proper but judges the first two moments only.

    Args:
        y: `(*axes, obs)`; missing components are integrated out.
        mean: `(*axes, obs)`.
        cov: `(*axes, obs, obs)`, positive semi-definite: of a singular one it is the density on
            the support, and infinity off it. Components with infinite variance are left out.

    Returns:
        `(*axes)`, NaN where all of `y` is missing or was not forecast.

    Source:
        Gneiting and Raftery (2007), Strictly proper scoring rules, sections 4.1 and 4.2.
    """
    error, masked, seen = mask_gaussian(y - mean, cov)
    size = torch.where(seen, y.abs() + mean.abs(), 0.0)
    white, log_scale, counts = whiten(error, masked, size)
    count = (seen & counts).sum(-1, dtype=white.dtype)  # an integer would make it float32
    score = white.square().sum(-1) / 2 + log_scale.sum(-1) + count * math.log(2 * math.pi) / 2
    return torch.where(seen.any(-1), score, torch.nan)


def covered(y: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Return 1 where `lower <= y <= upper`, 0 elsewhere, NaN where nothing can be compared.

    That is where `y` is missing, and where the interval is all numbers: nothing was forecast.
    """
    inside = ((y >= lower) & (y <= upper)).to(lower.dtype)
    return torch.where(y.isnan() | lower.isinf() & upper.isinf(), torch.nan, inside)


def interval_score(y: Tensor, lower: Tensor, upper: Tensor, level: float) -> Tensor:
    """Width of a central interval plus a fine for missing it.

    `upper - lower + 2/alpha max(lower - y, 0) + 2/alpha max(y - upper, 0)`, `alpha = 1 - level`.

    Args:
        y: Any shape, as are the ends.
        lower: Lower ends.
        upper: Upper ends.
        level: Nominal coverage, such as 0.9.

    Source:
        Gneiting and Raftery (2007), Strictly proper scoring rules, equation 43.
    """
    import scoringrules

    score = scoringrules.interval_score(y, lower, upper, 1 - level, backend="torch")
    return torch.where(lower.isinf() & upper.isinf(), torch.nan, cast("Tensor", score))


def weighted_interval_score(
    forecast: Forecast, y: Tensor, levels: Sequence[float] = (0.5, 0.8, 0.95)
) -> Tensor:
    """Average the absolute error of the median with weighted interval scores at some levels.

    `(|y - median| / 2 + sum_k alpha_k/2 IS_k) / (K + 1/2)`, which tends to the CRPS as levels are
    added.

    Args:
        forecast: Of the observations `y`.
        y: `(*batch, horizon, obs)`.
        levels: Nominal coverages of the `K` intervals.

    Returns:
        `(*batch, horizon, obs)`, in the units of `y`.

    Source:
        Bracher, Ray, Gneiting and Reich (2021), Evaluating epidemic forecasts in an interval
        format, equation 1.
    """
    total = (y - forecast.quantile(0.5)).abs() / 2
    for level in levels:
        total = total + (1 - level) / 2 * interval_score(y, *forecast.interval(level), level)
    return total / (len(levels) + 0.5)


def pit_gaussian(y: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
    """Probability integral transform `Phi((y - mean) / sd)`: uniform if the forecast is right.

    NaN where the forecast was infinitely wide, and where it was a certainty that came true.

    Source:
        Dawid (1984), Statistical theory: the prequential approach.
    """
    return torch.where(sd.isinf(), torch.nan, torch.special.ndtr((y - mean) / sd))


def pit_samples(y: Tensor, samples: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Rank of `y` among draws, as a number in (0, 1) that is uniform if the forecast is right.

    `(#{x < y} + v (1 + #{x = y})) / (num_samples + 1)` with `v` uniform, so the
    distribution is exactly uniform also for counts and few draws.

    Args:
        y: `(*axes)`.
        samples: `(num_samples, *axes)`.
        generator: Source of the ties' random numbers.

    Source:
        Czado, Gneiting and Held (2009), Predictive model assessment for count data.
    """
    below = (samples < y).sum(0)
    ties = 1 + (samples == y).sum(0)
    v = torch.rand(y.shape, generator=generator, dtype=y.dtype, device=y.device)
    return torch.where(y.isnan(), torch.nan, (below + v * ties) / (len(samples) + 1))


def pit(forecast: Forecast, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Probability integral transform of `y`, from the draws if there are any, else the moments.

    Args:
        forecast: Of the observations `y`.
        y: `(*batch, horizon, obs)`.
        generator: Source of randomness for draws.
    """
    if forecast.samples is not None and not forecast.gaussian:
        return pit_samples(y, forecast.samples, generator)
    return pit_gaussian(y, forecast.mean, standard_deviation(forecast))


def naive_error(y: Tensor, period: int = 1) -> Tensor:
    """Mean absolute error of the seasonal naive forecast inside a series, the unit of MASE.

    Args:
        y: Training series, `(*batch, time, obs)`; pairs with a gap are left out.
        period: Season in steps; 1 compares neighbours.

    Returns:
        `(*batch, obs)`, NaN where no pair is complete.

    Raises:
        ValueError: the series is not longer than one period.

    Source:
        Hyndman and Koehler (2006), Another look at measures of forecast accuracy, section 3.
    """
    if not 1 <= period < y.shape[-2]:
        raise ValueError(
            f"`period` must be at least 1 and less than the {y.shape[-2]} steps of `y`, got "
            f"{period}."
        )
    return (y[..., period:, :] - y[..., :-period, :]).abs().nanmean(-2)


def scaled_error(y: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Absolute errors in units of the naive forecast's; their mean is MASE.

    Args:
        y: `(*batch, horizon, obs)`.
        mean: Point forecast, the same shape.
        scale: `naive_error` of the training series, `(*batch, obs)`.
    """
    return (y - mean).abs() / scale[..., None, :]


def standard_deviation(forecast: Forecast) -> Tensor:
    """Return the marginal predictive standard deviations, `(*batch, horizon, obs)`."""
    return forecast.cov.diagonal(dim1=-2, dim2=-1).sqrt()


def mask_gaussian(error: Tensor, cov: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Replace missing components by standard ones that are independent of the rest.

    Args:
        error: `(*axes, obs)`, NaN where missing.
        cov: `(*axes, obs, obs)`; a component of infinite variance counts as missing.

    Returns:
        Errors with zeros, covariances with unit rows, and what was seen, `(*axes, obs)`. Quadratic
        forms and log determinants of the result are those of the components seen.
    """
    seen = ~error.isnan() & cov.diagonal(dim1=-2, dim2=-1).isfinite()
    both = seen[..., :, None] & seen[..., None, :]
    eye = torch.eye(cov.shape[-1], dtype=cov.dtype, device=cov.device)
    return torch.where(seen, error, 0.0), torch.where(both, cov, eye), seen
