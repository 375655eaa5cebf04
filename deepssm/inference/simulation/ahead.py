"""Running a model on from given states, each drawn observation known to the next step."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.autoregressive import input_after
from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import at, completed, draw, observed_steps
from ...core.results import Forecast
from .angles import Wrap, average, circular, identity
from .conditionals import bind


def last_seen(y: Tensor) -> Tensor:
    """Return each series' last step with an observation, `(*batch,)`; -1 where there is none."""
    return observed_steps(y).sum(-1) - 1


def state_at(path: Tensor, last: Tensor) -> Tensor:
    """Return states of `(*axes, *batch, time, state)` at each series' own step, `(*batch,)`."""
    index = last.clamp_min(0)[..., None, None].expand(*path.shape[:-2], 1, path.shape[-1])
    return path.gather(-2, index)[..., 0, :]


def run_on(
    model: StateSpaceModel, series: Series, z: Tensor, last: Tensor, horizon: int
) -> tuple[Tensor, Tensor]:
    """Draw states and observations from a state on, and return those of the last steps.

    Args:
        model: Any model.
        series: Observations up to the state's step, inputs and time steps of all steps.
        z: States at `last`, `(*axes, *batch, state)`.
        last: Step of each series' state, `(*batch,)`; -1 starts at `p(z_1)`.
        horizon: How many steps are returned.

    Returns:
        `(*axes, *batch, horizon, state)` and `(*axes, *batch, horizon, obs)`.
    """
    if model.reads_past:
        return _run_on_autoregressive(model, series, z, last, horizon)
    conditionals, states, observations = bind(model, series), [], []
    for t in range(max(int(last.min()), 0), series.time):
        known = (last >= t)[..., None]
        moved = conditionals.transition(z, t) if t else conditionals.initial
        z = torch.where(known, z, draw(moved.expand(z.shape[:-1])))
        if t >= series.time - horizon:
            states.append(z)
            observations.append(draw(conditionals.emission(z, t)))
    return torch.stack(states, -2), torch.stack(observations, -2)


def _run_on_autoregressive(
    model: StateSpaceModel, series: Series, z: Tensor, last: Tensor, horizon: int
) -> tuple[Tensor, Tensor]:
    """Do the same where each step reads the observation before it, drawn where it is missing."""
    y, states, observations = series.y.new_zeros(*z.shape[:-1], model.obs_dim), [], []
    for t in range(max(int(last.min()), 0), series.time):
        known = (last >= t)[..., None]
        u = after = at(series.u, t)
        told = input_after(model, u, y) if t else None
        if u is not None and told is not None:
            after = torch.where(known, u, told)
        moved = model.transition(z, after, at(series.dt, t, axes=1)) if t else model.initial()
        z = torch.where(known, z, draw(moved.expand(z.shape[:-1])))
        y = completed(model.emission(z, after), series.y[..., t, :])
        states.append(z)
        observations.append(y)
    return torch.stack(states[-horizon:], -2), torch.stack(observations[-horizon:], -2)


def drawn_forecast(
    states: Tensor, observations: Tensor, model: StateSpaceModel | None = None
) -> Forecast:
    """Return draws and their moments.

    Args:
        states: `(num_samples, *batch, horizon, state)`.
        observations: `(num_samples, *batch, horizon, obs)`.
        model: Says which components are angles; none if it is `None`.
    """
    wraps = (identity, identity)
    if model is not None:
        wraps = (
            circular(model.circular_obs, model.obs_dim),
            circular(model.circular_state, model.state_dim),
        )
    moments = draw_moments(observations, wraps[0]), draw_moments(states, wraps[1])
    return Forecast(*moments[0], observations, *moments[1], states)


def draw_moments(draws: Tensor, wrap: Wrap = identity) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of draws, `(num_samples, *axes, size)`.

    Angles are averaged about their mean direction, by differences taken the short way round.
    """
    mean = average(draws, wrap)
    centred = wrap(draws - mean)
    return mean, torch.einsum("s...i,s...j->...ij", centred, centred) / max(len(draws) - 1, 1)
