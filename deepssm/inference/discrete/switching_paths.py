"""Paths of modes, drawn backwards, and states that are exact given the modes."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.distributions import Categorical
from torch.nn import functional

from ...core.abilities import SwitchingModel
from ...core.gaussian import beside, psd_factor, tria
from ...core.model import (
    GaussianInitial,
    LinearConditional,
    LinearParameters,
    Series,
    StateSpaceModel,
)
from ..gaussian.methods import Extended
from ..gaussian.posterior_linearization import LinearizedModel
from ..simulation.conditionals import bind
from .switching_bound import fix_observations, whiten
from .switching_mixtures import Mixture, Trace, at_step


def smooth_along(
    model: SwitchingModel, series: Series, paths: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Smooth exactly along each path of modes and average, all paths being equally likely.

    Args:
        model: The model.
        series: The data.
        paths: Draws of `sample_modes`, `(count, *batch, time, modes or more)`.

    Returns:
        Means, covariances and lag-one covariances of (one-hot mode, state).
    """
    hot = paths[..., : model.num_modes]
    found = Extended().smooth(*_given_modes(model, series, hot))  # linear, so exact
    both = torch.cat((hot, found.mean), -1)
    mean, modes = both.mean(0), model.num_modes
    left = both - mean
    cov = torch.einsum("s...i,s...j->...ij", left, left) / len(left)
    lag = torch.einsum("s...i,s...j->...ij", left[..., 1:, :], left[..., :-1, :]) / len(left)
    cross = torch.cat((torch.zeros_like(cov[..., :1, :, :]), lag), -3)
    pad = (modes, 0, modes, 0)
    within, between = found.cov.mean(0), found.cross_cov.mean(0)
    return mean, cov + functional.pad(within, pad), cross + functional.pad(between, pad)


def sample_modes(model: SwitchingModel, series: Series, trace: Trace, count: int) -> Tensor:
    """Draw paths of modes backwards, one-hot, `(count, *batch, time, modes)`.

    Args:
        model: The model.
        series: The data the trace comes from.
        trace: A forward pass with one Gaussian a mode.
        count: Number of paths.
    """
    each = torch.arange(model.num_modes, device=series.y.device)
    modes = [each.expand(mixture.log_weight.shape) for mixture in trace.filtered]
    return backward_modes(model, series, trace.filtered, modes, count)


def backward_modes(
    model: SwitchingModel,
    series: Series,
    filtered: list[Mixture],
    modes: list[Tensor],
    count: int,
) -> Tensor:
    """Draw paths of modes backwards, one-hot, `(count, *batch, time, modes)`.

    The states are integrated out: what the future says of a state, given the modes drawn so far,
    is exact, and only the filter's Gaussians are an approximation, if they are merged ones.

    Args:
        model: The model.
        series: The data.
        filtered: Gaussians of each step, any number of parts.
        modes: Mode of each part, `(*batch, parts)`, one tensor a step.
        count: Number of paths.

    Source: Fong, Godsill, Doucet & West (2002), IEEE Transactions on Signal Processing 50(2);
        Bierman (1973), Automatica 9, for the square-root information of the future.
    """
    _, transition, emission = model.mode_parameters(series.u, series.dt)
    noise, log_A = psd_factor(transition.cov, "Q"), model.log_transition()
    observations = _observations(emission, series.y)
    last = filtered[-1]
    part = _choose(last.log_weight.expand(count, *last.log_weight.shape))
    mode = _mode_of(part, modes[-1])
    path, n = [mode], last.mean.shape[-1]
    future = last.mean.new_zeros(*mode.shape, n, n + 1)
    for t in range(series.time - 2, -1, -1):
        A, b = at_step(transition.matrix, t + 1, 2), at_step(transition.offset, t + 1, 1)
        step = (at_step(noise, t + 1, 2), A, b[..., None])
        move = _pick(beside(*step), mode, 2)
        seen = _pick(at_step(observations, t + 1, 2), mode, 2)
        future = _earlier(torch.cat((future, seen), -2), move)
        past, before = filtered[t], modes[t].expand(count, *modes[t].shape)
        change = _pick(log_A.mT, mode, 1).gather(-1, before)
        mode = _mode_of(_choose(past.log_weight + change + _evidence(future, past)), modes[t])
        path.append(mode)
    hot = functional.one_hot(torch.stack(path[::-1], -1), model.num_modes)
    return hot.to(last.mean.dtype)


def simulate(
    model: StateSpaceModel, series: Series, trace: Trace, first: int, count: int
) -> tuple[Tensor, Tensor]:
    """Draw states and observations from step `first` on, given what was filtered before it.

    Args:
        model: The model.
        series: The data the trace comes from, followed by the future.
        trace: A forward pass.
        first: First step to draw.
        count: Number of draws.
    """
    conditionals = bind(model, series)
    start = trace.filtered[first - 1] if first else trace.predicted[0]
    mode = _choose(start.log_weight.expand(count, *start.log_weight.shape))
    z = _pick(start.mean, mode, 1) + _noise(_pick(start.factor, mode, 2))
    x, states, observations = torch.cat((_hot(mode, start), z), -1), [], []
    for t in range(first, series.time):
        x = conditionals.transition(x, t).sample() if t else x
        states.append(x)
        observations.append(conditionals.emission(x, t).sample())
    return torch.stack(states, -2), torch.stack(observations, -2)


def draw_along(model: SwitchingModel, series: Series, paths: Tensor) -> Tensor:
    """Draw the states of paths, exactly given their modes.

    Args:
        model: The model.
        series: The data.
        paths: Draws of `sample_modes`, `(count, *batch, time, modes or more)`.

    Returns:
        `(count, *batch, time, modes + latent)`.
    """
    hot = paths[..., : model.num_modes]
    z = Extended().sample_posterior(*_given_modes(model, series, hot), 1)[0]
    return torch.cat((hot, z), -1)


def _given_modes(
    model: SwitchingModel, series: Series, hot: Tensor
) -> tuple[LinearizedModel, Series]:
    """Return the linear model of each path of modes, and the data once for each."""
    initial, transition, emission = model.mode_parameters(series.u, series.dt)
    start = GaussianInitial(
        torch.einsum("...k,...ki->...i", hot[..., 0, :], initial.mean),
        torch.einsum("...k,...kij->...ij", hot[..., 0, :], initial.cov),
    )
    conditionals = (_along(conditional, hot) for conditional in (transition, emission))
    linear = LinearizedModel(cast(StateSpaceModel, model), LinearParameters(start, *conditionals))
    linear.state_dim = model.latent_dim
    return linear, Series(series.y.expand(*hot.shape[:-2], *series.y.shape[-2:]))


def _along(conditional: LinearConditional, hot: Tensor) -> LinearConditional:
    """Pick the mode's matrices at every step of every path."""
    picked = []
    for x, rank in zip(conditional, (2, 1, 2), strict=True):
        event = "ij"[:rank]
        wide = x.expand(*x.shape[: x.ndim - rank - 2], hot.shape[-2], *x.shape[-rank - 1 :])
        picked.append(torch.einsum(f"...tk,...tk{event}->...t{event}", hot, wide))
    return LinearConditional(*picked)


def _observations(emission: LinearConditional, y: Tensor) -> Tensor:
    """Return rows over `[z, 1]` of all observations, `(*batch, time, modes, obs, state + 1)`."""
    C, d, R = emission
    if bool((torch.linalg.cholesky_ex(R)[1] != 0).any()):
        # Noiseless observations would have infinite weight; the states given the modes stay exact.
        flat = y.reshape(-1, y.shape[-1])
        spread = (flat - flat.nanmean(0)).square().nanmean(0).nan_to_num(1.0).clamp_min(1e-300)
        R = R + 1e-8 * torch.diag(spread)
    rows = whiten(LinearConditional(C, d, R), "R", ~torch.isnan(y)).rows
    return fix_observations(rows, y)


def _earlier(rows: Tensor, move: Tensor) -> Tensor:
    """Carry rows over `[z_{t+1}, 1]` to `[z_t, 1]` through `z_{t+1} = A z_t + b + L e`.

    Args:
        rows: `(*axes, rows, state + 1)`.
        move: `[L, A, b]`, `(*axes, state, 2 state + 1)`.
    """
    n = move.shape[-2]
    through = rows[..., :n] @ move
    through[..., -1:] += rows[..., -1:]
    prior = torch.eye(n, 2 * n + 1, dtype=rows.dtype, device=rows.device)
    stacked = torch.cat((prior.expand(*rows.shape[:-2], -1, -1), through), -2)
    return tria(stacked.mT).mT[..., n : 2 * n, n:]


def _evidence(future: Tensor, past: Mixture) -> Tensor:
    """Return `log E exp(-|rows [z, 1]|^2 / 2)` under the Gaussian of each mode."""
    U = future[..., None, :, :-1]
    slope = U @ past.factor
    gap = (U @ past.mean[..., None] + future[..., None, :, -1:])[..., 0]
    eye = torch.eye(slope.shape[-1], dtype=slope.dtype, device=slope.device)
    factor = torch.linalg.cholesky(eye + slope @ slope.mT)
    white = torch.linalg.solve_triangular(factor, gap[..., None], upper=False)[..., 0]
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * white.square().sum(-1) - log_det


def _mode_of(part: Tensor, modes: Tensor) -> Tensor:
    return modes.expand(*part.shape, modes.shape[-1]).gather(-1, part[..., None])[..., 0]


def _choose(log_weight: Tensor) -> Tensor:
    return Categorical(logits=log_weight, validate_args=False).sample()


def _pick(x: Tensor, mode: Tensor, rank: int) -> Tensor:
    """Return `x[..., mode, ...]`, the mode axis of `x` being followed by `rank` axes."""
    x = x.expand(*mode.shape, *x.shape[-rank - 1 :])
    index = mode.reshape(*mode.shape, *[1] * (rank + 1))
    wanted = index.expand(*mode.shape, 1, *x.shape[mode.ndim + 1 :])
    return x.gather(mode.ndim, wanted).squeeze(mode.ndim)


def _hot(mode: Tensor, mixture: Mixture) -> Tensor:
    return functional.one_hot(mode, mixture.log_weight.shape[-1]).to(mixture.mean.dtype)


def _noise(factor: Tensor) -> Tensor:
    noise = torch.randn(*factor.shape[:-2], factor.shape[-1], dtype=factor.dtype)
    return (factor @ noise.to(factor.device)[..., None])[..., 0]
