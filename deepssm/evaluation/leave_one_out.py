"""What each step should have been, judged by all the others."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.abilities import LinearGaussianModel
from ..core.model import Series
from ..inference.kalman.disturbances import offset_scores, proper_scores

# A pivot this small a part of its bound is round-off: the other steps leave the state open.
_OPEN = 1e-10


class LeaveOneOut(NamedTuple):
    """`p(y_t | all other steps)`; not the one-step `p(y_t | y_{1:t-1})`, and never mixed with it.

    A step that alone fixes a direction of a diffuse start has no such density: NaN.

    Attributes:
        error: `y` minus its mean given the other steps, `(*batch, time, obs)`; 0 where missing.
        cov: Covariance given the other steps, `(*batch, time, obs, obs)`; unit rows where missing.
        log_density: In nats, `(*batch, time)`; 0 where all of `y` is missing.
    """

    error: Tensor
    cov: Tensor
    log_density: Tensor


def leave_one_out(model: LinearGaussianModel, series: Series) -> LeaveOneOut:
    """Leave each step out in turn without running the smoother again.

    With the smoothing error `u` and its precision `D`, the scores of the log-likelihood by the
    offset and the covariance of a step, the error of the step left out is `D^-1 u` and its
    covariance `D^-1`. Noise may be singular.

    Args:
        model: A linear-Gaussian model.
        series: Checked data; see `deepssm.as_series`.

    Raises:
        ValueError: a noiseless observation repeats another of its step.

    Source:
        de Jong (1988), A cross-validation filter for time series models, Biometrika 75(3).
    """
    with torch.no_grad():
        parameters = model.linear_parameters(series.u, series.dt)
    scores = offset_scores(parameters, series.y)
    bound = proper_scores(parameters, series.y, scores)
    seen = ~series.y.isnan()
    # In units of what the data could say at best, and 1 where nothing is said.
    unit = bound.D.diagonal(dim1=-2, dim2=-1)
    if bool((seen & (unit <= 0)).any()):
        raise ValueError(
            "Leave-one-out needs observations that are not copies of each other: one without "
            "noise repeats another of its step. Drop one of them, or give `R` some noise."
        )
    unit = torch.where(seen, unit, 1.0).sqrt()
    eye = torch.eye(unit.shape[-1], dtype=unit.dtype, device=unit.device)
    both = seen[..., :, None] & seen[..., None, :]
    precision = torch.where(both, scores.D / (unit[..., :, None] * unit[..., None, :]), eye)
    factor, info = torch.linalg.cholesky_ex(precision)
    pivot = factor.diagonal(dim1=-2, dim2=-1)
    fixed = (info == 0) & (pivot.square() > _OPEN).all(-1)
    factor = torch.where(fixed[..., None, None], factor, eye)
    inverse = torch.cholesky_inverse(factor) / (unit[..., :, None] * unit[..., None, :])
    white = torch.linalg.solve_triangular(factor, (scores.u / unit)[..., None], upper=False)
    log_det = 2 * (pivot.log() + unit.log()).sum(-1)
    constant = seen.sum(-1, dtype=unit.dtype) * math.log(2 * math.pi)
    density = (log_det - white[..., 0].square().sum(-1) - constant) / 2
    error = (inverse @ scores.u[..., None])[..., 0]
    return LeaveOneOut(
        torch.where(fixed[..., None], error, torch.nan).to(series.y),
        torch.where(fixed[..., None, None], inverse, torch.nan).to(series.y),
        torch.where(fixed, density, torch.nan).to(series.y),
    )
