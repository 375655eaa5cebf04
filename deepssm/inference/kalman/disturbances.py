r"""What all data say about the noise of each step: the disturbance smoother.

The score of the log-likelihood by an offset of step `t` is `r_t` (of the state) or `u_t` (of the
observation), and that by its covariance is `(r r' - N) / 2` or `(u u' - D) / 2`. Smoothed noises
and their variances are products of these with `Q` and `R`,

    E[w | y] = Q r,  Var(w | y) = Q - Q N Q,  E[v | y] = R u,  Var(v | y) = R - R D R,

so nothing is inverted, `Q` and `R` may be singular, and a diffuse start is no special case.

Source: Koopman (1993), Biometrika 80, 117-126; Durbin & Koopman (2012), section 4.5.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...core.abilities import LinearGaussianModel
from ...core.gaussian import psd_factor
from ...core.gradients import gradients_on, recordable
from ...core.model import (
    GaussianInitial,
    LinearConditional,
    LinearParameters,
    Series,
    StateSpaceModel,
)
from ...core.results import Disturbances
from .cpu.gradient import exact_log_likelihood
from .cpu.problem import batch_shape, spread_along

# What is left of a variance when diffuse coefficients take this much of it away is round-off.
_SILENT = 1e-10


class Scores(NamedTuple):
    """Scores by the offsets of each step and the precision they have, zero where unseen.

    Attributes:
        r: By the offset of the state, `(*batch, time, state)`; entry 0 is zero.
        N: Its variance over data from the model, `(*batch, time, state, state)`.
        u: By the offset of the observation, `(*batch, time, obs)`.
        D: Its variance, `(*batch, time, obs, obs)`: the inverse of the variance of `y_t` given
            all other steps.
    """

    r: Tensor
    N: Tensor
    u: Tensor
    D: Tensor


def offset_scores(parameters: LinearParameters, y: Tensor) -> Scores:
    """Differentiate the log-likelihood by the offsets and covariances of every single step.

    Args:
        parameters: The linear-Gaussian model.
        y: `(*batch, time, obs)`, NaN where missing.
    """
    with gradients_on():
        batch, time = batch_shape(parameters, y), y.shape[-2]
        start, (A, b, Q), (C, d, R) = parameters
        b, Q, d, R = (
            recordable(x)
            .detach()
            .double()
            .expand(*batch, time, *x.shape[x.ndim - event :])
            .clone()
            for x, event in ((b, 1), (Q, 2), (d, 1), (R, 2))
        )
        leaves = tuple(x.requires_grad_() for x in (b, Q, d, R))
        A, C, y, mean, cov = (
            recordable(x).detach().double() for x in (A, C, y, start.mean, start.cov)
        )
        diffuse = recordable(start.diffuse)
        each = LinearParameters(
            GaussianInitial(mean, cov, diffuse),
            LinearConditional(A, b, Q),
            LinearConditional(C, d, R),
        )
        total = exact_log_likelihood(each, y).sum()
        r, by_Q, u, by_R = torch.autograd.grad(total, leaves)
    return Scores(r, _variance(r, by_Q), u, _variance(u, by_R))


def proper_scores(parameters: LinearParameters, y: Tensor, scores: Scores) -> Scores:
    """Return the scores of a finite start: a bound of what data can say from a diffuse one."""
    start = parameters.initial
    if start.diffuse is None:
        return scores
    cov = start.cov.detach().double()
    spread = spread_along(start.diffuse.detach().double().cpu(), parameters)
    finite = start._replace(cov=cov + spread.to(cov), diffuse=None)
    return offset_scores(parameters._replace(initial=finite), y)


def smoothed_disturbances(model: StateSpaceModel, series: Series) -> Disturbances:
    """Return the smoothed noises of a linear-Gaussian model and their auxiliary residuals.

    Args:
        model: A linear-Gaussian model.
        series: The data.

    Raises:
        ValueError: the model is not linear-Gaussian.

    Source: Harvey & Koopman (1992), Journal of Business & Economic Statistics 10, 377-389.
    """
    if not isinstance(model, LinearGaussianModel):
        raise ValueError(
            f"Disturbances need a linear-Gaussian model, got {type(model).__name__}. Use "
            "`deepssm.evaluation` (PIT, coverage) for it."
        )
    with torch.no_grad():
        parameters = model.linear_parameters(series.u, series.dt)
    scores = offset_scores(parameters, series.y)
    bound = proper_scores(parameters, series.y, scores)
    noises = (
        _noise(parameters.transition.cov, scores.r, scores.N, bound.N),
        _noise(parameters.emission.cov, scores.u, scores.D, bound.D),
    )
    (w, w_cov, w_residual), (v, v_cov, v_residual) = (
        tuple(x.to(series.y) for x in noise) for noise in noises
    )
    later = torch.arange(series.time, device=w.device)[:, None] > 0
    result = Disturbances(
        state=w,
        state_cov=torch.where(later[..., None], w_cov, torch.zeros_like(w_cov)),
        state_residual=torch.where(later, w_residual, torch.nan),
        observation=v,
        observation_cov=v_cov,
        observation_residual=torch.where(series.y.isnan(), torch.nan, v_residual),
    )
    result.state_names = model.state_names
    return result


def _variance(score: Tensor, by_cov: Tensor) -> Tensor:
    """Read `N` off the score `(r r' - N) / 2` by a covariance."""
    variance = score[..., :, None] * score[..., None, :] - 2 * by_cov
    return (variance + variance.mT) / 2


def _noise(
    cov: Tensor, score: Tensor, precision: Tensor, bound: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, covariance and auxiliary residual of a noise, NaN where there is none."""
    eps = torch.finfo(cov.dtype).eps
    cov = cov.detach().double()
    mean = (cov @ score[..., None])[..., 0]
    spread, most = ((cov @ x @ cov).diagonal(dim1=-2, dim2=-1) for x in (precision, bound))
    loud = spread > _SILENT * most
    residual = mean / torch.where(loud, spread, torch.ones_like(spread)).sqrt()
    return mean, _remaining(cov, precision, eps), torch.where(loud, residual, torch.nan)


def _remaining(cov: Tensor, precision: Tensor, eps: float) -> Tensor:
    """Return `cov - cov precision cov` as a product with itself, hence never indefinite."""
    factor = psd_factor(cov, "cov", eps=eps)
    eye = torch.eye(cov.shape[-1], dtype=cov.dtype, device=cov.device)
    shares, axes = torch.linalg.eigh(eye - factor.mT @ precision @ factor)
    root = factor @ axes * shares.clamp_min(0.0).sqrt()[..., None, :]
    return root @ root.mT
