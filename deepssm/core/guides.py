"""What a variational posterior must do, and what it may do: contracts of guides and their parts.

A stranger's guide is any `nn.Module` with `__call__(model, series)` that returns a distribution
over paths, `(time, state)` its event shape. Each further Protocol here is an ability: whoever has
its members is asked for more, by `isinstance`; nothing is registered. Members that are tensors
or modules are properties or methods, for `isinstance` sees no buffers and no submodules.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import Distribution

from .model import Series, StateSpaceModel


@runtime_checkable
class PosteriorLaw(Protocol):
    """A distribution of whole paths `q(z_{1:T} | y_{1:T}, u_{1:T})`.

    Any `torch.distributions` object will do whose batch shape is that of the series and whose
    event shape is `(time, state)`, with a differentiable `rsample`: `Independent(Normal(mean,
    scale), 2)` with `mean` of shape `(*batch, time, state)` is the smallest. It may say anything
    after a series' last observation: the prior continues there, and only the steps before count.

    Where steps are independent (an `Independent` of normals), the divergence from the prior is
    exact by step; else it is `log q - log p` at the draw. The posteriors of this library depend on
    the state before, and know their steps `q(z_t | z_{t-1})`; derive from
    `deepssm.inference.StepwisePosterior` to get the same.
    """

    @property
    def batch_shape(self) -> torch.Size:
        """Shape of independent series, that of `series.y` without its last two axes."""
        ...

    @property
    def event_shape(self) -> torch.Size:
        """`(time, state)`."""
        ...

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw paths with a gradient, `(*sample_shape, *batch, time, state)`."""
        ...

    def log_prob(self, value: Tensor) -> Tensor:
        """Return `log q(z_{1:T})` in nats, `(*batch,)`."""
        ...


class Guide(Protocol):
    """A variational posterior amortised over series: reads one, returns `q(z_{1:T} | y, u)`.

    This is all that training, smoothing, imputing, forecasting and filtering need. `SVI` wants an
    `nn.Module`, whose `forward` is `__call__` here and whose parameters it trains beside the
    model's; one without parameters is taken as it is. `filter` and `log_likelihood` move
    particles by the model itself, unless the guide is a `FilteringGuide`.

    A guide may be asked about series of any number of batch axes, none included, and of any
    length. `forward` must not draw: draws are taken from what it returns.
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
class InitializesGuide(Guide, Protocol):
    """A guide that looks at the model and the training data once, before it is trained."""

    def initialize_from(self, model: StateSpaceModel, series: Series) -> None:
        """Store scales of the data and choose starting weights.

        Args:
            model: The model, already initialised.
            series: Training data, `(series, time, obs)`.
        """
        ...


@runtime_checkable
class RefinableGuide(Guide, Protocol):
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
class FilteringGuide(Guide, Protocol):
    """A guide whose steps can be made to see no future: proposals of a particle filter.

    `ds.filter`, `ds.log_likelihood` and `ParticleBound` ask for it. Without it particles move by
    the model itself.
    """

    def filtering(self, model: StateSpaceModel, series: Series) -> PosteriorLaw:
        """Return the posterior whose step `t` is that of a series which ends at `t`.

        Its steps are asked for one by one, so it must be a `StepwisePosterior`.
        """
        ...


@runtime_checkable
class WrapsGuide(Guide, Protocol):
    """A guide over another one, for whose model it is made."""

    @property
    def inner_guide(self) -> Guide:
        """The guide inside."""
        ...


@runtime_checkable
class MadeForModel(Protocol):
    """A guide that tells for which sizes it was made, so that a model of others is refused."""

    obs_dim: int
    state_dim: int
    input_dim: int


@runtime_checkable
class DifferentiatesModel(Protocol):
    """A guide that takes derivatives of the model, which compiled code does not have twice."""

    differentiates_model: bool


@runtime_checkable
class FeatureReader(Protocol):
    """Turns a series into features of every step, in units of one and without NaN.

    An `nn.Module` whose `forward` is `__call__` here.
    """

    @property
    def size(self) -> int:
        """Number of features of a step."""
        ...

    @property
    def innovation_scale(self) -> Tensor | None:
        """Units of an innovation, `(obs,)`; `None` where guides are not to look at one."""
        ...

    def initialize_from(self, series: Series) -> None:
        """Store location and scale of the training data, `(series, time, obs)`."""
        ...

    def __call__(self, series: Series) -> Tensor:
        """Return the features of every step, `(*batch, time, size)`."""
        ...


@runtime_checkable
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


@runtime_checkable
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
        """Return mean and standard deviation of `q(z_t | z_{t-1})`, each `(*axes, state)`.

        Both may have fewer leading axes where they do not depend on the state before.
        """
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
class TakesRawContext(Protocol):
    """A combiner that takes contexts of its own width as they are, without a linear map."""

    takes_raw_context: bool


@runtime_checkable
class PlainTensorCode(Protocol):
    """A part of a guide that `SVI(compile=True)` may compile: tensor code without loops."""

    plain_tensor_code: bool


@runtime_checkable
class InitializesScale(Protocol):
    """A combiner that starts as precise as the model's transition."""

    def initialize_scale(self, scale: Tensor) -> None:
        """Start from the standard deviations of a step of the model, `(state,)`."""
        ...


@runtime_checkable
class ReadsFrames(Protocol):
    """`q(a_t | y_t)` of a two-layer model (`ConditionallyLinear`), one frame at a time.

    An `nn.Module` whose `forward` is `__call__` here.
    """

    def reads(self, y: Tensor) -> Tensor:
        """Return which frames it reads, `(*batch, time)`; in others `a` is left to the model.

        Args:
            y: `(*batch, time, obs)`, NaN where missing.
        """
        ...

    def __call__(self, y: Tensor) -> Distribution:
        """Return the distribution of `a`, independent or not.

        Args:
            y: `(*batch, time, obs)`, NaN where missing.

        Returns:
            A distribution with a differentiable `rsample` and a `log_prob`, both of shape
            `(*batch, time, latent)`.
        """
        ...
