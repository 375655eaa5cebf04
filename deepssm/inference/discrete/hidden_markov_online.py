"""A hidden Markov model one observation at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.abilities import lags_of
from ...core.model import Data, StateSpaceModel
from ...io.arrays import read_step
from ..online.state import as_numbers, require_state
from ..online.wrapping import checked_observation
from .required import discrete_model, log_transitions


class OnlineForward:
    """A running forward recursion over one series; see `OnlineFilter`.

    Args:
        model: A model with finitely many states; it is read again at every step.

    Attributes:
        log_likelihood: Sum of the log-densities of the observations so far, in nats.
    """

    def __init__(self, model: StateSpaceModel) -> None:
        self.log_likelihood = 0.0
        self._model, self._chain = model, discrete_model(model)
        self._given: Data | None = None
        lags = lags_of(model)
        with torch.no_grad():
            self._log = self._chain.log_initial().clone()
        # The observations before this one, and this one, for emissions that look back.
        self._observations = self._log.new_full((lags + 1, model.obs_dim), torch.nan)

    @torch.no_grad()
    def predict(self, dt: float | None = None, u: Data | None = None) -> None:
        """Move the state one step.

        Args:
            dt: Time since the last step, for models that ask for it.
            u: Input of the arriving step, `(input,)`.
        """
        step = None if dt is None else self._log.new_full((1,), read_step("dt", dt))
        self._given = u
        A = log_transitions(self._chain, self._input(u), step)[0]
        self._log = torch.logsumexp(self._log[:, None] + A, 0)
        empty = torch.full_like(self._observations[:1], torch.nan)
        self._observations = torch.cat((self._observations[1:], empty))

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
        self._observations[-1] = checked_observation(self._model, y, self._log)
        inputs = self._input(self._given if u is None else u)
        wide = None if inputs is None else inputs.expand(len(self._observations), -1)
        joint = self._log + self._chain.log_emission(self._observations, wide)[-1]
        seen = not bool(self._observations[-1].isnan().all())
        total = torch.logsumexp(joint, 0) if seen else joint.new_zeros(())
        if bool(torch.isfinite(total)):  # an impossible observation: go on as if it were missing
            self._log = joint - total
        self.log_likelihood += float(total)
        return float(total)

    @property
    def mean(self) -> Tensor:
        """Probabilities of the states, `(state,)`."""
        return self._log.exp()

    @property
    def cov(self) -> Tensor:
        """Covariance of the one-hot state, `(state, state)`."""
        p = self.mean
        return torch.diag(p) - p[:, None] * p

    def state_dict(self) -> dict[str, Tensor]:
        """Return log-probabilities and remembered observations, to go on later."""
        total = torch.tensor(self.log_likelihood, dtype=torch.float64)
        state = {"log_probability": self._log, "readings": self._observations}
        return {name: value.clone() for name, value in state.items()} | {"log_likelihood": total}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            ValueError: The sizes are those of another model.
        """
        require_state(state, log_probability=self._log.shape, readings=self._observations.shape)
        self._log = state["log_probability"].to(self._log, copy=True)
        self._observations = state["readings"].to(self._observations, copy=True)
        self.log_likelihood, self._given = float(state["log_likelihood"]), None

    def _input(self, u: Data | None) -> Tensor | None:
        size = self._model.input_dim
        if not size:
            return None
        return (self._log.new_zeros(size) if u is None else as_numbers(u, self._log))[None]
