"""The guide as one random variable `q(z_{1:T})`, and its divergence from the prior."""

from __future__ import annotations

from collections.abc import Callable
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

from ..base import Series, StateSpaceModel
from ..sequences import MarkovSequence, at, draw, keep
from .combiners import Step

Combine = Callable[[Step], tuple[Tensor, Tensor]]


class Path(NamedTuple):
    """A drawn path and the moments of every conditional along it, each `(*batch, time, state)`."""

    z: Tensor
    mean: Tensor
    scale: Tensor


class GuideSequence(TorchDistribution):
    """`q(z_{1:T}) = prod_t N(z_t; mean_t(z_{t-1}), scale_t(z_{t-1})^2)`, the prior after `T'`.

    `T'` is a series' last observation: from there on the guide is the model itself, so a draw
    over a future of NaN is a forecast. A draw is kept, for the divergence is taken along it.

    Args:
        model: The model whose states these are.
        series: Data, without NaN in `u` and `dt`.
        context: Projected contexts, `(*batch, time, hidden)`.
        combine: Gives mean and scale of a step.
        steps: `(*batch, time)`, true up to the last observation.
        spread: Units of the innovation, `(obs,)`, or `None` where it is not used.
        batch_shape: Shape of independent paths, by default that of the series.
    """

    has_rsample = True
    arg_constraints: dict[str, constraints.Constraint] = {}
    support = constraints.independent(constraints.real, 2)  # type: ignore[assignment]

    def __init__(
        self,
        model: StateSpaceModel,
        series: Series,
        context: Tensor,
        combine: Combine,
        steps: Tensor,
        spread: Tensor | None = None,
        batch_shape: torch.Size | None = None,
    ) -> None:
        self.model, self.series, self.context = model, series, context
        self.combine, self.steps, self.spread = combine, steps, spread
        self.path: Path | None = None
        batch_shape = series.batch_shape if batch_shape is None else batch_shape
        event_shape = torch.Size((series.time, model.state_dim))
        super().__init__(batch_shape, event_shape, validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> GuideSequence:
        """Return the same law for more independent paths; it draws its own."""
        return GuideSequence(
            self.model,
            self.series,
            self.context,
            self.combine,
            self.steps,
            self.spread,
            torch.Size(batch_shape),
        )

    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draw paths by the guide's recursion, `(*sample_shape, *batch, time, state)`."""
        shape = torch.Size(sample_shape) + self.batch_shape
        # Where the guide ends for some series, the model takes over; asked once, not T times.
        steps = self.steps.reshape(-1, self.series.time)
        every, some = steps.all(0).tolist(), steps.any(0).tolist()
        model, series = self.model, self.series
        noise = torch.randn(
            series.time, *shape, model.state_dim, dtype=series.y.dtype, device=series.y.device
        )
        prior = model.initial().expand(shape)
        z, draws, means, scales = prior.mean, [], [], []
        for t in range(series.time):
            if t:
                prior = model.transition(z, at(series.u, t), at(series.dt, t, axes=1))
            if some[t]:
                mean, scale = self.step(z, prior, t)
                z = mean + scale * noise[t]
                z = z if every[t] else torch.where(self.steps[..., t, None], z, draw(prior))
            else:
                mean, scale, z = prior.mean, prior.variance.sqrt(), draw(prior)
            draws.append(z)
            means.append(mean)
            scales.append(scale)
        self.path = Path(*(torch.stack(parts, dim=-2) for parts in (draws, means, scales)))
        return self.path.z

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draw paths without a gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def conditionals(self, value: Tensor) -> Path:
        """Return the moments of every step given the one before, for any path at once."""
        if self.path is not None and self.path.z is value:
            return self.path
        first_prior = self.model.initial().expand(value.shape[:-2])
        first = self.step(first_prior.mean, first_prior, 0)
        if self.series.time == 1:
            return Path(value, *(part[..., None, :] for part in first))
        prior = _prior(self, value.shape[:-2]).transitions(value)
        rest = self.step(value[..., :-1, :], prior, slice(1, None))
        pairs = zip(first, rest, strict=True)
        return Path(value, *(torch.cat([a[..., None, :], b], dim=-2) for a, b in pairs))

    def step_log_prob(self, value: Tensor) -> Tensor:
        """Return `log q(z_t | z_{t-1})` of the counted steps, `(*batch, time)`, in nats."""
        path = self.conditionals(value)
        terms = Normal(path.mean, path.scale, validate_args=False).log_prob(value).sum(-1)
        return keep(self.steps, terms)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return `log q(z_{1:T})` of the counted steps, `(*batch,)`, in nats."""
        return self.step_log_prob(value).sum(-1)

    def step(self, z: Tensor, prior: Distribution, t: int | slice) -> tuple[Tensor, Tensor]:
        """Return mean and scale of `q(z_t | z_{t-1} = z)`, each `(*axes, state)`.

        Args:
            z: The state before, `(*axes, state)`; unused by most combiners at the first step.
            prior: `p(z_t | z_{t-1} = z)`.
            t: The step, or a slice of steps that are the last of `axes`.
        """
        series, mean = self.series, prior.mean
        innovation = None
        if self.spread is not None:
            y = series.y[..., t, :]
            seen = ~torch.isnan(y)
            u = None if series.u is None else series.u[..., t, :]
            filled = torch.where(seen, y, torch.zeros_like(y))
            residual = (filled - self.model.emission(mean, u).mean) / self.spread
            innovation = torch.where(seen, residual, torch.zeros_like(residual))
        context = self.context[..., t, :]
        return self.combine(Step(z, mean, prior.variance.sqrt(), innovation, context))


def step_divergence(guide: GuideSequence, prior: MarkovSequence) -> Tensor:
    """Return `KL(q(z_t | z_{t-1}) || p(z_t | z_{t-1}))` along the guide's path.

    The mean over paths of its sum over time is `KL(q || p)` of the whole sequences. Each term is
    exact where the prior is Gaussian, else `log q - log p` at the path.

    Args:
        guide: Its last draw is the path; one is drawn if there is none.
        prior: The model's law of the same states.

    Returns:
        `(*batch, time)`, in nats; 0 after the last observation.
    """
    path = guide.path or guide.conditionals(guide.rsample())
    first = Path(*(part[..., :1, :] for part in path))
    terms = _normal_divergence(first, prior.model.initial())
    if prior.time > 1:
        rest = Path(*(part[..., 1:, :] for part in path))
        terms = torch.cat([terms, _normal_divergence(rest, prior.transitions(path.z))], dim=-1)
    return keep(guide.steps, terms)


@register_kl(GuideSequence, MarkovSequence)
def _kl_guide_prior(guide: GuideSequence, prior: MarkovSequence) -> Tensor:
    return step_divergence(guide, prior).sum(-1)


@register_kl(GuideSequence, GuideSequence)
def _kl_guide_guide(left: GuideSequence, right: GuideSequence) -> Tensor:
    path = left.path or left.conditionals(left.rsample())
    other = right.conditionals(path.z)
    target = Independent(Normal(other.mean, other.scale, validate_args=False), 1)
    return keep(left.steps, _normal_divergence(path, target)).sum(-1)


def _normal_divergence(path: Path, prior: Distribution) -> Tensor:
    if isinstance(prior, Independent) and isinstance(prior.base_dist, Normal):
        base = prior.base_dist
        ratio = (path.scale / base.scale).square()
        offset = ((path.mean - base.loc) / base.scale).square()
        return 0.5 * (ratio + offset - 1 - ratio.log()).sum(-1)
    if isinstance(prior, MultivariateNormal):
        chol = prior.scale_tril
        offset = (path.mean - prior.mean)[..., None]
        white = torch.linalg.solve_triangular(chol, offset, upper=False).square().sum((-2, -1))
        spread = torch.linalg.solve_triangular(chol, torch.diag_embed(path.scale), upper=False)
        log_det = chol.diagonal(dim1=-2, dim2=-1).log().sum(-1) - path.scale.log().sum(-1)
        return 0.5 * (spread.square().sum((-2, -1)) + white - path.z.shape[-1]) + log_det
    log_q = Normal(path.mean, path.scale, validate_args=False).log_prob(path.z).sum(-1)
    return log_q - prior.log_prob(path.z)


def _prior(guide: GuideSequence, batch_shape: torch.Size) -> MarkovSequence:
    series = guide.series
    return MarkovSequence(guide.model, series.time, series.u, series.dt, None, batch_shape)
