"""A Gaussian filter one observation at a time, by the steps of the filter over whole series."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ...core.abilities import LinearGaussianModel
from ...core.gaussian import outer
from ...core.model import Data, Series, StateSpaceModel
from ...io.arrays import read_step
from ..online.state import as_numbers, require_state
from ..online.wrapping import checked_observation
from ..simulation.conditionals import Conditionals, bind, gaussian_start
from ..simulation.visibility import require_visible
from . import steps
from .linearized import Linearized, Moments
from .steps import Conditioned, Predicted
from .vanishing_slope import warn_if_nothing_is_learnt


class Stepping(Protocol):
    """What a Gaussian filter does in a step, and which rules it follows."""

    def rules(self, model: StateSpaceModel, conditionals: Conditionals) -> tuple[Moments, Moments]:
        """Return the rules for transitions and emissions."""
        ...

    def moved(
        self, rule: Moments, conditionals: Conditionals, t: int, mean: Tensor, factor: Tensor
    ) -> Linearized:
        """Linearise the transition that arrives at step `t`."""
        ...

    def updated(
        self,
        rule: Moments,
        conditionals: Conditionals,
        t: int,
        prior: Predicted,
        y: Tensor,
        observed: Tensor,
    ) -> tuple[Conditioned, Tensor]:
        """Condition step `t` on `y`; return the trust in each component of it too."""
        ...


class OnlineGaussian:
    """A running extended, unscented or other Gaussian filter over one series; see `OnlineFilter`.

    A robust method doubts observations here as it does in a batch: `trust` says what became of the
    last one.

    Args:
        method: The filter.
        model: Any model with a proper start.

    Attributes:
        log_likelihood: Sum of the log-densities of the observations so far, in nats.
        trust: How far each component of the last observation was trusted, `(obs,)`: 1 in full, 0
            rejected, NaN missing.
    """

    def __init__(self, method: Stepping, model: StateSpaceModel) -> None:
        self.log_likelihood = 0.0
        self.trust = torch.full((model.obs_dim,), torch.nan, dtype=model.dtype)
        require_visible(model, None, type(method).__name__)
        self._method, self._model = method, model
        self._first = not isinstance(model, LinearGaussianModel)
        self._input: Data | None = None
        with torch.no_grad():
            conditionals, series = self._bind(0.0, None)
            self._move, self._emit = method.rules(model, conditionals)
            self._mean, self._factor = gaussian_start(conditionals, series)

    def refresh(self) -> None:
        """Read the model's parameters again, keeping the state."""
        with torch.no_grad():
            self._move, self._emit = self._method.rules(self._model, self._bind(0.0, None)[0])

    @torch.no_grad()
    def predict(self, dt: float | None = None, u: Data | None = None) -> None:
        """Move the state one step.

        Args:
            dt: Time since the last step, for models that ask for it.
            u: Input of the arriving step, `(input,)`.
        """
        self._input = u
        conditionals, _ = self._bind(dt, u)
        step = self._method.moved(self._move, conditionals, 1, self._mean, self._factor)
        predicted = steps.predict(step, joint=False)
        self._mean, self._factor = predicted.mean, predicted.factor

    @torch.no_grad()
    def update(self, y: Data, u: Data | None = None) -> float:
        """Condition on one observation and return its log-density in nats.

        Args:
            y: `(obs,)`, NaN where missing.
            u: Input of this step, `(input,)`, which reaches the emission; by default that of the
                last `predict`, or zeros at the first step.

        Raises:
            ValueError: `y` has the wrong size or is infinite.
        """
        observation = checked_observation(self._model, y, self._mean)
        observed = ~torch.isnan(observation)
        if not bool(observed.any()):
            self.trust = observation
            return 0.0
        conditionals, _ = self._bind(0.0, self._input if u is None else u)
        none = self._factor[..., :0]
        prior = Predicted(self._mean, self._factor, none, none)
        data = torch.where(observed, observation, 0.0), observed
        posterior, self.trust = self._method.updated(self._emit, conditionals, 1, prior, *data)
        if self._first:
            warn_if_nothing_is_learnt(
                self._method, conditionals, [prior], [posterior], self.trust[None]
            )
            self._first = False
        self._mean, self._factor = steps.move(prior, posterior)
        self.log_likelihood += (gained := float(posterior.log_likelihood))
        return gained

    @property
    def mean(self) -> Tensor:
        """Mean of the current state, `(state,)`."""
        return self._mean.clone()

    @property
    def cov(self) -> Tensor:
        """Covariance of the current state, `(state, state)`."""
        return outer(self._factor)

    def state_dict(self) -> dict[str, Tensor]:
        """Return mean and factor, to go on later."""
        total = torch.tensor(self.log_likelihood, dtype=torch.float64)
        state = {"mean": self._mean, "factor": self._factor, "trust": self.trust}
        return {name: value.clone() for name, value in state.items()} | {"log_likelihood": total}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            ValueError: The sizes are those of another model.
        """
        own = {"mean": self._mean, "factor": self._factor, "trust": self.trust}
        require_state(state, **{name: value.shape for name, value in own.items()})
        mean, factor, self.trust = (
            state[name].to(value, copy=True) for name, value in own.items()
        )
        self._mean, self._factor, self._input = mean, factor, None
        self.log_likelihood = float(state["log_likelihood"])

    def _bind(self, dt: float | None, u: Data | None) -> tuple[Conditionals, Series]:
        """Bind one step: entry 1 of a series of two, since entry 0 has no transition."""
        model = self._model
        nothing = torch.full((2, model.obs_dim), torch.nan, dtype=model.dtype, device=model.device)
        inputs = None
        width = model.input_dim + 2 * model.obs_dim * model.reads_past
        if width:
            given = nothing.new_zeros(width) if u is None else as_numbers(u, nothing)
            inputs = given.to(nothing).expand(2, width)
        step = None if dt is None else nothing.new_full((2,), read_step("dt", dt))
        series = Series(nothing, inputs, step)
        return bind(model, series), series
