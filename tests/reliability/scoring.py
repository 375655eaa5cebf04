"""How far an answer is from the exact one, in units a user cares about."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from deepssm.core.model import Series
from deepssm.inference.kalman.method import Kalman
from tests.given import Given

from .cases import Case
from .exact import Exact, Moments


class Tolerance(NamedTuple):
    """Relative for the log-likelihood, in posterior deviations for the moments."""

    log_likelihood: float
    mean: float
    cov: float


class Score(NamedTuple):
    """Errors as multiples of the tolerance; above 1 is wrong."""

    likelihood: float
    filtered: float
    smoothed: float
    flagged: bool

    @property
    def right(self) -> bool:
        return max(self[:3]) <= 1


TOLERANCES = {
    torch.float64: Tolerance(1e-6, 1e-3, 1e-3),
    torch.float32: Tolerance(1e-3, 3e-2, 3e-2),
}


def score(given: Case, truth: Exact) -> Score:
    """Run `Kalman()` on a case and measure it against the exact answer."""
    model, series = Given(given.params), Series(given.y)
    filtered, smoothed = Kalman().filter(model, series), Kalman().smooth(model, series)
    tolerance = TOLERANCES[given.y.dtype]
    total = float(filtered.log_likelihood.double().sum())
    pairs = [
        (Moments(filtered.mean, filtered.cov), truth.filtered),
        (Moments(filtered.predicted_mean, filtered.predicted_cov), truth.predicted),
    ]
    errors = [moments_error(ours, exact, truth, tolerance) for ours, exact in pairs]
    last = moments_error(Moments(smoothed.mean, smoothed.cov), truth.smoothed, truth, tolerance)
    cross = _cross_error(smoothed.cross_cov, truth, tolerance)
    flagged = bool(filtered.ill_conditioned) or bool(smoothed.ill_conditioned)
    return Score(
        likelihood_error(total, truth, tolerance), max(errors), _worst(last, cross), flagged
    )


def change(truth: Exact, other: Exact, tolerance: Tolerance) -> float:
    """How far two exact answers are apart, as a multiple of the tolerance."""
    pairs = zip(other[1:4], truth[1:4], strict=True)
    moments = [moments_error(ours, exact, truth, tolerance) for ours, exact in pairs]
    total = likelihood_error(float(other.log_likelihood), truth, tolerance)
    return _worst(total, *moments, _cross_error(other.cross_cov, truth, tolerance))


def likelihood_error(total: float, truth: Exact, tolerance: Tolerance) -> float:
    """Relative error over its tolerance; infinite for NaN."""
    exact = float(truth.log_likelihood)
    if total == exact:
        return 0.0
    error = abs(total - exact) / abs(exact) if exact else math.inf
    return error / tolerance.log_likelihood if math.isfinite(error) else math.inf


def moments_error(ours: Moments, exact: Moments, truth: Exact, tolerance: Tolerance) -> float:
    """Largest error of a mean in deviations and of a covariance in products of deviations."""
    unit = deviations(exact, truth)
    eps = torch.finfo(ours.mean.dtype).eps
    # A number of this dtype cannot say more than its own digits.
    digits = eps * exact.mean.abs() / tolerance.mean
    mean = (ours.mean.double() - exact.mean).abs() / (unit + digits) / tolerance.mean
    scale = unit[..., :, None] * unit[..., None, :]
    cov = (ours.cov.double() - exact.cov).abs() / scale / tolerance.cov
    return _worst(float(mean.nan_to_num(torch.inf).max()), float(cov.nan_to_num(torch.inf).max()))


def deviations(exact: Moments, truth: Exact) -> Tensor:
    """Deviations of the states, not below 1e-9 of what float64 has to add up to get the state."""
    sd = exact.cov.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    before = truth.predicted.cov.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    size = truth.predicted.mean.abs() + exact.mean.abs() + before
    floor = 1e-9 * size.amax(0)
    return torch.maximum(sd, floor) + torch.finfo(torch.float64).tiny


def _cross_error(ours: Tensor, truth: Exact, tolerance: Tolerance) -> float:
    unit = deviations(truth.smoothed, truth)
    scale = unit[1:, :, None] * unit[:-1, None, :]
    error = (ours[1:].double() - truth.cross_cov[1:]).abs() / scale / tolerance.cov
    return float(error.nan_to_num(torch.inf).max()) if len(error) else 0.0


def _worst(*errors: float) -> float:
    return max(math.inf if math.isnan(error) else error for error in errors)
