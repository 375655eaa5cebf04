"""From moments that depend on diffuse coefficients to moments under their posterior."""

from __future__ import annotations

import torch
from torch import Tensor

# A coefficient whose pivot is this small a part of its column is not determined by the data.
_UNDETERMINED = 1e-10


def posterior_mix(info: Tensor) -> tuple[Tensor, Tensor]:
    """Turn the equations `U delta = zeta + noise` into posterior mean and factor.

    Args:
        info: `[U | zeta]`, `U` upper triangular, `(*axes, k, k + 1)`.

    Returns:
        mix: `[[1, 0], [mean, U^-1]]`, `(*axes, k + 1, k + 1)`: multiply `[value, slopes]` by it
            from the right to get the posterior mean and a factor of the added covariance.
        open: Which columns of the factor are undetermined directions, `(*axes, k)`.
    """
    k = info.shape[-2]
    U, zeta = info[..., :k], info[..., k]
    pivot = U.diagonal(dim1=-2, dim2=-1).abs()
    undetermined = pivot <= _UNDETERMINED * U.norm(dim=-2)
    eye = torch.eye(k, dtype=info.dtype, device=info.device)
    U = torch.where(undetermined[..., :, None], eye, U)
    zeta = torch.where(undetermined, torch.zeros_like(zeta), zeta)
    inverse = torch.linalg.solve_triangular(U, eye.expand(U.shape), upper=True)
    mix = torch.zeros(*info.shape[:-2], k + 1, k + 1, dtype=info.dtype, device=info.device)
    mix[..., 0, 0] = 1.0
    mix[..., 1:, 0] = (inverse @ zeta[..., None])[..., 0]
    mix[..., 1:, 1:] = inverse
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
    mixed = columns @ mix
    slopes = mixed[..., 1:]
    known = torch.where(undetermined[..., None, :], torch.zeros_like(slopes), slopes)
    cov = cov + known @ known.mT
    size = columns[..., 1:].abs() @ mix[..., 1:, 1:].abs()
    real = undetermined[..., None, :] & (slopes.abs() > _UNDETERMINED * size)
    unknown = torch.where(real, slopes, torch.zeros_like(slopes))
    infinite = torch.sign(unknown @ unknown.mT)
    return mixed[..., 0], torch.where(infinite == 0, cov, infinite * torch.inf)
