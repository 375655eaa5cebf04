"""What each step should have been, judged by all the others."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..base import LinearGaussianModel, Series
from ..results import Smoothed
from .scores import mask_gaussian


class LeaveOneOut(NamedTuple):
    """`p(y_t | all other steps)`; not the one-step `p(y_t | y_{1:t-1})`, and never mixed with it.

    Attributes:
        error: `y` minus its mean given the other steps, `(*batch, time, obs)`; 0 where missing.
        cov: Covariance given the other steps, `(*batch, time, obs, obs)`; unit rows where missing.
        log_density: In nats, `(*batch, time)`; 0 where all of `y` is missing.
    """

    error: Tensor
    cov: Tensor
    log_density: Tensor


def leave_one_out(model: LinearGaussianModel, series: Series, smoothed: Smoothed) -> LeaveOneOut:
    """Leave each step out in turn without running the smoother again.

    With the smoothed residual `e = y - C m - d` and `V = C P C'`, the error of the step left out
    is `R (R - V)^-1 e` and its covariance `R (R - V)^-1 R`.

    Args:
        model: A linear-Gaussian model whose `R` is positive definite.
        series: Checked data; see `deepssm.checks.as_series`.
        smoothed: Result of smoothing them.

    Raises:
        ValueError: `R` is singular, or some step is all that fixes a diffuse state.

    Source:
        de Jong (1988), A cross-validation filter for time series models, Biometrika 75(3); here
        in terms of smoothed states.
    """
    emission = model.linear_parameters(series.u, series.dt).emission
    C = emission.matrix
    fitted = (C @ smoothed.mean[..., None])[..., 0] + emission.offset
    error, R, seen = mask_gaussian(series.y - fitted, emission.cov.expand(*fitted.shape, -1))
    both = seen[..., :, None] & seen[..., None, :]
    V = torch.where(both, C @ smoothed.cov @ C.mT, 0.0)
    factor = _factor(R - V)
    cov = R @ torch.cholesky_solve(R, factor)
    left_out = (R @ torch.cholesky_solve(error[..., None], factor))[..., 0]
    white = torch.linalg.solve_triangular(factor, error[..., None], upper=False)[..., 0]
    log_det = 2 * (_log_diagonal(_factor(R)) * 2 - _log_diagonal(factor))
    constant = seen.sum(-1) * math.log(2 * math.pi)
    return LeaveOneOut(left_out, cov, -(white.square().sum(-1) + log_det + constant) / 2)


def _factor(cov: Tensor) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(cov)
    if bool(info.any()):
        raise ValueError(
            "Leave-one-out needs a positive definite `R`, and every step must leave enough others "
            "to fix the state. Add observation noise, or use `deepssm.backtest()`."
        )
    return factor


def _log_diagonal(factor: Tensor) -> Tensor:
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
