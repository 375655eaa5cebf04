"""What a method of inference or of learning must do, and what it may do.

A method is a value: a frozen dataclass, so that users complete and configure it. Whoever has the
members of a Protocol here is such a method; nothing is registered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from .model import Data, Series, StateSpaceModel

if TYPE_CHECKING:
    from .results import Filtered, Forecast, Smoothed


class Learned(NamedTuple):
    """What a learner reports besides the parameters it moved in place.

    Attributes:
        method: How to infer states from now on (a trained guide, or the exact method).
        objective: Final value of what was maximised, in nats, summed over all data.
        history: One record a report step: `{"step": .., "objective": .., ...}`.
        standard_errors: Of each constrained parameter by name, where the learner has them.
        diagnostics: Scalars such as `aic`, `bic`, `gradient_norm`, `num_parameters`.
        warnings: Sentences a user should read.
    """

    method: InferenceMethod
    objective: float
    history: list[dict[str, float]]
    standard_errors: dict[str, Tensor]
    diagnostics: dict[str, float]
    warnings: list[str]


@runtime_checkable
class InferenceMethod(Protocol):
    """Reasons about the states of a model whose parameters are given. A method is a value."""

    def filter(self, model: StateSpaceModel, series: Series) -> Filtered:
        """Return `p(z_t | y_{1:t})` and `p(z_t | y_{1:t-1})`."""
        ...

    def smooth(self, model: StateSpaceModel, series: Series) -> Smoothed:
        """Return `p(z_t | y_{1:T})`."""
        ...

    def log_likelihood(self, model: StateSpaceModel, series: Series) -> Tensor:
        """Return `log p(y_t | y_{1:t-1})` in nats, `(*batch, time)`."""
        ...

    def sample_posterior(
        self,
        model: StateSpaceModel,
        series: Series,
        num_samples: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw paths from `p(z_{1:T} | y_{1:T})`, `(num_samples, *batch, time, state)`."""
        ...

    def forecast(
        self,
        model: StateSpaceModel,
        series: Series,
        horizon: int,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Forecast:
        """Forecast the last `horizon` steps of `series`, whose `y` is NaN there.

        `series` holds the past followed by the future, so future inputs and time steps need no
        second set of arguments.
        """
        ...


@runtime_checkable
class FixedLag(Protocol):
    """A method that can smooth each state from the data up to some steps after it."""

    def fixed_lag(self, model: StateSpaceModel, series: Series, lag: int) -> Smoothed:
        """Return `p(z_t | y_{1:t+lag})` for every `t`."""
        ...


@runtime_checkable
class LearningMethod(Protocol):
    """Fits the free parameters of a model, in place. A method is a value."""

    def fit(
        self,
        model: StateSpaceModel,
        series: Series,
        *,
        progress: bool = True,
        generator: torch.Generator | None = None,
    ) -> Learned:
        """Move the model's parameters; honour constraints, priors and frozen flags."""
        ...


@runtime_checkable
class TakesInference(Protocol):
    """A learner or a method that runs another method inside.

    It is a dataclass. In a learner the field `inference` may be `None`: `deepssm.fit` then runs a
    copy that has the model's default method there.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def inference(self) -> InferenceMethod | None:
        """The inner method."""
        ...


class OnlineFilter(Protocol):
    """A running filter. `update` conditions on an observation, `predict` moves one step.

    It starts at `p(z_1)`: the first call is `update`, then `predict` and `update` alternate.
    A run over a series equals the batch filter.
    """

    @property
    def log_likelihood(self) -> float:
        """Sum of the log-densities of the observations so far, in nats."""
        ...

    def predict(self, dt: float | None = None, u: Data | None = None) -> None:
        """Move the state one step; `dt` and `u` are those of the arriving step."""
        ...

    def update(self, y: Data, u: Data | None = None) -> float:
        """Condition on one observation, `(obs,)`, NaN where missing; return its log-density."""
        ...

    @property
    def mean(self) -> Tensor:
        """Mean of the current state, `(state,)`."""
        ...

    @property
    def cov(self) -> Tensor:
        """Covariance of the current state, `(state, state)`."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything needed to go on later, as tensors."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` returned."""
        ...


@runtime_checkable
class OnlineMethod(Protocol):
    """A method that can run one step at a time."""

    def online(self, model: StateSpaceModel) -> OnlineFilter:
        """Return a filter at the model's start."""
        ...


@runtime_checkable
class TakesEmptySeries(Protocol):
    """A method that takes a series without a step, where the verbs refuse it for others."""

    @property
    def takes_empty_series(self) -> bool:
        """Whether it does."""
        ...


@runtime_checkable
class TakesSeed(Protocol):
    """A method that draws where it is given no generator, and repeats itself by a seed."""

    @property
    def seed(self) -> int:
        """Seed of what it draws."""
        ...


@runtime_checkable
class TakesGenerator(Protocol):
    """A method that can hold the source of what it draws where no function takes one."""

    @property
    def generator(self) -> torch.Generator | None:
        """The source of randomness; `None` for a seed."""
        ...


@runtime_checkable
class UsesGuide(Protocol):
    """A method of inference with a trained guide."""

    @property
    def guide(self) -> nn.Module:
        """The guide, which see `core/guides.py`."""
        ...


@runtime_checkable
class UsesParticles(Protocol):
    """A method that moves a cloud of particles."""

    @property
    def num_particles(self) -> int:
        """Size of the cloud."""
        ...


@runtime_checkable
class AveragesParameters(Protocol):
    """A method that averages over draws of the parameters, by name, instead of one value each."""

    @property
    def draws(self) -> dict[str, Tensor]:
        """The draws, `(chains, draws, *shape)`."""
        ...


def averages_parameters(method: object) -> bool:
    """Return whether what a method says of the future includes that parameters are uncertain."""
    return isinstance(method, AveragesParameters)


def remember_trained(model: StateSpaceModel, method: InferenceMethod) -> None:
    """Let a model remember the method that learning it returned, if that has a trained guide.

    Any other method forgets the one before: the model has moved on from that guide.

    Args:
        model: The model that was learnt.
        method: What its learner returned.
    """
    model.trained = (method,) if _guide_of(method) is not None else ()


def trained_method(model: StateSpaceModel) -> InferenceMethod | None:
    """Return the method with a trained guide that a model remembers, on the model's device."""
    if not model.trained:
        return None
    method = cast(InferenceMethod, model.trained[0])
    guide = _guide_of(method)
    if guide is not None:
        guide.to(device=model.device, dtype=model.dtype)
    return method


def _guide_of(method: InferenceMethod) -> nn.Module | None:
    inner = method.inference if isinstance(method, TakesInference) else method
    return inner.guide if isinstance(inner, UsesGuide) else None
