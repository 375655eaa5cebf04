"""Covariances with infinite directions: what a flat start leaves open, apart from the rest."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# A direction that this small a part of a row's products is left of is round-off.
_ROUND_OFF = 1e-10


class Diffuse(NamedTuple):
    """The first steps of a covariance `proper + kappa factor factor'`, `kappa` to infinity.

    Later steps are finite. An infinite entry of the covariance itself no longer says in which
    direction it is infinite, so linear functions of the state are taken from here.

    Attributes:
        proper: What is finite, `(*batch, steps, n, n)`.
        factor: Directions of infinite variance, `(*batch, steps, n, k)`.
    """

    proper: Tensor
    factor: Tensor

    def last(self, horizon: int, time: int) -> Diffuse | None:
        """Return the part that falls into the last `horizon` of `time` steps, or `None`."""
        skipped = time - horizon
        if self.proper.shape[-3] <= skipped:
            return None
        return Diffuse(self.proper[..., skipped:, :, :], self.factor[..., skipped:, :, :])

    def to(self, like: Tensor) -> Diffuse:
        """Return the same in the dtype and on the device of `like`."""
        return Diffuse(self.proper.to(like), self.factor.to(like))


def combined(proper: Tensor, factor: Tensor) -> Tensor:
    """Return `proper + kappa factor factor'`, `kappa` to infinity, `(*axes, n, n)`.

    Args:
        proper: `(*axes, n, n)`.
        factor: `(*axes, n, k)`, exactly zero where a row has no part in a direction.
    """
    infinite = torch.sign(factor @ factor.mT)
    return torch.where(infinite == 0, proper, infinite * torch.inf)


def image_cov(C: Tensor, cov: Tensor, diffuse: Diffuse | None) -> Tensor:
    """Return the covariance of `C z`: a direction that `C` does not load adds exactly 0.

    Args:
        C: `(*batch, time or 1, rows, n)`.
        cov: Of `z`, `(*batch, time, n, n)`; its infinite entries are explained by `diffuse`.
        diffuse: Of the first steps, or `None`.

    Returns:
        `(*batch, time, rows, rows)`, infinite where `C` loads a direction without bounds.
    """
    if diffuse is None:
        return _unexplained(C, cov)
    steps, time = diffuse.proper.shape[-3], cov.shape[-3]
    constant = C.shape[-3] == 1
    first, later = (C, C) if constant else (C[..., :steps, :, :], C[..., steps:, :, :])
    loaded = first @ diffuse.factor
    size = first.abs() @ diffuse.factor.abs()
    loaded = torch.where(loaded.abs() > _ROUND_OFF * size, loaded, torch.zeros_like(loaded))
    begun = combined(first @ diffuse.proper @ first.mT, loaded)
    if steps >= time:
        return begun
    return torch.cat([begun, later @ cov[..., steps:, :, :] @ later.mT], -3)


def _unexplained(C: Tensor, cov: Tensor) -> Tensor:
    """Infinite entries of `cov` are felt wherever `C` is not exactly zero."""
    infinite = cov.isinf()
    if not bool(infinite.any()):
        return C @ cov @ C.mT
    loads = (C != 0).to(cov.dtype)
    felt = loads @ infinite.to(cov.dtype) @ loads.mT
    finite = C @ torch.where(infinite, torch.zeros_like(cov), cov) @ C.mT
    return torch.where(felt > 0, torch.inf, finite)
