"""A switching linear model one observation at a time: the filter of robots and radars."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ...core.gaussian import psd_factor
from ...core.model import Data, LinearParameters, StateSpaceModel
from ...io.arrays import read_step
from ..online.state import as_numbers, require_state
from ..online.wrapping import checked_observation
from .required import switching_model
from .switching_mixtures import Mixture, merge, moments
from .switching_steps import move, start, update

# Parameters of this many different time steps are cached.
_MOST_STEPS = 256


class _Step(NamedTuple):
    """What one step needs: matrices, factors of the noises, changes of mode."""

    parameters: LinearParameters
    LQ: Tensor
    LR: Tensor
    log_A: Tensor


class OnlineSwitching:
    """A running IMM or GPB2 filter over one series; see `OnlineFilter`.

    Args:
        order: 1 is IMM, 2 is GPB2.
        model: A `SwitchingLinearGaussian` with modes that are constant in time; call `refresh`
            after changing its parameters.

    Attributes:
        log_likelihood: Sum of the log-densities of the observations so far, in nats.
    """

    def __init__(self, order: Literal[1, 2], model: StateSpaceModel) -> None:
        self.log_likelihood = 0.0
        self._order: Literal[1, 2] = order
        self._model, self._chain = model, switching_model(model)
        self._input: Data | None = None
        self.refresh()
        with torch.no_grad():
            # Start and emission need no time step; kinematic modes may have none to offer.
            self._state = start(self._chain, self._read(0.0, None).parameters, torch.Size())

    def refresh(self) -> None:
        """Read the model's parameters again, keeping the state."""
        self._steps: dict[float | None, _Step] = {}

    @torch.no_grad()
    def predict(self, dt: float | None = None, u: Data | None = None) -> None:
        """Move the state one step.

        Args:
            dt: Time since the last step, for modes in continuous time.
            u: Input of the arriving step, `(input,)`.
        """
        self._input = u
        step = self._read(dt, u)
        self._state = move(
            self._order, merge(self._state), step.parameters, step.LQ, step.log_A, 1
        )

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
        observation = checked_observation(self._model, y, self._state.mean)
        step = self._read(0.0, self._input if u is None else u)
        observed = ~torch.isnan(observation)
        known = torch.nan_to_num(observation)
        self._state, score = update(self._state, step.parameters, step.LR, 1, known, observed)
        gained = float(score)
        self.log_likelihood += gained
        return gained

    @property
    def mean(self) -> Tensor:
        """Probabilities of the modes and mean of the state, `(modes + latent,)`."""
        return moments(merge(self._state))[0]

    @property
    def cov(self) -> Tensor:
        """Joint covariance of the one-hot mode and the state."""
        return moments(merge(self._state))[1]

    def state_dict(self) -> dict[str, Tensor]:
        """Return the mixture, to go on later."""
        total = torch.tensor(self.log_likelihood, dtype=torch.float64)
        state = {name: value.clone() for name, value in self._state._asdict().items()}
        return state | {"log_likelihood": total}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            ValueError: The sizes are those of another model.
        """
        own = self._state.mean
        # How many pasts there are depends on where in a step the state was saved.
        pasts = state["mean"].shape[0] if "mean" in state else 1
        modes, n = own.shape[-2:]
        shapes = {"log_weight": (pasts, modes), "mean": (pasts, modes, n)}
        require_state(state, **shapes, factor=(pasts, modes, n, n))
        self._state = Mixture(*(state[name].to(own, copy=True) for name in Mixture._fields))
        self.log_likelihood, self._input = float(state["log_likelihood"]), None

    def _read(self, dt: float | None, u: Data | None) -> _Step:
        """Return one step; those without inputs are cached."""
        if u is not None:
            return self._step(dt, u)
        if dt not in self._steps:
            if len(self._steps) >= _MOST_STEPS:
                self._steps.clear()
            self._steps[dt] = self._step(dt, None)
        return self._steps[dt]

    def _step(self, dt: float | None, u: Data | None) -> _Step:
        """Read entry 1 of a series of two, since entry 0 has no transition."""
        model, inputs = self._model, None
        if model.input_dim:
            like = torch.zeros(model.input_dim, dtype=model.dtype, device=model.device)
            given = like if u is None else as_numbers(u, like)
            inputs = given.to(model.device, model.dtype).expand(2, model.input_dim)
        like = torch.zeros(2, dtype=model.dtype, device=model.device)
        times = None if dt is None else torch.full_like(like, read_step("dt", dt))
        found = self._chain.mode_parameters(inputs, times)
        if found.transition.matrix.shape[-4] > 2:
            raise ValueError(
                "`model` has modes that vary over a fixed stretch of time, which has no online "
                "form. Use constant modes, or `filter` the whole series."
            )
        LQ, LR = psd_factor(found.transition.cov, "Q"), psd_factor(found.emission.cov, "R")
        return _Step(found, LQ, LR, self._chain.log_transition())
