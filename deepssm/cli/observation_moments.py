"""From states back to observations: what a sensor would have shown, with its uncertainty."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..core.abilities import LinearGaussianModel
from ..core.diffuse import Diffuse, image_cov
from ..core.model import Series, StateSpaceModel


class ObservationMoments(NamedTuple):
    """Moments of the observations that belong to states.

    Attributes:
        mean: `(time, obs)`.
        signal_sd: Uncertainty of the noise-free observation, `(time, obs)`.
        sd: Uncertainty of an observation, noise included, `(time, obs)`.
    """

    mean: Tensor
    signal_sd: Tensor
    sd: Tensor


def from_moments(
    model: StateSpaceModel,
    mean: Tensor,
    cov: Tensor,
    series: Series,
    *,
    diffuse: Diffuse | None = None,
    draws: int = 400,
) -> ObservationMoments:
    """Return the moments of observations given those of Gaussian states.

    Exact for a linear model; for others by draws with a fixed seed.

    Args:
        model: Whose emission it is.
        mean: `(time, state)`.
        cov: `(time, state, state)`.
        series: Inputs and time steps.
        diffuse: Directions in which `cov` is infinite.
        draws: Number of draws where there is no exact answer.
    """
    if isinstance(model, LinearGaussianModel):
        return _exact(model, mean, cov, series, diffuse)
    generator = torch.Generator(mean.device).manual_seed(0)
    values, vectors = torch.linalg.eigh((cov + cov.mT) / 2)
    factor = vectors * values.clamp(min=0).sqrt()[..., None, :]
    noise = torch.randn(
        draws, *mean.shape, 1, generator=generator, dtype=mean.dtype, device=mean.device
    )
    return from_draws(model, mean + (factor @ noise)[..., 0], series.u)


def from_draws(model: StateSpaceModel, z: Tensor, u: Tensor | None) -> ObservationMoments:
    """Return the moments of observations given draws of the states, `(draws, time, state)`."""
    with torch.no_grad():
        emission = model.emission(z, u)
        signal, noise = emission.mean, emission.variance
    between = signal.var(0)
    return ObservationMoments(signal.mean(0), between.sqrt(), (between + noise.mean(0)).sqrt())


def _exact(
    model: LinearGaussianModel,
    mean: Tensor,
    cov: Tensor,
    series: Series,
    diffuse: Diffuse | None,
) -> ObservationMoments:
    with torch.no_grad():
        C, offset, R = model.linear_parameters(series.u, series.dt).emission
        centre = (C @ mean[..., None])[..., 0] + offset
        spread = image_cov(C, cov, diffuse).diagonal(dim1=-2, dim2=-1)
        noise = R.diagonal(dim1=-2, dim2=-1)
        signal_sd = spread.clamp(min=0).sqrt().expand_as(centre)
        return ObservationMoments(
            centre, signal_sd, (spread.clamp(min=0) + noise).sqrt().expand_as(centre)
        )
