"""The structured posterior `q(modes) q(states)` of a switching linear model, and its bound.

Each factor is an exact smoother: the states under averaged steps, the modes under expected ones.
Whitened rows `[out, in, 1]` stand for a conditional everywhere: `x = M z + o + L e` is the row
block `L^-1 [I, -M, -o]`, whose square is what a log-density charges.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.gaussian import beside, tria
from ...core.model import (
    GaussianInitial,
    LinearConditional,
    LinearParameters,
    Series,
    StateSpaceModel,
)
from ...core.results import Smoothed
from ..gaussian.posterior_linearization import LinearizedModel
from ..kalman.method import Kalman
from .required import switching_model

_LOG_2PI = math.log(2 * math.pi)


class Whitened(NamedTuple):
    """Conditionals of all modes as rows over `[out, in, 1]`.

    Attributes:
        rows: `(*batch, time or 1, modes, out, out + in + 1)`; zero where `out` is missing.
        charge: What a density pays whatever its value, `(*batch, time or 1, modes)`, in nats.
    """

    rows: Tensor
    charge: Tensor


class WhitenedModel(NamedTuple):
    """Start, transition and emission of every mode; the start is `None` if it is common."""

    initial: Whitened | None
    transition: Whitened
    emission: Whitened


def whiten(conditional: LinearConditional, name: str, seen: Tensor | None = None) -> Whitened:
    """Return the rows of a conditional, missing components left out.

    Args:
        conditional: Matrices with a mode axis before the event axes.
        name: What to call the covariance in an error.
        seen: Which components of `out` count, `(*batch, time, out)`; all by default.

    Raises:
        ValueError: the covariance of a mode is singular.
    """
    matrix, offset, cov = conditional
    size = cov.shape[-1]
    eye = torch.eye(size, dtype=cov.dtype, device=cov.device)
    count = torch.full((), float(size), dtype=cov.dtype, device=cov.device)
    block = beside(eye, -matrix, -offset[..., None])
    if seen is not None and not bool(seen.all()):
        here = seen[..., None, :]
        cov = torch.where(here[..., None] & here[..., None, :], cov, eye)
        block, count = torch.where(here[..., None], block, 0.0), here.sum(-1).to(cov.dtype)
    factor, info = torch.linalg.cholesky_ex(cov)
    if bool((info != 0).any()):
        raise ValueError(
            f"`{name}` must be invertible in every mode for a variational posterior: a step "
            "without noise leaves the states no common path. Give each direction some noise, or "
            "learn with `MaximumLikelihood(inference=Switching())`."
        )
    shape = torch.broadcast_shapes(factor.shape[:-2], block.shape[:-2])
    rows = torch.linalg.solve_triangular(
        factor.expand(*shape, -1, -1), block.expand(*shape, -1, -1), upper=False
    )
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return Whitened(rows, -log_det - 0.5 * _LOG_2PI * count)


def whiten_all(parameters: LinearParameters, seen: Tensor | None) -> WhitenedModel:
    """Return the rows of every conditional of a switching model.

    Args:
        parameters: Of the modes.
        seen: Which components of `y` are known, `(*batch, time, obs)`.
    """
    mean, cov, _ = parameters.initial
    start = None
    if mean.requires_grad or cov.requires_grad or not _common(mean, 1) or not _common(cov, 2):
        none = mean.new_zeros(*mean.shape, 0)
        start = whiten(LinearConditional(none, mean, cov), "P0")
    emission = whiten(parameters.emission, "R", seen)
    return WhitenedModel(start, whiten(parameters.transition, "Q"), emission)


def expected(whitened: Whitened, moment: Tensor) -> Tensor:
    """Return expected log-densities, `(*axes, modes)`.

    Args:
        whitened: Rows over `[out, in, 1]`.
        moment: `E[x x']` of `x = (out, in, 1)`, `(*axes, modes or 1, size, size)`.
    """
    return whitened.charge - 0.5 * (whitened.rows @ moment * whitened.rows).sum((-2, -1))


def transition_moment(states: Smoothed) -> Tensor:
    """Return `E[x x']` of `x = (z_t, z_{t-1}, 1)`, `(*batch, time, size, size)`.

    Entry 0 is not used.
    """
    before = torch.cat((states.mean[..., :1, :], states.mean[..., :-1, :]), -2)
    past = torch.cat((states.cov[..., :1, :, :], states.cov[..., :-1, :, :]), -3)
    top = torch.cat((states.cov, states.cross_cov), -1)
    cov = torch.cat((top, torch.cat((states.cross_cov.mT, past), -1)), -2)
    return _second(torch.cat((states.mean, before), -1), cov)


def emission_moment(states: Smoothed, y: Tensor) -> Tensor:
    """Return `E[x x']` of `x = (y_t, z_t, 1)`, `(*batch, time, size, size)`; missing `y` as 0."""
    p = y.shape[-1]
    cov = torch.nn.functional.pad(states.cov, (p, 0, p, 0))
    return _second(torch.cat((torch.nan_to_num(y), states.mean), -1), cov)


def start_moment(states: Smoothed) -> Tensor:
    """Return `E[x x']` of `x = (z_1, 1)`, `(*batch, size, size)`."""
    return _second(states.mean[..., 0, :], states.cov[..., 0, :, :])


def score_modes(rows: WhitenedModel, states: Smoothed, y: Tensor) -> Tensor:
    """Return what the states say of each mode, `E_q log p(y_t, z_t | z_{t-1}, s_t)`.

    Args:
        rows: Rows of every conditional.
        states: `q(z)`.
        y: `(*batch, time, obs)`, NaN where missing.

    Returns:
        `(*batch, time, modes)`, in nats.
    """
    moved = expected(rows.transition, transition_moment(states)[..., None, :, :])
    if rows.initial is None:
        first = torch.zeros_like(moved[..., :1, :])
    else:
        first = expected(rows.initial, start_moment(states)[..., None, :, :])[..., None, :]
    moved = torch.cat((first.expand(moved[..., :1, :].shape), moved[..., 1:, :]), -2)
    return moved + expected(rows.emission, emission_moment(states, y)[..., None, :, :])


def fix_observations(rows: Tensor, y: Tensor) -> Tensor:
    """Put the observations into rows over `[y, z, 1]`, leaving rows over `[z, 1]`.

    Args:
        rows: Of a whitened emission, `(*batch, time or 1, modes, obs, obs + state + 1)`.
        y: `(*batch, time, obs)`, NaN where missing.
    """
    p = y.shape[-1]
    constant = rows[..., :p] @ torch.nan_to_num(y)[..., None, :, None] + rows[..., -1:]
    return torch.cat((rows[..., p:-1].expand(*constant.shape[:-1], -1), constant), -1)


def smooth_states(
    model: StateSpaceModel,
    rows: WhitenedModel,
    start: GaussianInitial,
    series: Series,
    weight: Tensor,
) -> tuple[Smoothed, Tensor]:
    """Return the best `q(z)` given the modes, by one exact smoother.

    The averaged log-density of a step is a Gaussian step and an observation of the state before
    it: one QR of the weighted rows of all modes finds both.

    Args:
        model: The switching model.
        rows: Rows of every conditional.
        start: Common start of the modes, read where `rows` have none.
        series: The data.
        weight: `q(s_t)`, `(*batch, time, modes)`.

    Returns:
        Moments of `q(z)`, and `E_q log p(y, z | s)` plus the entropy of `q(z)`, `(*batch,)`.
    """
    n = start.mean.shape[-1]
    first, total = _average_start(rows.initial, start, weight[..., 0, :])
    moves = _stack(rows.transition.rows, weight)
    eye = torch.eye(n, dtype=moves.dtype, device=moves.device)
    moves[..., 0, :, :] = 0.0
    moves[..., 0, :n, :n] = eye
    R = moves[..., :n, :]
    step = torch.linalg.solve_triangular(R[..., :n], R, upper=True)
    root = torch.linalg.solve_triangular(R[..., :n], eye.expand_as(R[..., :n]), upper=True)
    later = torch.cat((moves[..., 1:, n:, n:], torch.zeros_like(moves[..., :1, n:, n:])), -3)
    observations = _joined(fix_observations(rows.emission.rows, series.y), weight, later)
    transition = LinearConditional(-step[..., n:-1], -step[..., -1], root @ root.mT)
    emission = LinearConditional(
        observations[..., :n, :n], torch.zeros_like(observations[..., :n, n]), eye.expand_as(root)
    )
    linear = LinearizedModel(model, LinearParameters(first, transition, emission))
    linear.state_dim = linear.obs_dim = n
    found = Kalman().smooth(linear, Series(-observations[..., :n, n]))
    log_pivots = R.diagonal(dim1=-2, dim2=-1)[..., 1:, :].log().sum((-2, -1))
    charge = (weight * rows.emission.charge).sum((-2, -1))
    charge = charge + (weight * rows.transition.charge)[..., 1:, :].sum((-2, -1))
    charge = charge - log_pivots - 0.5 * observations[..., n, n].square().sum(-1)
    constant = (n * series.time + n * (series.time - 1)) * 0.5 * _LOG_2PI
    return found, total + charge + constant + found.log_likelihood.sum(-1)


def _average_start(
    whitened: Whitened | None, start: GaussianInitial, weight: Tensor
) -> tuple[GaussianInitial, Tensor]:
    """Return the averaged start and what its density differs by from the averaged log-density."""
    n = start.mean.shape[-1]
    if whitened is None:
        return GaussianInitial(start.mean[..., 0, :], start.cov[..., 0, :, :]), weight.new_zeros(
            weight.shape[:-1]
        )
    R = _stack(whitened.rows, weight)
    eye = torch.eye(n, dtype=R.dtype, device=R.device)
    pivots = R[..., :n, :n]
    root = torch.linalg.solve_triangular(pivots, eye.expand_as(pivots), upper=True)
    mean = -(root @ R[..., :n, n:])[..., 0]
    total = (weight * whitened.charge).sum(-1) + 0.5 * n * _LOG_2PI
    total = total - pivots.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return GaussianInitial(mean, root @ root.mT), total - 0.5 * R[..., n, n].square()


def _stack(rows: Tensor, weight: Tensor) -> Tensor:
    """Return the triangle of the rows of all modes, each times the root of its weight."""
    weighted = weight.sqrt()[..., None, None] * rows
    return tria(weighted.flatten(-3, -2).mT).mT


def _joined(rows: Tensor, weight: Tensor, more: Tensor) -> Tensor:
    weighted = weight.sqrt()[..., None, None] * rows
    return tria(torch.cat((weighted.flatten(-3, -2), more), -2).mT).mT


def _second(mean: Tensor, cov: Tensor) -> Tensor:
    """Return `E[x x']` of `x = (v, 1)`."""
    wide = torch.cat((mean, torch.ones_like(mean[..., :1])), -1)
    cov = torch.nn.functional.pad(cov, (0, 1, 0, 1))
    return cov + wide[..., :, None] * wide[..., None, :]


def _common(x: Tensor, rank: int) -> bool:
    """Whether all modes have the same numbers."""
    return bool(torch.equal(x, x.narrow(-rank - 1, 0, 1).expand_as(x)))


def parameters_of(model: StateSpaceModel, series: Series) -> LinearParameters:
    """Return the matrices of all modes for the inputs and time steps of a series."""
    return switching_model(model, "VariationalEM()").mode_parameters(series.u, series.dt)
