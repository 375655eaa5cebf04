"""Where a particle filter draws its next particles from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal

from ...core.gaussian import mvn
from ...core.guides import FilteringGuide
from ...core.model import Series, StateSpaceModel
from ..gaussian import steps
from ..gaussian.filter import GaussianFilter
from ..gaussian.methods import Extended
from ..simulation.conditionals import Conditionals


class Proposed(NamedTuple):
    """A proposal for one step.

    Attributes:
        distribution: `q(z_t | z_{t-1}, y_t)`, batch shape `(particles, *batch)`, or `None` for
            the prior.
        look_ahead: An estimate of `log p(y_t | z_{t-1})`, `(particles, *batch)`, or `None`.
        draw: Draws from `distribution` with `log p - log q`, also where neither has a density of
            its own because the transition noise is singular; `None` if the densities say all.
    """

    distribution: Distribution | None
    look_ahead: Tensor | None = None
    draw: Callable[[], tuple[Tensor, Tensor]] | None = None


Propose = Callable[[int, Tensor, Distribution, Tensor, Tensor], Proposed]


@runtime_checkable
class Proposal(Protocol):
    """Proposes particles, given the transition and the new observation."""

    def bind(self, model: StateSpaceModel, conditionals: Conditionals, series: Series) -> Propose:
        """Return `propose(t, z_past, prior, y, observed)` for a series.

        `z_past` is `(particles, *batch, state)`; at `t = 0` it is a draw that must not be read.
        """
        ...


@dataclass(frozen=True)
class Bootstrap:
    """Propose from the transition itself, blind to the observation. Needs no density of it.

    Source: Gordon, Salmond & Smith (1993), IEE Proceedings F 140(2).
    """

    def bind(self, model: StateSpaceModel, conditionals: Conditionals, series: Series) -> Propose:
        """Return the proposal of a series."""
        return lambda t, z, prior, y, observed: Proposed(None)


@dataclass(frozen=True)
class Guided:
    """Propose from one Gaussian update of each particle: exact if emissions are linear-Gaussian.

    Args:
        rule: The Gaussian filter whose update is used; extended or of any points.

    Source: Doucet, Godsill & Andrieu (2000), section II.D; van der Merwe et al. (2000).
    """

    rule: GaussianFilter = field(default_factory=Extended)

    def bind(self, model: StateSpaceModel, conditionals: Conditionals, series: Series) -> Propose:
        """Return the proposal of a series."""
        moments = self.rule.rules(model, conditionals)[1]

        def propose(
            t: int, z: Tensor, prior: Distribution, y: Tensor, observed: Tensor
        ) -> Proposed:
            mean, factor = prior.mean, _factor(prior)
            step = moments(
                lambda x: conditionals.emission(x, t), mean, factor, conditionals.wrap_obs
            )
            gap = conditionals.wrap_obs(y - step.mean)
            posterior = steps.condition(step, gap, observed.expand_as(gap))
            centre = mean + (factor @ posterior.shift[..., None])[..., 0]
            proposal = mvn(centre, factor @ posterior.gain)

            def draw() -> tuple[Tensor, Tensor]:
                noise = torch.randn_like(mean)
                e = posterior.shift + (posterior.gain @ noise[..., None])[..., 0]
                # Both are the images of distributions of e, whose densities have the same ratio.
                scale = posterior.gain.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
                ratio = scale + 0.5 * (noise.square() - e.square()).sum(-1)
                return mean + (factor @ e[..., None])[..., 0], ratio

            return Proposed(proposal, posterior.log_likelihood, draw)

        return propose


@dataclass(frozen=True, eq=False)
class FromGuide:
    """Propose from a trained guide's step for a series that ends now.

    Args:
        guide: Has `filtering(model, series)`, as the guides of this library do.
    """

    guide: FilteringGuide

    def bind(self, model: StateSpaceModel, conditionals: Conditionals, series: Series) -> Propose:
        """Return the proposal of a series."""
        with torch.no_grad():
            posterior = self.guide.filtering(model, series)

        def propose(
            t: int, z: Tensor, prior: Distribution, y: Tensor, observed: Tensor
        ) -> Proposed:
            if not bool(observed.any(-1).all()):
                return Proposed(None)
            return Proposed(posterior.proposal(z, prior, t).distribution())  # type: ignore[attr-defined]

        return propose


def _factor(distribution: Distribution) -> Tensor:
    if isinstance(distribution, MultivariateNormal):
        return distribution.scale_tril
    if isinstance(distribution, Independent):
        return torch.diag_embed(distribution.base_dist.stddev)
    raise ValueError(
        f"`Guided()` needs Gaussian transitions with a density, got "
        f"{type(distribution).__name__}: use `Bootstrap()`."
    )
