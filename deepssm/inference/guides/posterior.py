"""What all posteriors by step share: densities along a path, divergence from the prior."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl

from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import MarkovSequence, at, draw, keep
from ...core.undefined import undefined
from .conditionals import Conditionals, Path


class StepwisePosterior(TorchDistribution):
    """`q(z_{1:T}) = prod_t q(z_t | z_{t-1})`, the prior after `T'`: what guides return.

    `T'` is a series' last observation: from there on the posterior is the model itself, so a draw
    over a future of NaN is a forecast. A draw is cached, for the divergence is taken along it.

    A posterior of your own defines `draw`, which sets `self.path` and ends with `_continued` where
    steps beyond the data are wanted; `conditionals`, the same steps along any path; `expand`; and
    `proposal`, one step alone, where it is to guide a particle filter or a `FlowGuide`.

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
        self.path: Conditionals | None = None
        batch_shape = series.batch_shape if batch_shape is None else batch_shape
        event_shape = torch.Size((series.time, model.state_dim))
        super().__init__(batch_shape, event_shape, validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> StepwisePosterior:
        """Return the same distribution for more independent paths, which draws its own.

        Args:
            batch_shape: `(*paths, *batch)`.
        """
        raise undefined(
            self,
            "expand(self, batch_shape)",
            "return the same posterior with batch shape `(*paths, *batch)`",
        )

    def draw(
        self, sample_shape: torch.Size | tuple[int, ...] = (), *, beyond: bool = True
    ) -> Tensor:
        """Draw paths with a gradient, `(*sample_shape, *batch, time, state)`.

        Args:
            sample_shape: Leading axes.
            beyond: Whether the steps after the last observation follow the model. They cost a
                loop over time, and no density counts them; if false they hold anything.
        """
        raise undefined(
            self,
            "draw(self, sample_shape, *, beyond)",
            "set `self.path` and return paths, `(*sample_shape, *batch, time, state)`",
        )

    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draw paths; with a gradient, steps after the last observation hold anything."""
        return self.draw(sample_shape, beyond=not torch.is_grad_enabled())

    def conditionals(self, value: Tensor) -> Conditionals:
        """Return the conditionals along any path, all steps at once.

        Args:
            value: `(*batch, time, state)`.
        """
        raise undefined(
            self,
            "conditionals(self, value)",
            "return the steps along any path, such as `Path(value, mean, scale)`",
        )

    def proposal(self, z: Tensor, prior: Distribution, t: int) -> Conditionals:
        """Return `q(z_t | z_{t-1} = z)` with its step's axis dropped; `Path.z` is `z`.

        Args:
            z: The state before, `(*axes, state)`.
            prior: `p(z_t | z_{t-1} = z)`.
            t: The step.
        """
        raise undefined(
            self,
            "proposal(self, z, prior, t)",
            "return one step alone, such as `Path(z, mean, scale)`",
        )

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

    def along(self, value: Tensor) -> Conditionals:
        """Return the conditionals along a path; those of the last draw are not computed twice."""
        if self.path is not None and self.path.z is value:
            return self.path
        return self.conditionals(value)

    def drawn(self) -> Conditionals:
        """Return the last draw, or make one."""
        return self.path or self.along(self.rsample())

    def divergence(self, prior: MarkovSequence) -> Tensor:
        """Return `KL(q(z_t | z_{t-1}) || p(z_t | z_{t-1}))` along the last draw, or a new one.

        The mean over paths of its sum over time is `KL(q || p)` of the whole sequences. Each term
        is exact where both are Gaussian, else `log q - log p` at the path.

        Args:
            prior: The model's distribution of the same states.

        Returns:
            `(*batch, time)`, in nats; 0 after the last observation.
        """
        path = self.drawn()
        terms = path.between(0, 1).divergence(prior.model.initial())
        if prior.time > 1:
            rest = path.between(1).divergence(prior.transitions_scored(path.z))
            terms = torch.cat([terms, rest], dim=-1)
        return keep(self.steps, terms)

    def divergence_by_component(self, prior: MarkovSequence) -> Tensor:
        """Return `divergence` of each state component, `(*batch, time, state)`.

        Gaussian steps are split by the chain rule over the components, where the prior's are
        independent; else a step's divergence is shared out evenly.

        Args:
            prior: The model's distribution of the same states.
        """
        path = self.drawn()
        parts = [path.between(0, 1).divergence_by_component(prior.model.initial())]
        if prior.time > 1:
            moved = prior.transitions(path.z)
            parts.append(path.between(1).divergence_by_component(moved))
        split = [part for part in parts if part is not None]
        if len(split) < len(parts):
            return shared_evenly(self.divergence(prior), prior.model.state_dim)
        terms = torch.cat(split, dim=-2)
        return torch.where(self.steps[..., None], terms, torch.zeros_like(terms))


class PriorPosterior(StepwisePosterior):
    """The model itself in the place of a posterior: no step counts, all are drawn from the prior.

    Args:
        model: The model whose states these are.
        series: Data, of which nothing is read but inputs and time steps.
        batch_shape: Shape of independent paths, by default that of the series.
    """

    def __init__(
        self, model: StateSpaceModel, series: Series, batch_shape: torch.Size | None = None
    ) -> None:
        nowhere = torch.zeros(series.y.shape[:-1], dtype=torch.bool, device=series.y.device)
        super().__init__(model, series, nowhere, batch_shape)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> PriorPosterior:
        """Return the same distribution for more independent paths."""
        return PriorPosterior(self.model, self.series, torch.Size(batch_shape))

    def draw(
        self, sample_shape: torch.Size | tuple[int, ...] = (), *, beyond: bool = True
    ) -> Tensor:
        """Draw paths of the model; see `StepwisePosterior.draw`."""
        prior = MarkovSequence(
            self.model, self.series.time, self.series.u, self.series.dt, None, self.batch_shape
        )
        z = prior.rsample(sample_shape)
        self.path = Path(z, z, torch.ones_like(z))
        return z

    def conditionals(self, value: Tensor) -> Path:
        """Return anything, for no step counts."""
        return Path(value, value, torch.ones_like(value))

    def proposal(self, z: Tensor, prior: Distribution, t: int) -> Path:
        """Return the first two moments of the prior."""
        return Path(z, prior.mean, prior.variance.sqrt())


def prior_of(posterior: StepwisePosterior) -> MarkovSequence:
    """Return the model's distribution of the states that a posterior is of, on the same steps."""
    model, series, steps = posterior.model, posterior.series, posterior.steps
    return MarkovSequence(model, series.time, series.u, series.dt, steps, posterior.batch_shape)


@register_kl(StepwisePosterior, MarkovSequence)
def _kl_posterior_prior(posterior: StepwisePosterior, prior: MarkovSequence) -> Tensor:
    return posterior.divergence(prior).sum(-1)


@register_kl(StepwisePosterior, StepwisePosterior)
def _kl_posterior_posterior(left: StepwisePosterior, right: StepwisePosterior) -> Tensor:
    path = left.drawn()
    other = right.conditionals(path.z).distribution()
    return keep(left.steps, path.divergence(other)).sum(-1)


def shared_evenly(terms: Tensor, count: int) -> Tensor:
    """Return terms divided over a last axis of that many, `(*axes, count)`."""
    return (terms / count)[..., None].expand(*terms.shape, count)
