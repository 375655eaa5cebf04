"""What every guide's law shares: densities along a path, and the divergence from the prior."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    MultivariateNormal,
    Normal,
    constraints,
    register_kl,
)

from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import MarkovSequence, at, draw, keep


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
            return self.law().log_prob(self.z)
        terms = 0.5 * self.white.square() + self.scale.log()
        return -terms.sum(-1) - 0.5 * self.z.shape[-1] * math.log(2 * math.pi)

    def law(self) -> Distribution:
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


class GuideLaw(TorchDistribution):
    """`q(z_{1:T}) = prod_t q(z_t | z_{t-1})`, Gaussian by step, the prior after `T'`.

    `T'` is a series' last observation: from there on the guide is the model itself, so a draw
    over a future of NaN is a forecast. A draw is kept, for the divergence is taken along it.

    Args:
        model: The model whose states these are.
        series: Data; NaN in `y` is missing.
        steps: `(*batch, time)`, true up to the last observation.
        batch_shape: Shape of independent paths, by default that of the series.
    """

    has_rsample = True
    arg_constraints: dict[str, constraints.Constraint] = {}
    support = constraints.independent(constraints.real, 2)  # type: ignore[assignment]

    def __init__(
        self,
        model: StateSpaceModel,
        series: Series,
        steps: Tensor,
        batch_shape: torch.Size | None = None,
    ) -> None:
        self.model, self.series, self.steps = model, series, steps
        self.path: Path | None = None
        batch_shape = series.batch_shape if batch_shape is None else batch_shape
        event_shape = torch.Size((series.time, model.state_dim))
        super().__init__(batch_shape, event_shape, validate_args=False)

    def draw(
        self, sample_shape: torch.Size | tuple[int, ...] = (), *, beyond: bool = True
    ) -> Tensor:
        """Draw paths with a gradient, `(*sample_shape, *batch, time, state)`.

        Args:
            sample_shape: Leading axes.
            beyond: Whether the steps after the last observation follow the model. They cost a
                loop over time, and no density counts them; if false they hold anything.
        """
        raise NotImplementedError

    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draw paths; with a gradient, steps after the last observation hold anything."""
        return self.draw(sample_shape, beyond=not torch.is_grad_enabled())

    def conditionals(self, value: Tensor) -> Path:
        """Return the conditionals along any path, `(*batch, time, state)`, all steps at once."""
        raise NotImplementedError

    def proposal(self, z: Tensor, prior: Distribution, t: int) -> Path:
        """Return `q(z_t | z_{t-1} = z)` with its step's axis dropped; `Path.z` is `z`.

        Args:
            z: The state before, `(*axes, state)`.
            prior: `p(z_t | z_{t-1} = z)`.
            t: The step.
        """
        raise NotImplementedError

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draw paths without a gradient, `(*sample_shape, *batch, time, state)`."""
        with torch.no_grad():
            return self.rsample(torch.Size(sample_shape))

    def step_log_prob(self, value: Tensor) -> Tensor:
        """Return `log q(z_t | z_{t-1})` of the counted steps, `(*batch, time)`, in nats."""
        return keep(self.steps, self.along(value).log_prob())

    def log_prob(self, value: Tensor) -> Tensor:
        """Return `log q(z_{1:T})` of the counted steps, `(*batch,)`, in nats."""
        return self.step_log_prob(value).sum(-1)

    def _continued(self, z: Tensor) -> Tensor:
        """Redraw from the model what lies after each series' last observation."""
        if bool(self.steps.all()):
            return z
        active = self.steps.reshape(-1, self.series.time).all(0)
        u, dt = self.series.u, self.series.dt
        path = list(z.unbind(-2))
        for t in range(int(active.sum()), self.series.time):
            prior = self.model.initial().expand(z.shape[:-2])
            if t:
                prior = self.model.transition(path[t - 1], at(u, t), at(dt, t, axes=1))
            path[t] = torch.where(self.steps[..., t, None], path[t], draw(prior))
        return torch.stack(path, dim=-2)

    def along(self, value: Tensor) -> Path:
        """Return the conditionals along a path; those of the last draw are not computed twice."""
        if self.path is not None and self.path.z is value:
            return self.path
        return self.conditionals(value)

    def drawn(self) -> Path:
        """Return the last draw, or make one."""
        return self.path or self.along(self.rsample())


def step_divergence(guide: GuideLaw, prior: MarkovSequence) -> Tensor:
    """Return `KL(q(z_t | z_{t-1}) || p(z_t | z_{t-1}))` along the guide's path.

    The mean over paths of its sum over time is `KL(q || p)` of the whole sequences. Each term is
    exact where the prior is Gaussian, else `log q - log p` at the path.

    Args:
        guide: Its last draw is the path; one is drawn if there is none.
        prior: The model's law of the same states.

    Returns:
        `(*batch, time)`, in nats; 0 after the last observation.
    """
    path = guide.drawn()
    terms = _divergence(path.between(0, 1), prior.model.initial())
    if prior.time > 1:
        rest = _divergence(path.between(1), prior.transitions_scored(path.z))
        terms = torch.cat([terms, rest], dim=-1)
    return keep(guide.steps, terms)


@register_kl(GuideLaw, MarkovSequence)
def _kl_guide_prior(guide: GuideLaw, prior: MarkovSequence) -> Tensor:
    return step_divergence(guide, prior).sum(-1)


@register_kl(GuideLaw, GuideLaw)
def _kl_guide_guide(left: GuideLaw, right: GuideLaw) -> Tensor:
    path = left.drawn()
    return keep(left.steps, _divergence(path, right.conditionals(path.z).law())).sum(-1)


def _divergence(path: Path, prior: Distribution) -> Tensor:
    if not isinstance(path, Path):
        return path.log_prob() - prior.log_prob(path.z)  # Bent by a flow: no closed form.
    if isinstance(prior, Independent) and isinstance(prior.base_dist, Normal):
        return _from_diagonal(path, prior.base_dist)
    if isinstance(prior, MultivariateNormal):
        return _from_full(path, prior)
    return path.log_prob() - prior.log_prob(path.z)


def _from_diagonal(path: Path, prior: Normal) -> Tensor:
    return by_component(path, prior).sum(-1)


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
