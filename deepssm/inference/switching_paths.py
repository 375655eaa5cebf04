"""Paths of modes and states: drawn backwards, and smoothed exactly given the modes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.distributions import Categorical
from torch.nn import functional

from ..base import (
    GaussianInitial,
    LinearConditional,
    LinearParameters,
    Series,
    StateSpaceModel,
)
from ..gaussian import beside, psd_factor, standard_normal_log_prob, tria
from .conditionals import bind
from .gaussian_filters import Extended
from .posterior_linearization import LinearizedModel
from .switching_mixtures import Mixture, SwitchingModel, Trace, at_step


class _Pair(NamedTuple):
    """How mode `j` with its Gaussian leads to mode `k`: axes `(*batch, j, k)`."""

    log_weight: Tensor  # filtered weight of j times the probability of going to k
    predicted: Tensor
    factor: Tensor  # of the prediction
    gain: Tensor  # regression of the state on its successor
    rest: Tensor  # factor of what the successor leaves open


def smooth_along(
    model: SwitchingModel, series: Series, paths: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Smooth exactly along each path of modes and average, all paths being equally likely.

    Args:
        model: The model.
        series: The data.
        paths: Draws of `sample_paths`; only their modes are used.

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


def sample_paths(model: SwitchingModel, series: Series, trace: Trace, count: int) -> Tensor:
    """Draw modes and states backwards, `(count, *batch, time, modes + latent)`.

    Args:
        model: The model.
        series: The data the trace comes from.
        trace: A forward pass.
        count: Number of paths.
    """
    last = trace.filtered[-1]
    mode = _choose(last.log_weight.expand(count, *last.log_weight.shape))
    z = _pick(last.mean, mode, 1) + _noise(_pick(last.factor, mode, 2))
    path = [torch.cat((_hot(mode, last), z), -1)]
    for t, pair in _pairs(model, series, trace):
        ranks = zip(pair, (1, 2, 3, 3, 3), strict=True)
        into = (_pick(x.transpose(-rank, -rank - 1), mode, rank) for x, rank in ranks)
        weight, predicted, factor, gain, rest = into
        gap = z[..., None, :] - predicted
        mode = _choose(weight + _log_density(factor, gap))
        past = trace.filtered[t]
        back = (_pick(gain, mode, 2) @ _pick(gap, mode, 1)[..., None])[..., 0]
        z = _pick(past.mean, mode, 1) + back + _noise(_pick(rest, mode, 2))
        path.append(torch.cat((_hot(mode, past), z), -1))
    return torch.stack(path[::-1], -2)


def simulate(
    model: StateSpaceModel, series: Series, trace: Trace, first: int, count: int
) -> tuple[Tensor, Tensor]:
    """Draw states and readings from step `first` on, given what was filtered before it.

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
    x, states, readings = torch.cat((_hot(mode, start), z), -1), [], []
    for t in range(first, series.time):
        x = conditionals.transition(x, t).sample() if t else x
        states.append(x)
        readings.append(conditionals.emission(x, t).sample())
    return torch.stack(states, -2), torch.stack(readings, -2)


def _pairs(model: SwitchingModel, series: Series, trace: Trace) -> Iterator[tuple[int, _Pair]]:
    """Yield `(t, pair)` from the last step but one to the first."""
    transition = model.mode_parameters(series.u, series.dt).transition
    noise, log_A = psd_factor(transition.cov, "Q"), model.log_transition()
    for t in range(series.time - 2, -1, -1):
        A, b = at_step(transition.matrix, t + 1, 2), at_step(transition.offset, t + 1, 1)
        yield t, _pair(trace.filtered[t], A, b, at_step(noise, t + 1, 2), log_A)


def _pair(past: Mixture, A: Tensor, b: Tensor, LQ: Tensor, log_A: Tensor) -> _Pair:
    n, weight = A.shape[-1], past.log_weight[..., :, None] + log_A
    mean, L = past.mean[..., :, None, :], past.factor[..., :, None, :, :]
    predicted = (A[..., None, :, :, :] @ mean[..., None])[..., 0] + b[..., None, :, :]
    top = beside(A[..., None, :, :, :] @ L, LQ[..., None, :, :, :])
    eye = torch.eye(n, top.shape[-1], dtype=top.dtype, device=top.device)
    lower = tria(torch.cat((top, eye.expand(*top.shape[:-2], *eye.shape)), -2))
    factor, gain, rest = lower[..., :n, :n], lower[..., n:, :n], lower[..., n:, n:]
    inverse = torch.linalg.pinv(factor, rtol=n * 1e2 * torch.finfo(factor.dtype).eps)
    return _Pair(weight, predicted, factor, L @ gain @ inverse, L @ rest)


def draw_along(model: SwitchingModel, series: Series, paths: Tensor) -> Tensor:
    """Draw the states of paths anew, exactly given their modes.

    The states that come with drawn modes have passed through merged Gaussians at every step, and
    drift from the data in long series; the modes themselves do not.

    Args:
        model: The model.
        series: The data.
        paths: Draws of `sample_paths`, `(count, *batch, time, modes + latent)`.
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
    laws = (_along(law, hot) for law in (transition, emission))
    linear = LinearizedModel(cast(StateSpaceModel, model), LinearParameters(start, *laws))
    linear.state_dim = model.latent_dim
    return linear, Series(series.y.expand(*hot.shape[:-2], *series.y.shape[-2:]))


def _along(law: LinearConditional, hot: Tensor) -> LinearConditional:
    """Pick the mode's matrices at every step of every path."""
    picked = []
    for x, rank in zip(law, (2, 1, 2), strict=True):
        event = "ij"[:rank]
        wide = x.expand(*x.shape[: x.ndim - rank - 2], hot.shape[-2], *x.shape[-rank - 1 :])
        picked.append(torch.einsum(f"...tk,...tk{event}->...t{event}", hot, wide))
    return LinearConditional(*picked)


def _log_density(factor: Tensor, gap: Tensor) -> Tensor:
    """Return the Gaussian log-density of `gap`, in the directions that have noise."""
    pivots = factor.diagonal(dim1=-2, dim2=-1)
    size = factor.norm(dim=-1)
    open_ = pivots > 1e2 * factor.shape[-1] * torch.finfo(factor.dtype).eps * size.clamp_min(
        1e-300
    )
    eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    safe = torch.where(open_[..., None, :], factor, eye)
    white = torch.linalg.solve_triangular(safe, gap[..., None], upper=False)[..., 0]
    blocked = (~open_ & (white.abs() > 1e-6 * (1 + gap.abs()))).any(-1)
    white = torch.where(open_, white, 0.0)
    log_det = torch.where(open_, safe.diagonal(dim1=-2, dim2=-1), 1.0).log().sum(-1)
    density = standard_normal_log_prob(white, open_.sum(-1)) - log_det
    return torch.where(blocked, -math.inf, density)


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
