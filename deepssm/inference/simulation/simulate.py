"""Unconditional draws from any state space model."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from ...core.abilities import LinearGaussianModel, ReadsEarlierObservations
from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import completed, seeded
from ...core.results import Simulated
from ..kalman.simulation_smoother import draw_observations, simulate_states
from .ahead import run_on


def simulate(
    model: StateSpaceModel,
    series: Series,
    lead: tuple[int, ...],
    generator: torch.Generator | None = None,
) -> Simulated:
    """Draw `z` and `y`, `(*lead, *batch, time, ...)`, for the inputs and time steps of `series`.

    An emission that reads earlier observations finds zeros before the first.

    Raises:
        ValueError: The model starts diffuse.
    """
    if isinstance(model, LinearGaussianModel):
        return _simulate_linear(model, series, lead, generator)
    shape = torch.Size((*lead, *series.batch_shape))
    if model.reads_past and series.time:
        nothing = torch.full(series.batch_shape, -1, device=series.y.device)
        start = series.y.new_zeros(*shape, model.state_dim)
        with torch.no_grad(), seeded(generator):
            return Simulated(*run_on(model, series, start, nothing, series.time))
    states: list[Tensor] = []
    for t in range(series.time):
        u = None if series.u is None else series.u[..., t, :]
        if t == 0:
            start = model.initial()
            states.append(draw(start, _missing(shape, start), generator))
        else:
            states.append(draw(model.transition(states[-1], u, _step(series, t)), (), generator))
    if not states:
        return Simulated(
            series.y.new_zeros(*shape, 0, model.state_dim), series.y.expand(*shape, -1, -1)
        )
    z = torch.stack(states, -2)
    if isinstance(model, ReadsEarlierObservations) and model.lags:
        past = z.new_zeros(*shape, model.lags, model.obs_dim)
        return Simulated(z, observations_in_turn(model, z, series.u, past, generator))
    return Simulated(z, draw(model.emission(z, series.u), (), generator))


def observations_in_turn(
    model: ReadsEarlierObservations,
    z: Tensor,
    u: Tensor | None,
    past: Tensor,
    generator: torch.Generator | None = None,
    y: Tensor | None = None,
) -> Tensor:
    """Draw observations one by one where each depends on those before it, `(*axes, time, obs)`.

    Args:
        model: A model whose emission reads earlier observations.
        z: States, `(*axes, time, state)`.
        u: Inputs, `(*batch, time, input)`, or `None`.
        past: Observations before the first, oldest first, `(*axes, lags, obs)`.
        generator: Source of randomness.
        y: What was seen, `(*batch, time, obs)`, NaN where it is to be drawn; `None`: nothing.
    """
    drawn = []
    for t in range(z.shape[-2]):
        now = None if u is None else u[..., t, :].expand(*z.shape[:-2], -1)
        emission = model.emission_after(z[..., t, :], past, now)
        fresh = draw(emission, (), generator)
        drawn.append(fresh if y is None else completed(emission, y[..., t, :], fresh))
        past = torch.cat((past[..., 1:, :], drawn[-1][..., None, :]), -2)
    return torch.stack(drawn, -2)


def draw(
    distribution: Distribution, shape: tuple[int, ...], generator: torch.Generator | None
) -> Tensor:
    """Sample with a generator, which `torch.distributions` does not take, by a seeded fork."""
    if generator is None:
        return distribution.sample(torch.Size(shape))
    device = [torch.cuda.current_device()] if generator.device.type == "cuda" else []
    with torch.random.fork_rng(devices=device):
        seed = torch.randint(2**62, (), generator=generator, device=generator.device)
        torch.manual_seed(int(seed))
        return distribution.sample(torch.Size(shape))


def _simulate_linear(
    model: LinearGaussianModel,
    series: Series,
    lead: tuple[int, ...],
    generator: torch.Generator | None,
) -> Simulated:
    parameters = model.linear_parameters(series.u, series.dt)
    if parameters.initial.diffuse is not None:
        raise ValueError(
            "A model with a diffuse start cannot be simulated: its first state has no "
            "distribution. Give `m0` and `P0`, or draw with `sample_posterior` given data."
        )
    with torch.no_grad():
        shape = (*lead, *series.batch_shape)
        z = simulate_states(parameters, shape, series.time, generator)
        return Simulated(z, draw_observations(z, *parameters.emission, generator))


def _missing(shape: torch.Size, start: Distribution) -> torch.Size:
    return shape[: len(shape) - len(start.batch_shape)]


def _step(series: Series, t: int) -> Tensor | None:
    return series.dt if series.dt is None or series.dt.ndim == 0 else series.dt[..., t]
