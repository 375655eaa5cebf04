"""Exact draws of whole state paths given the data, by correcting unconditional simulations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...core.gaussian import psd_factor
from ...core.model import GaussianInitial, LinearConditional, LinearParameters
from ...linear.scan import matrix_scan
from .cpu.problem import batch_shape

SmoothedMean = Callable[[LinearParameters, Tensor], Tensor]


def draw_paths(
    parameters: LinearParameters,
    y: Tensor,
    num_samples: int,
    smoothed_mean: SmoothedMean,
    generator: torch.Generator | None,
) -> Tensor:
    """Draw `z ~ p(z_{1:T} | y_{1:T})` as `z+ + E[z | y - y+]`, `(z+, y+)` from the prior.

    Args:
        parameters: The linear-Gaussian model.
        y: `(*batch, time, obs)`, NaN where missing.
        num_samples: Number of joint draws.
        smoothed_mean: Computes `E[z_{1:T} | y_{1:T}]`.
        generator: Source of randomness.

    Returns:
        `(num_samples, *batch, time, state)`.

    Source: Durbin & Koopman (2002), Biometrika 89; diffuse elements may start anywhere.
    """
    batch_shape(parameters, y)  # refuses parameters of other steps than those of the data
    z = simulate_states(parameters, (num_samples, *y.shape[:-2]), y.shape[-2], generator)
    simulated = draw_observations(z, *parameters.emission, generator)
    return z + smoothed_mean(_without_offsets(parameters), y - simulated)


def draw_observations(
    z: Tensor, C: Tensor, d: Tensor, R: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Draw `y_t ~ N(C z_t + d, R)` for given states, `(*axes, time, obs)`."""
    factor = psd_factor(R.detach(), "R")
    shape = (*z.shape[:-1], C.shape[-2])
    noise = torch.randn(shape, generator=generator, dtype=z.dtype, device=z.device)
    return ((C @ z[..., None]) + factor @ noise[..., None])[..., 0] + d


def simulate_states(
    parameters: LinearParameters,
    lead: tuple[int, ...],
    time: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Draw `z_{1:T}` from the model, diffuse elements at zero, `(*lead, time, state)`."""
    start, (A, b, Q), _ = parameters
    n = A.shape[-1]
    noise = torch.randn((*lead, time, n, 1), generator=generator, dtype=A.dtype, device=A.device)
    shocks = (psd_factor(Q.detach(), "Q") @ noise)[..., 0] + b
    if time == 0:
        return noise[..., 0]
    first = (psd_factor(start.cov.detach(), "P0") @ noise[..., 0, :, :])[..., 0] + start.mean
    drive = torch.cat((first[..., None, :], shocks[..., 1:, :]), -2)
    return matrix_scan(A, drive)


def _without_offsets(parameters: LinearParameters) -> LinearParameters:
    start, transition, emission = parameters
    return LinearParameters(
        GaussianInitial(torch.zeros_like(start.mean), start.cov, start.diffuse),
        LinearConditional(transition.matrix, torch.zeros_like(transition.offset), transition.cov),
        LinearConditional(emission.matrix, torch.zeros_like(emission.offset), emission.cov),
    )
