"""Is a stated 90 % really 90 %? Reliability curves, and the factor that would put it right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.results import Forecast
from .scores import covered, standard_deviation

_LEVELS = tuple(i / 20 for i in range(1, 20))


class Reliability(NamedTuple):
    """Nominal against observed coverage of central intervals.

    Attributes:
        level: Nominal coverages, `(levels,)`.
        coverage: Observed shares, `(levels,)`.
        lower: Lower ends of the binomial band around the nominal coverage, `(levels,)`.
        upper: Upper ends.
        count: Number of observations behind each share.
    """

    level: Tensor
    coverage: Tensor
    lower: Tensor
    upper: Tensor
    count: int

    @property
    def error(self) -> float:
        """Mean absolute difference of nominal and observed coverage."""
        return (self.coverage - self.level).abs().mean().item()


def reliability(
    pit: Tensor, levels: Sequence[float] = _LEVELS, *, band: float = 0.9
) -> Reliability:
    """Read the coverage of every central interval off the probability integral transforms.

    An interval of level `l` holds `y` exactly if `|2 pit - 1| <= l`.

    Args:
        pit: Transforms of any shape; NaN entries are left out.
        levels: Nominal coverages.
        band: Probability that a right forecast's share lies in the band, level by level. It
            takes the observations as independent; forecasts of overlapping windows are not.

    Raises:
        ValueError: every transform is missing.

    Source:
        Gneiting, Balabdaoui and Raftery (2007), Probabilistic forecasts, calibration and
        sharpness, section 3.1.
    """
    from scipy.stats import binom

    seen = pit[~pit.isnan()]
    if not len(seen):
        raise ValueError(
            "`pit` must hold a number, got only NaN: nothing was observed to compare with."
        )
    level = torch.as_tensor(list(levels), dtype=seen.dtype, device=seen.device)
    coverage = ((2 * seen - 1).abs() <= level[:, None]).to(seen.dtype).mean(-1)
    ends = binom.ppf([[(1 - band) / 2], [(1 + band) / 2]], len(seen), level.cpu().numpy())
    lower, upper = torch.as_tensor(ends / len(seen)).to(level)
    return Reliability(level, coverage, lower, upper, len(seen))


def recalibration_factor(forecast: Forecast, y: Tensor, level: float | None = None) -> Tensor:
    """Return the factor by which standard deviations should be stretched.

    Args:
        forecast: Of the observations `y`.
        y: `(*batch, horizon, obs)`; NaN where missing.
        level: Match the coverage of this central interval; by default maximise the Gaussian
            likelihood, which gives `sqrt(mean(((y - mean) / sd)^2))`.

    Returns:
        One factor for each component, `(obs,)`, pooled over all else; above 1 if the forecast is
        overconfident. Estimate it on data that the score is not computed on.

    Source:
        Kuleshov, Fenner and Ermon (2018), Accurate uncertainties for deep learning using
        calibrated regression (here with one parameter).
    """
    sd = standard_deviation(forecast)
    error = ((y - forecast.mean) / torch.where(sd.isinf(), torch.nan, sd)).reshape(-1, y.shape[-1])
    if level is None:
        return error.square().nanmean(0).sqrt()
    needed = torch.nanquantile(error.abs(), level, dim=0)
    return needed / torch.special.ndtri(torch.as_tensor((1 + level) / 2, dtype=error.dtype))


def rescale(forecast: Forecast, factor: Tensor) -> Forecast:
    """Stretch a forecast of the observations about its mean; its states are dropped.

    Args:
        forecast: Any forecast.
        factor: One number for each component, `(obs,)`.
    """
    cov = forecast.cov * factor[:, None] * factor
    samples = forecast.samples
    if samples is not None:
        samples = forecast.mean + (samples - forecast.mean) * factor
    result = Forecast(forecast.mean, cov, samples)
    result.gaussian = forecast.gaussian
    return result.labelled(forecast.index, forecast.names)


def calibration_warnings(forecast: Forecast, y: Tensor, level: float = 0.9) -> list[str]:
    """Say in plain words if intervals are too narrow or too wide for chance to explain.

    Args:
        forecast: Of the observations `y`.
        y: `(*batch, horizon, obs)`.
        level: Nominal coverage to check.

    Returns:
        At most one sentence, given when fewer than one in a thousand right forecasts would look
        so bad, were the observations independent.
    """
    from scipy.stats import binom

    inside = covered(y, *forecast.interval(level))
    count, hits = int((~inside.isnan()).sum()), int(inside.nansum())
    lower, upper = binom.ppf([0.0005, 0.9995], count, level)
    if lower <= hits <= upper:
        return []
    verdict = "narrow" if hits < lower else "wide"
    return [
        f"Intervals are too {verdict}: the {level:.0%} band covered {hits / count:.0%} of "
        f"{count} held-out values."
    ]
