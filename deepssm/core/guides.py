"""What a variational posterior must do, and what it may do: contracts of guides and objectives.

A stranger's guide is any `nn.Module` with `__call__(model, series)` that returns a distribution
over paths, `(time, state)` its event shape. Each further Protocol here is an ability: whoever has
its members is asked for more, by `isinstance`; nothing is registered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from .model import Series, StateSpaceModel

if TYPE_CHECKING:
    from .methods import InferenceMethod


class PosteriorLaw(Protocol):
    """A distribution of whole paths `q(z_{1:T} | y_{1:T}, u_{1:T})`.

    Any `torch.distributions` object will do whose batch shape is that of the series and whose
    event shape is `(time, state)`, with a differentiable `rsample`: `Independent(Normal(...), 2)`
    is the smallest. Its divergence from the prior is then `log q - log p` at the draw. Those of
    this library know their steps `q(z_t | z_{t-1})` as well, and give it in closed form; derive
    from `deepssm.inference.StepwisePosterior` to get the same.
    """

    @property
    def batch_shape(self) -> torch.Size:
        """Shape of independent series, that of `series.y` without its last two axes."""
        ...

    @property
    def event_shape(self) -> torch.Size:
        """`(time, state)`."""
        ...

    def expand(self, batch_shape: torch.Size) -> Distribution:
        """Return the same distribution for more independent paths, `(paths, *batch)`."""
        ...

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw paths with a gradient, `(*sample_shape, *batch, time, state)`."""
        ...

    def log_prob(self, value: Tensor) -> Tensor:
        """Return `log q(z_{1:T})` in nats, `(*batch,)`."""
        ...


class Guide(Protocol):
    """A variational posterior amortised over series: reads one, returns `q(z_{1:T} | y, u)`.

    This is all that training, smoothing, imputing and forecasting need. In practice a guide is an
    `nn.Module`, whose parameters `SVI` trains beside the model's; one without parameters is
    taken as it is.
    """

    def __call__(self, model: StateSpaceModel, series: Series) -> PosteriorLaw:
        """Return the posterior of the states.

        Args:
            model: The model whose states are inferred.
            series: Data; NaN in `y` is missing, and what follows a series' last observation is
                to be forecast: the prior is the posterior there.
        """
        ...


@runtime_checkable
class InitializesGuide(Protocol):
    """A guide that looks at the model and the training data once, before it is trained."""

    def initialize_from(self, model: StateSpaceModel, series: Series) -> None:
        """Store scales of the data and choose starting weights.

        Args:
            model: The model, already initialised.
            series: Training data, `(series, time, obs)`.
        """
        ...


@runtime_checkable
class RefinableGuide(Protocol):
    """A guide in two halves, between which `refine` optimises one context a step."""

    def encode(self, series: Series) -> Tensor:
        """Return what the encoder says of every step, `(*batch, time, hidden)`."""
        ...

    def decode(self, model: StateSpaceModel, series: Series, context: Tensor) -> PosteriorLaw:
        """Return the posterior that contexts stand for, whoever found them.

        Args:
            model: The model whose states are inferred.
            series: Data; NaN in `y` is missing.
            context: `(*batch, time, hidden)`.
        """
        ...


@runtime_checkable
class FilteringGuide(Protocol):
    """A guide whose steps can be made to see no future: proposals of a particle filter.

    `ds.filter`, `ds.log_likelihood` and `ParticleBound` ask for it. Without it particles move by
    the model itself.
    """

    def filtering(self, model: StateSpaceModel, series: Series) -> PosteriorLaw:
        """Return the posterior whose step `t` is that of a series which ends at `t`.

        Its steps are asked for one by one, so it must be a `StepwisePosterior`.
        """
        ...


class Encoder(Protocol):
    """A network that reads features of every step and gives a guide one context a step.

    An `nn.Module` whose `forward` is `__call__` here.
    """

    @property
    def features(self) -> int:
        """Number of features of a step that it reads."""
        ...

    @property
    def hidden(self) -> int:
        """Size of a context."""
        ...

    def __call__(self, features: Tensor, last: Tensor) -> Tensor:
        """Return contexts for smoothing, `(*batch, time, hidden)`.

        Args:
            features: `(*batch, time, features)`, without NaN.
            last: Index of each series' last observation, `(*batch,)`; -1 where it has none. What
                comes after it is padding and must not reach a context up to it.
        """
        ...

    def filtering(self, features: Tensor) -> Tensor:
        """Return the contexts of series that end at each step, `(*batch, time, hidden)`.

        Args:
            features: `(*batch, time, features)`, without NaN.
        """
        ...


class CombinerStep(NamedTuple):
    """What a combiner may look at, at one step or at many.

    Attributes:
        z: The state before, `(*axes, state)`.
        mean: Mean of `p(z_t | z_{t-1})`, `(*axes, state)`.
        scale: Its standard deviation, `(*axes, state)`.
        innovation: `y_t` less what the prior mean predicts, in units of the data's spread and 0
            where missing, `(*axes, obs)`; `None` where the combiner does not use it.
        context: Projected context of the encoder, `(*axes, hidden)`.
    """

    z: Tensor
    mean: Tensor
    scale: Tensor
    innovation: Tensor | None
    context: Tensor


class Combiner(Protocol):
    """One step of a guide: what the prior and the context say, put together.

    An `nn.Module` whose `forward` is `__call__` here.
    """

    @property
    def hidden(self) -> int:
        """Size of the context that it reads."""
        ...

    @property
    def uses_innovation(self) -> bool:
        """Whether `CombinerStep.innovation` is wanted; false for data that are no real numbers."""
        ...

    def __call__(self, step: CombinerStep) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of `q(z_t | z_{t-1})`, each `(*axes, state)`."""
        ...


@runtime_checkable
class PathCombiner(Protocol):
    """A combiner that asks nothing of the model, and so draws whole paths in one loop."""

    def path(self, context: Tensor, start: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return a whole path, its means and its standard deviations, shaped as `noise`.

        Args:
            context: Projected contexts, `(time, batch, hidden)`.
            start: The state before the first, `(state,)`.
            noise: Standard normal, `(time, particles, batch, state)`.
        """
        ...


@runtime_checkable
class InitializesScale(Protocol):
    """A combiner that starts as precise as the model's transition."""

    def initialize_scale(self, scale: Tensor) -> None:
        """Start from the standard deviations of a step of the model, `(state,)`."""
        ...


class Loss(Protocol):
    """What `SVI` minimises: an `nn.Module` over one model and one guide."""

    def __call__(
        self,
        y: Tensor,
        u: Tensor | None = None,
        dt: Tensor | None = None,
        kl_weight: float = 1.0,
        scale: float = 1.0,
    ) -> Tensor:
        """Return minus the bound of a batch, a scalar with a gradient.

        Args:
            y: `(series, time, obs)`, NaN where missing.
            u: `(series, time, input)`, or `None`.
            dt: `(series, time)`, `()` or `None`.
            kl_weight: Weight of the divergence, which grows to 1 while training warms up.
            scale: Factor on the whole, one over the number of observed steps.
        """
        ...


class Objective(Protocol):
    """What training maximises, as a value of `SVI(objective=...)`; a frozen dataclass, say."""

    def __call__(
        self, model: StateSpaceModel, guide: nn.Module, *, num_particles: int = 1
    ) -> nn.Module:
        """Return the `Loss` of a model and a guide.

        Args:
            model: The model.
            guide: The guide.
            num_particles: Paths a series, where the objective has no number of its own.
        """
        ...


@runtime_checkable
class PreparesLoss(Protocol):
    """A loss that looks at the training data once, before the first step."""

    def prepare(self, series: Series) -> None:
        """Take note of the training data, `(series, time, obs)`."""
        ...


@runtime_checkable
class KeepsState(Protocol):
    """A loss with numbers of its own that belong into a checkpoint, such as a multiplier."""

    state: nn.Module


@runtime_checkable
class ReportsBound(Protocol):
    """A loss with a bound of its own, reported beside the evidence lower bound."""

    def bound(self, series: Series) -> Tensor:
        """Return the bound in nats, `(*batch,)`."""
        ...


@runtime_checkable
class ChoosesMethod(Protocol):
    """A loss that says how to infer with the trained guide; others get `Amortized(guide)`."""

    def method(self, guide: nn.Module) -> InferenceMethod:
        """Return the method of inference."""
        ...
