"""Predict, condition, smooth and sample in whitened coordinates.

Every state is `z = m + L e` with `e ~ N(0, I)`. One orthogonal triangularisation joins the `e` of
two moments in time, and its blocks are all that smoothing and sampling need: there is no inverse
of `P` or `Q` anywhere, so both may be singular.

Source: the arrays are those of Kailath, Sayed & Hassibi (2000), Linear Estimation, chapter 12;
carrying the smoother in the coordinates of `e` is done here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...core.gaussian import beside, outer, standard_normal_log_prob, tria
from . import compiled_steps as compiled
from .linearized import Linearized


class Predicted(NamedTuple):
    """`z_t = mean + factor e_t` given the past, and `e_{t-1} = gain e_t + rest n`."""

    mean: Tensor
    factor: Tensor
    gain: Tensor
    rest: Tensor


class Conditioned(NamedTuple):
    """The posterior `e = shift + gain e'`, `e' ~ N(0, I)`, of whitened coordinates `e`."""

    shift: Tensor
    gain: Tensor
    log_likelihood: Tensor
    ill_conditioned: Tensor


class Passed(NamedTuple):
    """A forward pass, each field a list over time; `trust` tells what was made of observations."""

    predicted: list[Predicted]
    conditioned: list[Conditioned]
    mean: list[Tensor]
    factor: list[Tensor]
    trust: list[Tensor]


def predict(step: Linearized, *, joint: bool) -> Predicted:
    """Triangularise `[slope, spread]`; with `joint`, also relate `e_{t-1}` to `e_t`."""
    if compiled.compilable(*step):
        return Predicted(step.mean, *compiled.predict(step.slope, step.spread, joint=joint))
    top = beside(step.slope, step.spread)
    n = step.slope.shape[-1]
    if not joint:
        return Predicted(step.mean, tria(top), top[..., :0], top[..., :0])
    lower = tria(torch.cat((top, _identity_rows(n, top)), -2))
    return Predicted(step.mean, lower[..., :n, :n], lower[..., n:, :n], lower[..., n:, n:])


def condition(step: Linearized, residual: Tensor, observed: Tensor) -> Conditioned:
    """Condition `e` on the observed components of `y = mean + slope e + spread n`.

    Args:
        step: The linearised emission.
        residual: `y - mean`, `(*batch, obs)`, anything finite where missing.
        observed: `(*batch, obs)`; what is not observed adds exactly 0 to everything.
    """
    if compiled.compilable(*step, residual):
        return Conditioned(*compiled.condition(step, residual, observed))
    p = observed.shape[-1]
    zero, slope = residual.new_zeros(()), step.slope
    if bool(observed.all()):
        top = beside(slope, step.spread)
    else:
        rows = observed[..., :, None]
        slope, spread = torch.where(rows, slope, zero), torch.where(rows, step.spread, zero)
        top = beside(slope, spread, torch.diag_embed((~observed).to(residual.dtype)))
    lower = tria(torch.cat((top, _identity_rows(slope.shape[-1], top)), -2))
    S, G, gain = lower[..., :p, :p], lower[..., p:, :p], lower[..., p:, p:]
    pivots = S.diagonal(dim1=-2, dim2=-1)
    tiny = 10 * lower.shape[-1] * torch.finfo(pivots.dtype).eps
    exact = pivots <= tiny * top.norm(dim=-1)
    if bool(exact.any()):
        S, G, gain = _drop_exact_rows(S, G, gain, exact)
        pivots = S.diagonal(dim1=-2, dim2=-1)
    target = torch.where(observed, residual, zero)
    white = torch.linalg.solve_triangular(S, target[..., None], upper=False)[..., 0]
    # Two observations that must agree do so but for the rounding of what they are read from.
    size = 1 + target.abs() + step.mean.abs()
    contradiction = exact & (white.abs() > 1e3 * tiny * size)
    white = torch.where(exact, zero, white)
    log_prob = standard_normal_log_prob(white, (observed & ~exact).sum(-1))
    log_prob = log_prob - pivots.log().sum(-1)
    log_prob = torch.where(contradiction.any(-1), -torch.inf, log_prob)
    shift = (G @ white[..., None])[..., 0]
    return Conditioned(shift, gain, log_prob, exact.any(-1))


def move(prior: Predicted, posterior: Conditioned) -> tuple[Tensor, Tensor]:
    """Return mean and factor of `z` given what was learnt about its `e`."""
    tensors = prior.mean, prior.factor, posterior.shift, posterior.gain
    if compiled.compilable(*tensors):
        return compiled.move(*tensors)
    return prior.mean + _times(prior.factor, posterior.shift), prior.factor @ posterior.gain


def nothing_observed(predicted: Predicted) -> Conditioned:
    """Return the posterior of a step that no series observes: the prior itself."""
    zeros = torch.zeros_like(predicted.mean)
    eye = torch.eye(zeros.shape[-1], dtype=zeros.dtype, device=zeros.device)
    none = torch.zeros(zeros.shape[:-1], dtype=torch.bool, device=zeros.device)
    return Conditioned(zeros, eye.expand_as(predicted.factor), zeros[..., 0], none)


def smooth(forward: Passed) -> tuple[Tensor, Tensor, Tensor]:
    """Return smoothed means, covariances and lag-one covariances, stacked over time."""
    last = len(forward.mean) - 1
    centre = torch.zeros_like(forward.mean[last])
    scatter = torch.eye(centre.shape[-1], dtype=centre.dtype, device=centre.device)
    scatter = scatter.expand_as(forward.factor[last])
    means, covs, crosses = [], [], []
    for t in range(last, -1, -1):
        means.append(forward.mean[t] + _times(forward.factor[t], centre))
        covs.append(outer(forward.factor[t] @ scatter))
        if t == 0:
            crosses.append(torch.zeros_like(covs[-1]))
            break
        prior, update = forward.predicted[t], forward.conditioned[t]
        centre, scatter = update.shift + _times(update.gain, centre), update.gain @ scatter
        past = forward.factor[t - 1] @ prior.gain
        crosses.append((prior.factor @ scatter) @ (past @ scatter).mT)
        centre = _times(prior.gain, centre)
        scatter = predict(Linearized(centre, prior.gain @ scatter, prior.rest), joint=False).factor
    return _stack(means), _stack(covs, 3), _stack(crosses, 3)


def sample(forward: Passed, num_samples: int, generator: torch.Generator | None) -> Tensor:
    """Draw paths backwards in time, `(num_samples, *batch, time, state)`."""
    last = len(forward.mean) - 1
    shape = (num_samples, *forward.mean[last].shape)
    white = _normal(shape, forward.mean[last], generator)
    path = []
    for t in range(last, -1, -1):
        path.append(forward.mean[t] + _times(forward.factor[t], white))
        if t > 0:
            prior, update = forward.predicted[t], forward.conditioned[t]
            white = _times(prior.gain, update.shift + _times(update.gain, white))
            noise = _normal((*shape[:-1], prior.rest.shape[-1]), white, generator)
            white = white + _times(prior.rest, noise)
    return _stack(path)


def _identity_rows(rows: int, beneath: Tensor) -> Tensor:
    eye = torch.eye(rows, beneath.shape[-1], dtype=beneath.dtype, device=beneath.device)
    return eye.expand(*beneath.shape[:-2], *eye.shape)


def _drop_exact_rows(
    S: Tensor, G: Tensor, gain: Tensor, exact: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Give rows that the past already determines a unit pivot and no gain."""
    columns = exact[..., None, :]
    eye = torch.eye(S.shape[-1], dtype=S.dtype, device=S.device)
    # QR may park part of the posterior factor in the column of a zero pivot: bring it back.
    parked = torch.where(columns, G, 0.0)
    return (
        torch.where(columns, eye, S),
        torch.where(columns, 0.0, G),
        tria(torch.cat((parked, gain), -1)),
    )


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None])[..., 0]


def _normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)


def _stack(reversed_steps: list[Tensor], event: int = 2) -> Tensor:
    return over_time(reversed_steps[::-1], event)


def over_time(values: list[Tensor], event: int = 2) -> Tensor:
    """Stack along time, the `event`-th axis from the end: a view of what lies time first."""
    return torch.stack(values).movedim(0, -event)


def over_time_cov(factors: list[Tensor]) -> Tensor:
    """Stack the covariances of factors along time, the third axis from the end."""
    return outer(torch.stack(factors)).movedim(0, -3)
