"""Any distribution of paths as a posterior: its steps where it has some, else the whole path."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from ...core.guides import PosteriorLaw
from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import MarkovSequence, keep, observed_steps
from ...core.undefined import undefined
from .conditionals import Conditionals, Path
from .posterior import StepwisePosterior, shared_evenly


class AnyPosterior(StepwisePosterior):
    """A distribution of whole paths, continued by the prior after the last observation.

    Args:
        model: The model whose states these are.
        series: Data; NaN in `y` is missing.
        found: Batch shape `(*batch,)`, event shape `(time, state)`.
        batch_shape: Shape of independent paths, by default that of the series.
    """

    def __init__(
        self,
        model: StateSpaceModel,
        series: Series,
        found: PosteriorLaw,
        batch_shape: torch.Size | None = None,
    ) -> None:
        self.found = found
        super().__init__(model, series, observed_steps(series.y), batch_shape)

    def draw(
        self, sample_shape: torch.Size | tuple[int, ...] = (), *, beyond: bool = True
    ) -> Tensor:
        """Draw paths; see `StepwisePosterior.draw`."""
        paths = self.batch_shape[: len(self.batch_shape) - len(self.found.batch_shape)]
        z = self.found.rsample(torch.Size(sample_shape) + paths)
        shown = self._continued(z) if beyond else z
        self._remember(z, shown)
        return shown

    def _remember(self, z: Tensor, shown: Tensor) -> None:
        """Cache what is known of a draw.

        Args:
            z: The draw of `found`.
            shown: The same, continued by the prior.
        """
        raise undefined(self, "_remember(self, z, shown)", "note what is known of a draw")


class IndependentPosterior(AnyPosterior):
    """`q(z_{1:T}) = prod_t q(z_t)`; normals give their divergence from the prior in closed form.

    Args:
        model: The model whose states these are.
        series: Data; NaN in `y` is missing.
        found: The distribution of paths.
        each: The same with all steps in its batch shape: `(*batch, time)` and event shape
            `(state,)`, or `(*batch, time, state)`.
        batch_shape: Shape of independent paths, by default that of the series.
    """

    def __init__(
        self,
        model: StateSpaceModel,
        series: Series,
        found: PosteriorLaw,
        each: Distribution,
        batch_shape: torch.Size | None = None,
    ) -> None:
        self.each = each
        super().__init__(model, series, found, batch_shape)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> IndependentPosterior:
        """Return the same distribution for more independent paths; it draws its own."""
        parts = (self.model, self.series, self.found, self.each)
        return IndependentPosterior(*parts, torch.Size(batch_shape))

    def conditionals(self, value: Tensor) -> Conditionals:
        """Return the steps along any path."""
        if isinstance(self.each, Normal):
            mean, scale = (x.expand_as(value) for x in (self.each.loc, self.each.scale))
            return Path(value, mean, scale)
        if isinstance(self.each, MultivariateNormal):
            chol = self.each.scale_tril
            diagonal = chol.diagonal(dim1=-2, dim2=-1).expand_as(value)
            return Path(value, self.each.loc.expand_as(value), diagonal, chol)
        each = self.each if self.each.event_shape else Independent(self.each, 1)
        return ScoredPath(value, each.log_prob(value), each)

    def proposal(self, z: Tensor, prior: Distribution, t: int) -> Path:
        """Return `q(z_t)`; see `StepwisePosterior.proposal`.

        Raises:
            ValueError: the steps are not normal.
        """
        if not isinstance(self.each, Normal | MultivariateNormal):
            raise ValueError(
                f"`guide` returns steps of {type(self.each).__name__}, which cannot be asked for "
                "one by one: return normals, or derive from `StepwisePosterior`."
            )
        whole = self.conditionals(self.each.loc)
        assert isinstance(whole, Path)
        chol = None if whole.chol is None else whole.chol[..., t, :, :]
        return Path(
            z, whole.mean[..., t, :].expand_as(z), whole.scale[..., t, :].expand_as(z), chol
        )

    def _remember(self, z: Tensor, shown: Tensor) -> None:
        self.path = self.conditionals(shown)


class ScoredPath(NamedTuple):
    """A path and the densities of its steps, in the place of a Gaussian `Path`.

    Attributes:
        z: `(*batch, time, state)`.
        score: `log q(z_t)`, `(*batch, time)`.
        each: The steps' distribution.
    """

    z: Tensor
    score: Tensor
    each: Distribution

    def log_prob(self) -> Tensor:
        """Return `log q(z_t)`, `(*batch, time)`, in nats."""
        return self.score

    def distribution(self) -> Distribution:
        """Return the distribution of all steps."""
        return self.each

    def between(self, start: int, stop: int | None = None) -> ScoredPath:
        """Return some of the steps."""
        steps = slice(start, stop)
        return ScoredPath(self.z[..., steps, :], self.score[..., steps], self.each)

    def divergence(self, prior: Distribution) -> Tensor:
        """Return `log q - log p` at the path."""
        return self.score - prior.log_prob(self.z)

    def divergence_by_component(self, prior: Distribution) -> None:
        """Return nothing: there is no split."""


class JointPosterior(AnyPosterior):
    """A distribution of paths whose steps cannot be told apart.

    `found` covers the steps after the last observation too. There the prior stands in for it:
    `log q` is that of the whole path less `log p` of those steps, so that `E exp(log p - log q)`
    over the counted steps is 1 as for any density. Terms by step are its even share.
    """

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> JointPosterior:
        """Return the same distribution for more independent paths; it draws its own."""
        return JointPosterior(self.model, self.series, self.found, torch.Size(batch_shape))

    def conditionals(self, value: Tensor) -> Conditionals:
        """Refuse: there are none.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"`guide` returns {type(self.found).__name__}, whose steps cannot be told apart: "
            "return an `Independent` of steps, or derive from `StepwisePosterior`."
        )

    def proposal(self, z: Tensor, prior: Distribution, t: int) -> Path:
        """Refuse: there are no steps.

        Raises:
            ValueError: always.
        """
        self.conditionals(z)
        raise AssertionError

    def step_log_prob(self, value: Tensor) -> Tensor:
        """Return even shares of the log-density of the counted steps, `(*batch, time)`."""
        if self._last is not None and self._last[0] is value:
            return self._last[1]
        after = self._prior(~self.steps, value.shape[:-2]).log_prob(value)
        total = self.found.log_prob(value) - after
        share = total / self.steps.sum(-1).clamp_min(1)
        return keep(self.steps, share[..., None].expand(value.shape[:-1]))

    def divergence(self, prior: MarkovSequence) -> Tensor:
        """Return `log q - log p` at the last draw, `(*batch, time)`."""
        if self._last is None:
            self.rsample()
        assert self._last is not None
        z, score = self._last
        return keep(self.steps, score - prior.step_log_prob(z))

    def divergence_by_component(self, prior: MarkovSequence) -> Tensor:
        """Return `divergence` shared out evenly, `(*batch, time, state)`."""
        return shared_evenly(self.divergence(prior), self.model.state_dim)

    _last: tuple[Tensor, Tensor] | None = None

    def _remember(self, z: Tensor, shown: Tensor) -> None:
        self._last = None
        self._last = shown, self.step_log_prob(z)

    def _prior(self, steps: Tensor, batch_shape: torch.Size) -> MarkovSequence:
        series = self.series
        return MarkovSequence(
            self.model, series.time, series.u, series.dt, steps, torch.Size(batch_shape)
        )
