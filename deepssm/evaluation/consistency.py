"""Do the errors have the size that the filter claims? NIS, NEES and their chi-square bands."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..core.abilities import LinearGaussianModel
from ..core.gaussian import whiten
from ..core.model import Series
from ..core.results import Filtered
from .scores import mask_gaussian


class Squared(NamedTuple):
    """Squared errors in units of the claimed covariance.

    Attributes:
        value: `e' S^-1 e`, `(*batch, time)`; NaN where nothing can be compared.
        dof: Number of components in each, `(*batch, time)`.
    """

    value: Tensor
    dof: Tensor


class Consistency(NamedTuple):
    """The mean of a squared error against what chance allows.

    Attributes:
        mean: Sum of the squared errors over sum of their degrees of freedom; 1 if the filter is
            right, above 1 if it is overconfident.
        lower: Lower end of the chi-square band.
        upper: Upper end of the chi-square band.
        count: Sum of the degrees of freedom.
    """

    mean: float
    lower: float
    upper: float
    count: int

    @property
    def consistent(self) -> bool:
        """Whether the mean lies in the band."""
        return self.lower <= self.mean <= self.upper


class Innovations(NamedTuple):
    """One-step prediction errors of a filter.

    Attributes:
        mean: Predicted observations, `(*batch, time, obs)`.
        error: Observed minus predicted, `(*batch, time, obs)`; NaN where nothing was seen.
        cov: Claimed covariances, `(*batch, time, obs, obs)`; infinite where a diffuse start still
            leaves the observation open.
    """

    mean: Tensor
    error: Tensor
    cov: Tensor

    @property
    def standardized(self) -> Tensor:
        """Errors over their standard deviations, `(*batch, time, obs)`.

        NaN where these are infinite or zero.
        """
        sd = self.cov.diagonal(dim1=-2, dim2=-1).sqrt()
        return torch.where(sd.isfinite() & (sd > 0), self.error / sd, torch.nan)


def innovations(model: LinearGaussianModel, series: Series, filtered: Filtered) -> Innovations:
    """Return the one-step prediction errors `v = y - C a - d` and `S = C P C' + R`.

    Args:
        model: A linear-Gaussian model.
        series: Checked data; see `deepssm.as_series`.
        filtered: Result of filtering them.

    Source:
        Durbin and Koopman (2012), Time Series Analysis by State Space Methods, equation 4.13.
    """
    with torch.no_grad():
        emission = model.linear_parameters(series.u, series.dt).emission
    C = emission.matrix
    mean = (C @ filtered.predicted_mean[..., None])[..., 0] + emission.offset
    cov = filtered.predicted_image_cov(C) + emission.cov
    return Innovations(mean, series.y - mean, cov)


def normalized_squared_error(error: Tensor, cov: Tensor, size: Tensor | None = None) -> Squared:
    """Return `e' S^-1 e`, the NIS of innovations or the NEES of state errors.

    Args:
        error: `(*batch, time, size)`; NaN components are integrated out.
        cov: Claimed covariances, `(*batch, time, size, size)`. Components of infinite variance (a
            diffuse start) are left out. One that others determine adds no degree of freedom, and
            makes the result infinite if it is not what it must be.

        size: Size of what the errors are differences of, shaped like them: their round-off.

    Source:
        Bar-Shalom, Li and Kirubarajan (2001), Estimation with Applications to Tracking and
        Navigation, section 5.4.
    """
    error, masked, seen = mask_gaussian(error, cov)
    white, _, counts = whiten(error, masked, size)
    dof = (seen & counts).sum(-1)
    value = white.square().sum(-1)
    return Squared(torch.where((dof > 0) | value.isinf(), value, torch.nan), dof)


def nees(z: Tensor, mean: Tensor, cov: Tensor) -> Squared:
    """Normalized estimation error squared, for simulated data whose states are known.

    Args:
        z: True states, `(*batch, time, state)`.
        mean: Estimates, `(*batch, time, state)`.
        cov: Claimed covariances, `(*batch, time, state, state)`.
    """
    return normalized_squared_error(z - mean, cov, z.abs() + mean.abs())


def nis(found: Innovations) -> Squared:
    """Normalized innovation squared, `(*batch, time)`; independent over time if all is right.

    Args:
        found: Result of `innovations`.
    """
    size = (2 * found.mean.abs() + found.error.abs()).nan_to_num(0.0)
    return normalized_squared_error(found.error, found.cov, size)


def consistency(squared: Squared, level: float = 0.95) -> Consistency:
    """Compare the mean squared error with its chi-square band.

    The band is exact for the NIS of a linear-Gaussian filter. State errors are correlated in
    time, so for NEES use one step of many independent runs.

    Args:
        squared: Result of `nis` or `nees`.
        level: Probability that a right filter lies in the band.
    """
    from scipy.stats import chi2

    count = int(squared.dof.sum())
    lower, upper = chi2.ppf([(1 - level) / 2, (1 + level) / 2], count) / count
    mean = squared.value.detach().nansum().item() / count
    return Consistency(mean, float(lower), float(upper), count)
