"""Running a model on from given states, each drawn reading known to the next step."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.autoregressive import input_after
from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import at, completed, draw, observed_steps
from ...core.results import Forecast


def last_seen(y: Tensor) -> Tensor:
    """Return each series' last step with a reading, `(*batch,)`; -1 where there is none."""
    return observed_steps(y).sum(-1) - 1


def state_at(path: Tensor, last: Tensor) -> Tensor:
    """Return states of `(*axes, *batch, time, state)` at each series' own step, `(*batch,)`."""
    index = last.clamp_min(0)[..., None, None].expand(*path.shape[:-2], 1, path.shape[-1])
    return path.gather(-2, index)[..., 0, :]


def run_on(
    model: StateSpaceModel, series: Series, z: Tensor, last: Tensor, horizon: int
) -> tuple[Tensor, Tensor]:
    """Draw states and readings from a state on, and return those of the last steps.

    Args:
        model: Any model.
        series: Readings up to the state's step, inputs and time steps of all steps.
        z: States at `last`, `(*axes, *batch, state)`.
        last: Step of each series' state, `(*batch,)`; -1 starts at `p(z_1)`.
        horizon: How many steps are returned.

    Returns:
        `(*axes, *batch, horizon, state)` and `(*axes, *batch, horizon, obs)`.
    """
    y, states, readings = series.y.new_zeros(*z.shape[:-1], model.obs_dim), [], []
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
        readings.append(y)
    return torch.stack(states[-horizon:], -2), torch.stack(readings[-horizon:], -2)


def drawn_forecast(states: Tensor, readings: Tensor) -> Forecast:
    """Return draws and their moments, `(num_samples, *batch, horizon, ...)`."""
    return Forecast(*_moments(readings), readings, *_moments(states), states)


def _moments(draws: Tensor) -> tuple[Tensor, Tensor]:
    mean = draws.mean(0)
    centred = draws - mean
    return mean, torch.einsum("s...i,s...j->...ij", centred, centred) / max(len(draws) - 1, 1)
