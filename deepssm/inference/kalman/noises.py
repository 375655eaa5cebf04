"""Noises of linear-Gaussian models: given what was seen, and run again under other inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.model import LinearConditional, LinearParameters
from ...core.results import Smoothed
from ...linear.scan import matrix_scan
from .simulation_smoother import draw_observations


def completed_observations(
    emission: LinearConditional, z: Tensor, y: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Draw missing components of observations given the states and the components that were seen.

    Args:
        emission: `p(y_t | z_t)`, its covariance possibly singular.
        z: States, `(*axes, *batch, time, state)`.
        y: `(*batch, time, obs)`, NaN where missing.
        generator: Source of randomness.

    Returns:
        `(*axes, *batch, time, obs)`, `y` where it was seen.
    """
    fresh, seen = draw_observations(z, *emission, generator), ~torch.isnan(y)
    gain, _ = _gain_of_noise(emission.cov, seen)
    missed = torch.where(seen, y - fresh, fresh.new_zeros(()))
    return torch.where(seen, y, fresh + (gain @ missed[..., None])[..., 0])


def missing_moments(
    emission: LinearConditional, smoothed: Smoothed, y: Tensor
) -> tuple[Tensor, Tensor]:
    """Return mean and variance of whole observations given all that was seen.

    With `G` the regression of the noise of missing components on that of the seen ones, what is
    missing is `(C - G C) z + d + G (y - d)` and the noise that `G` leaves.

    Args:
        emission: `p(y_t | z_t)`, its covariance possibly singular.
        smoothed: `p(z_t | y_{1:T})`.
        y: `(*batch, time, obs)`, NaN where missing.

    Returns:
        `(*batch, time, obs)` each: `y` and 0 where it was seen; an infinite variance where the
        data leave it open.
    """
    C, d, R = emission
    seen = ~torch.isnan(y)
    gain, left = _gain_of_noise(R, seen)
    M = C - gain @ C
    known = torch.where(seen, y - d, y.new_zeros(()))
    mean = (M @ smoothed.mean[..., None] + gain @ known[..., None])[..., 0] + d
    variance = (smoothed.image_cov(M) + left).diagonal(dim1=-2, dim2=-1).clamp_min(0)
    return torch.where(seen, y, mean), torch.where(seen, torch.zeros_like(variance), variance)


def _gain_of_noise(R: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Return the regression of noises on those of the seen components, and what it leaves."""
    zero = R.new_zeros(())
    across = torch.where(seen[..., None, :], R, zero)
    within = torch.where(seen[..., :, None], across, zero)
    gain = across @ torch.linalg.pinv(within, hermitian=True)
    return gain, R - gain @ across.mT


def run_noises_again(
    was: LinearParameters, now: LinearParameters, z: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    """Return states and observations with the same noises and first state under other parameters.

    Args:
        was: Under which `z` and `y` came about.
        now: The same model under other inputs; covariances are taken to be the same.
        z: `(*axes, *batch, time, state)`.
        y: `(*axes, *batch, time, obs)`, without NaN.
    """
    A, b, _ = was.transition
    shock = z[..., 1:, :] - (_later(A, 3) @ z[..., :-1, :, None])[..., 0] - _later(b, 2)
    moved = torch.cat([z[..., :1, :], shock + _later(now.transition.offset, 2)], dim=-2)
    path = matrix_scan(now.transition.matrix, moved)
    return path, _expected(now.emission, path) + y - _expected(was.emission, z)


def undetermined_by_noises(
    was: LinearParameters, now: LinearParameters, factor: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    """Tell which states and observations under other parameters the data leave open.

    Args:
        was: Under which the data came about.
        now: The same model under other inputs.
        factor: Directions of infinite variance of the states, `(*batch, time, state, k)`.
        y: `(*batch, time, obs)`, NaN where missing.
    """
    missing, zero = torch.isnan(y), torch.zeros_like(y)
    states, observations = [], []
    base = run_noises_again(was, now, torch.zeros_like(factor[..., 0]), zero)
    for direction in factor.unbind(-1):
        seen_with_it = (was.emission.matrix @ direction[..., None])[..., 0]
        other = run_noises_again(was, now, direction, torch.where(missing, seen_with_it, zero))
        for out, moved, before in zip((states, observations), other, base, strict=True):
            change = (moved - before).abs()
            out.append(change > 1e-10 * direction.abs().amax(-1, keepdim=True).amax(-2, True))
    return torch.stack(states).any(0), torch.stack(observations).any(0)


def _expected(emission: LinearConditional, z: Tensor) -> Tensor:
    return (emission.matrix @ z[..., None])[..., 0] + emission.offset


def _later(x: Tensor, axis: int) -> Tensor:
    """Drop the first step, where there is one entry a step."""
    time = x.shape[-axis]
    return x if time == 1 else x.narrow(-axis, 1, time - 1)
