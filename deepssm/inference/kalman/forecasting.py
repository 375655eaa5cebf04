"""Forecasts of linear-Gaussian models: exact moments and joint draws, in bounded memory."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.diffuse import Diffuse, image_cov
from ...core.methods import InferenceMethod
from ...core.model import GaussianInitial, LinearConditional, LinearParameters, Series
from ...core.results import Forecast
from .cpu.problem import batch_shape
from .fixed_lag import Matrices
from .simulation_smoother import draw_observations, simulate_states

# Numbers in the covariances that are held at once.
_AT_ONCE = 16_000_000


def forecast(
    method: InferenceMethod,
    parameters: LinearParameters,
    y: Tensor,
    horizon: int,
    num_samples: int | None,
    generator: torch.Generator | None,
) -> Forecast:
    """Forecast the last `horizon` steps of `y`, which are missing; joint draws if asked for.

    Given the past the first future state is Gaussian, and later ones follow by the transition: no
    draw needs a path through the past.

    Args:
        method: An exact filter.
        parameters: The model.
        y: The past and then the future, `(*batch, time, obs)`.
        horizon: Number of future steps.
        num_samples: Number of joint draws, or `None`.
        generator: Source of randomness.
    """
    mean, cov, diffuse = predicted_states(method, parameters, y, horizon)
    future = LinearParameters(
        GaussianInitial(mean[..., 0, :], (diffuse.proper if diffuse else cov)[..., 0, :, :]),
        *(_steps(part, y.shape[-2] - horizon, y.shape[-2]) for part in parameters[1:]),
    )
    C, d, R = future.emission
    obs_mean = (C @ mean[..., None])[..., 0] + d
    obs_cov = image_cov(C, cov, diffuse) + R
    samples = paths = None
    if num_samples is not None:
        lead = (num_samples, *batch_shape(parameters, y))
        paths = simulate_states(future, lead, horizon, generator)
        samples = without_open(draw_observations(paths, C, d, R, generator), obs_cov)
        paths = without_open(paths, cov)
    result = Forecast(obs_mean, obs_cov, samples, mean, cov, paths)
    result.gaussian = True
    return result


def without_open(draws: Tensor, cov: Tensor) -> Tensor:
    """Return draws with NaN where the variance is infinite: nothing can be drawn there."""
    open_ = cov.diagonal(dim1=-2, dim2=-1).isinf()
    return torch.where(open_, torch.nan, draws)


def predicted_states(
    method: InferenceMethod, parameters: LinearParameters, y: Tensor, horizon: int
) -> tuple[Tensor, Tensor, Diffuse | None]:
    """Return moments of the last `horizon` states, given what was seen before them.

    A long past is filtered block by block, so that covariances of one block are held at once.

    Args:
        method: An exact filter.
        parameters: The model.
        y: `(*batch, time, obs)`, NaN in the last `horizon` steps.
        horizon: Number of steps.
    """
    time, first = y.shape[-2], 0
    start = parameters.initial
    numbers = 2 * batch_shape(parameters, y).numel() * parameters.transition.matrix.shape[-1] ** 2
    block = max(_AT_ONCE // max(numbers, 1), 2)
    while time - first > block + horizon:
        # One step more than the block: its predicted moments start the next one.
        stop = first + block + 1
        later = _next_start(method, _part(parameters, start, first, stop), y[..., first:stop, :])
        if later is None:
            break
        start, first = later, stop - 1
    found = method.filter(
        Matrices(_part(parameters, start, first, time)), Series(y[..., first:, :])
    )
    diffuse = found.predicted_diffuse and found.predicted_diffuse.last(horizon, time - first)
    return (
        found.predicted_mean[..., -horizon:, :],
        found.predicted_cov[..., -horizon:, :, :],
        diffuse,
    )


def _next_start(
    method: InferenceMethod, parameters: LinearParameters, y: Tensor
) -> GaussianInitial | None:
    """Return the predicted moments of the last step as a start; `None` if no start is like them.

    What series of a batch leave open must be the same directions, for a start has one set of them.
    """
    found = method.filter(Matrices(parameters), Series(y.double()))
    mean, cov = found.predicted_mean[..., -1, :], found.predicted_cov[..., -1, :, :]
    diffuse = found.predicted_diffuse and found.predicted_diffuse.last(1, y.shape[-2])
    if diffuse is None:
        return GaussianInitial(mean, cov)
    factor = diffuse.factor[..., 0, :, :].flatten(0, -3) if cov.ndim > 2 else diffuse.factor
    if bool((factor != factor[:1]).any()):
        return None
    directions = factor[0][:, (factor[0] != 0).any(0)]
    open_ = directions if directions.shape[-1] else None
    return GaussianInitial(mean, diffuse.proper[..., 0, :, :], open_)


def _part(
    parameters: LinearParameters, start: GaussianInitial, first: int, stop: int
) -> LinearParameters:
    parts = (_steps(part, first, stop) for part in parameters[1:])
    return LinearParameters(start, *parts)


def _steps(part: LinearConditional, first: int, stop: int) -> LinearConditional:
    """Keep some steps of what varies."""

    def cut(x: Tensor, event: int) -> Tensor:
        axis = x.ndim - event - 1
        return x if x.shape[axis] == 1 else x.narrow(axis, first, stop - first)

    return LinearConditional(cut(part.matrix, 2), cut(part.offset, 1), cut(part.cov, 2))
