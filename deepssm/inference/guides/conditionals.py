"""The steps `q(z_t | z_{t-1})` along one path: their densities, and how far from the prior's."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal


class Conditionals(Protocol):
    """A path and the conditionals `q(z_t | z_{t-1})` along it; `Path` holds Gaussian ones."""

    @property
    def z(self) -> Tensor:
        """The path, `(*batch, time, state)`."""
        ...

    def log_prob(self) -> Tensor:
        """Return `log q(z_t | z_{t-1})`, `(*batch, time)`, in nats."""
        ...

    def distribution(self) -> Distribution:
        """Return the conditionals as one distribution, batch shape `(*batch, time)`."""
        ...

    def between(self, start: int, stop: int | None = None) -> Self:
        """Return some of the steps."""
        ...

    def divergence(self, prior: Distribution) -> Tensor:
        """Return `KL(q(z_t | z_{t-1}) || p(z_t | z_{t-1}))`, `(*batch, time)`, or its draw.

        Args:
            prior: `p(z_t | z_{t-1})` at the same path, batch shape `(*batch, time)`.
        """
        ...

    def divergence_by_component(self, prior: Distribution) -> Tensor | None:
        """Return the same split over the components, `(*batch, time, state)`; `None`: no split."""
        ...


class Path(NamedTuple):
    """A path and the Gaussian conditionals `q(z_t | z_{t-1})` along it.

    Attributes:
        z: `(*batch, time, state)`.
        mean: `(*batch, time, state)`.
        scale: Standard deviations, or the diagonal of `chol`, `(*batch, time, state)`.
        chol: Lower Cholesky factors, `(*batch, time, state, state)`; `None` for a diagonal one.
        white: The standard normal numbers that made `z`, `(*batch, time, state)`; `None` for a
            path from elsewhere. With them the density is exact however large `z` is.
    """

    z: Tensor
    mean: Tensor
    scale: Tensor
    chol: Tensor | None = None
    white: Tensor | None = None

    def log_prob(self) -> Tensor:
        """Return `log q(z_t | z_{t-1})`, `(*batch, time)`, in nats."""
        if self.white is None:
            return self.distribution().log_prob(self.z)
        terms = 0.5 * self.white.square() + self.scale.log()
        return -terms.sum(-1) - 0.5 * self.z.shape[-1] * math.log(2 * math.pi)

    def distribution(self) -> Distribution:
        """Return the conditionals as one distribution, batch shape `(*batch, time)`."""
        if self.chol is None:
            return Independent(Normal(self.mean, self.scale, validate_args=False), 1)
        return MultivariateNormal(self.mean, scale_tril=self.chol, validate_args=False)

    def between(self, start: int, stop: int | None = None) -> Path:
        """Return some of the steps."""
        steps = slice(start, stop)
        chol = None if self.chol is None else self.chol[..., steps, :, :]
        z, mean, scale = (part[..., steps, :] for part in (self.z, self.mean, self.scale))
        return Path(
            z, mean, scale, chol, None if self.white is None else self.white[..., steps, :]
        )

    def divergence(self, prior: Distribution) -> Tensor:
        """Return the divergence by step, exact where the prior is Gaussian, `(*batch, time)`."""
        diagonal = diagonal_base(prior)
        if diagonal is not None:
            return by_component(self, diagonal).sum(-1)
        if isinstance(prior, MultivariateNormal):
            return _from_full(self, prior)
        return self.log_prob() - prior.log_prob(self.z)

    def divergence_by_component(self, prior: Distribution) -> Tensor | None:
        """Return the divergence split by the chain rule; `None` unless the prior is diagonal."""
        diagonal = diagonal_base(prior)
        return None if diagonal is None else by_component(self, diagonal)


def diagonal_base(distribution: Distribution) -> Normal | None:
    """Return the normals by component that a distribution is made of, if it is."""
    if isinstance(distribution, Independent) and isinstance(distribution.base_dist, Normal):
        return distribution.base_dist
    return None


def by_component(path: Path, prior: Normal) -> Tensor:
    """Return the divergence from a diagonal prior split by the chain rule over the components.

    Each term is `E KL(q(z_i | z_1, ..., z_{i-1}) || p(z_i))`: never negative, and they add up.

    Args:
        path: A guide's conditionals.
        prior: The model's.

    Returns:
        `(*batch, time, state)`, in nats.
    """
    offset = ((path.mean - prior.loc) / prior.scale).square()
    log_ratio = 2 * (path.scale / prior.scale).log()
    if path.chol is None:
        spread = (path.scale / prior.scale).square()
    else:
        spread = (path.chol / prior.scale[..., None]).square().sum(-1)
    return 0.5 * (spread + offset - 1 - log_ratio)


def _from_full(path: Path, prior: MultivariateNormal) -> Tensor:
    chol = prior.scale_tril
    own = torch.diag_embed(path.scale) if path.chol is None else path.chol
    offset = (path.mean - prior.mean)[..., None]
    white = torch.linalg.solve_triangular(chol, offset, upper=False).square().sum((-2, -1))
    spread = torch.linalg.solve_triangular(chol, own, upper=False).square().sum((-2, -1))
    log_det = chol.diagonal(dim1=-2, dim2=-1).log().sum(-1) - path.scale.log().sum(-1)
    return 0.5 * (spread + white - path.z.shape[-1]) + log_det
