"""From moments that depend on diffuse coefficients to moments under their posterior."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.diffuse import Diffuse, combined

# A coefficient whose pivot is this small a part of its column is not determined by the data, and
# one a little larger may be round-off or not.
UNDETERMINED, _DOUBTFUL = 1e-10, 1e-8


def solve_equations(U: Tensor, Z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Turn the equations `U delta = Z + noise` into posterior means and a factor.

    Args:
        U: Upper triangular, `(*axes, k, k)`.
        Z: `(*axes, k, columns)`.

    Returns:
        center: Posterior means, `(*axes, k, columns)`.
        inverse: `U^-1`, a factor of the posterior covariance, `(*axes, k, k)`.
        open: Which of its columns are undetermined directions, `(*axes, k)`.
    """
    pivot = U.diagonal(dim1=-2, dim2=-1).abs()
    undetermined = pivot <= UNDETERMINED * U.norm(dim=-2)
    eye = torch.eye(U.shape[-1], dtype=U.dtype, device=U.device)
    U = torch.where(undetermined[..., :, None], eye, U)
    Z = torch.where(undetermined[..., :, None], torch.zeros_like(Z), Z)
    inverse = torch.linalg.solve_triangular(U, eye.expand(U.shape), upper=True)
    return inverse @ Z, inverse, undetermined


def posterior_mix(info: Tensor) -> tuple[Tensor, Tensor]:
    """Turn the equations of one column into a matrix that mixes values and slopes.

    Args:
        info: `[U | zeta]`, `U` upper triangular, `(*axes, k, k + 1)`.

    Returns:
        mix: `[[1, 0], [mean, U^-1]]`, `(*axes, k + 1, k + 1)`: multiply `[value, slopes]` by it
            from the right to get the posterior mean and a factor of the added covariance.
        open: Which columns of the factor are undetermined directions, `(*axes, k)`.
    """
    k = info.shape[-2]
    center, inverse, undetermined = solve_equations(info[..., :k], info[..., k:])
    mix = torch.zeros(*info.shape[:-2], k + 1, k + 1, dtype=info.dtype, device=info.device)
    mix[..., 0, 0] = 1.0
    mix[..., 1:, :1], mix[..., 1:, 1:] = center, inverse
    return mix, undetermined


def diffuse_moments(
    columns: Tensor, cov: Tensor, mix: Tensor, undetermined: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and covariance under the posterior of the diffuse coefficients.

    Args:
        columns: Value at `delta = 0` and slopes, `(*axes, n, 1 + k)`.
        cov: Covariance given `delta`, `(*axes, n, n)`.
        mix: From `posterior_mix`.
        undetermined: From `posterior_mix`.

    Returns:
        Mean `(*axes, n)` and covariance `(*axes, n, n)`, infinite in undetermined directions.
    """
    mean = (columns @ mix[..., :1])[..., 0]
    return mean, spread(columns[..., 1:], cov, mix[..., 1:, 1:], undetermined)


def spread(slopes: Tensor, cov: Tensor, inverse: Tensor, undetermined: Tensor) -> Tensor:
    """Add what is not known of the diffuse coefficients to a covariance given them.

    Args:
        slopes: `(*axes, n, k)`.
        cov: `(*axes, n, n)`.
        inverse: From `solve_equations`.
        undetermined: From `solve_equations`.

    Returns:
        `(*axes, n, n)`, infinite in undetermined directions.
    """
    return combined(*proper_and_diffuse(slopes, cov, inverse, undetermined))


def proper_and_diffuse(
    slopes: Tensor, cov: Tensor, inverse: Tensor, undetermined: Tensor
) -> Diffuse:
    """Split a covariance into what is finite and directions of infinite variance; see `spread`."""
    mixed = slopes @ inverse
    zero = mixed.new_zeros(())
    known = torch.where(undetermined[..., None, :], zero, mixed)
    size = slopes.abs() @ inverse.abs()
    real = undetermined[..., None, :] & (mixed.abs() > UNDETERMINED * size)
    return Diffuse(cov + known @ known.mT, torch.where(real, mixed, zero))


def hardly_determined(U: Tensor) -> Tensor:
    """Tell whether round-off may decide which coefficients the data determine, `(*axes,)`.

    Args:
        U: As in `solve_equations`.
    """
    part = U.diagonal(dim1=-2, dim2=-1).abs() / U.norm(dim=-2).clamp_min(1e-300)
    return ((part > UNDETERMINED) & (part < _DOUBTFUL)).any(-1)


def cross_spread(slopes: Tensor, cross: Tensor, mix: Tensor, undetermined: Tensor) -> Tensor:
    """Add what is not known of the diffuse coefficients to lag-one covariances given them.

    Args:
        slopes: Of the means of all steps, `(*axes, time, n, k)`.
        cross: Entry `t` links `t - 1` to `t`, `(*axes, time, n, n)`.
        mix: `U^-1`, `(*axes, 1, k, k)`.
        undetermined: `(*axes, 1, k)`.

    Returns:
        `(*axes, time, n, n)`, entry 0 as it was.
    """
    factor = proper_and_diffuse(slopes, torch.zeros_like(cross), mix, undetermined).factor
    known = torch.where(undetermined[..., None, :], 0.0, slopes @ mix)
    infinite = torch.sign(factor[..., 1:, :, :] @ factor[..., :-1, :, :].mT)
    link = cross[..., 1:, :, :] + known[..., 1:, :, :] @ known[..., :-1, :, :].mT
    link = torch.where(infinite == 0, link, infinite * torch.inf)
    return torch.cat([cross[..., :1, :, :], link], -3)


def steps_left_open(undetermined: Tensor) -> int:
    """Return how many first steps leave some direction open, `(*axes, time, k)`."""
    some = undetermined.any(-1).flatten(0, -2).any(0).nonzero()
    return int(some[-1]) + 1 if len(some) else 0
