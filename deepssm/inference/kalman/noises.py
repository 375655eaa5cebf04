"""Noises of linear-Gaussian models: given what was seen, and run again under other inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.model import LinearConditional, LinearParameters
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
    zero = fresh.new_zeros(())
    across = torch.where(seen[..., None, :], emission.cov, zero)
    within = torch.where(seen[..., :, None], across, zero)
    missed = torch.where(seen, y - fresh, zero)
    gain = across @ torch.linalg.pinv(within, hermitian=True)
    return torch.where(seen, y, fresh + (gain @ missed[..., None])[..., 0])


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


def _expected(emission: LinearConditional, z: Tensor) -> Tensor:
    return (emission.matrix @ z[..., None])[..., 0] + emission.offset


def _later(x: Tensor, axis: int) -> Tensor:
    """Drop the first step, where there is one entry a step."""
    time = x.shape[-axis]
    return x if time == 1 else x.narrow(-axis, 1, time - 1)
