"""The information in the means and variances of one-step predictions, for robust errors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...core.abilities import LinearGaussianModel
from ...core.methods import InferenceMethod
from ...core.model import Series, StateSpaceModel
from .objective import Objective, Vector
from .standard_errors import Matrix


class Innovations(NamedTuple):
    """One-step errors and their covariances, missing entries with error 0 and variance 1.

    Attributes:
        error: `(*batch, time, obs)`.
        cov: `(*batch, time, obs, obs)`.
    """

    error: Tensor
    cov: Tensor


def information(objective: Objective, at: Vector, step: float = 1e-5) -> Matrix | None:
    r"""Return the information of the steps' conditional means and variances, or `None`.

    .. math:: J_{ij} = \sum_t \partial_i v_t' S_t^{-1} \partial_j v_t
        + \tfrac12 \text{tr}(S_t^{-1} \partial_i S_t S_t^{-1} \partial_j S_t)

    Steps whose prediction a diffuse start leaves open have none. A prior has none.

    Args:
        objective: What was minimised.
        at: The optimum, unconstrained.
        step: Of central differences, in unconstrained units.

    Source: Harvey (1989), equation 3.4.69; Bollerslev & Wooldridge (1992).
    """

    def found(x: Vector) -> Innovations | None:
        objective.assign(x)
        return innovations(objective.model, objective.series, objective.inference)

    here, moves = found(at), []
    if here is None:
        return None
    for i in range(len(at)):
        shift = np.zeros_like(at)
        shift[i] = step * max(1.0, abs(at[i]))
        above, below = found(at + shift), found(at - shift)
        if above is None or below is None:
            return None
        moves.append([(a - b) / (2 * shift[i]) for a, b in zip(above, below, strict=True)])
    objective.assign(at)
    return information_of(here, moves, 0).cpu().numpy()


def information_of(here: Innovations, moves: list[list[Tensor]], axes: int) -> Tensor:
    """Return the information from the innovations and their derivatives.

    Args:
        here: At the optimum.
        moves: Derivatives of errors and covariances by each parameter.
        axes: Leading axes of the batch that keep an information of their own.

    Returns:
        `(*batch[:axes], parameters, parameters)`.
    """
    lower = torch.linalg.cholesky(here.cov)
    errors, covs = [], []
    for error, cov in moves:
        errors.append(_whitened(lower, error[..., None])[..., 0])
        half = _whitened(lower, cov)
        covs.append(_whitened(lower, half.mT).flatten(-2) / np.sqrt(2.0))
    rows = torch.cat([torch.stack(errors, -2), torch.stack(covs, -2)], -1)
    rows = rows.reshape(*rows.shape[:axes], -1, *rows.shape[-2:])
    return torch.einsum("...tik,...tjk->...ij", rows, rows)


def innovations(
    model: StateSpaceModel, series: Series, inference: InferenceMethod
) -> Innovations | None:
    """Return the one-step errors of a linear-Gaussian model, `None` of others."""
    if not isinstance(model, LinearGaussianModel):
        return None
    with torch.no_grad():
        filtered = inference.filter(model, series)
        C, d, R = (x.double() for x in model.linear_parameters(series.u, series.dt).emission)
    mean, cov = filtered.predicted_mean.double(), filtered.predicted_cov.double()
    known = cov.isfinite().flatten(-2).all(-1) & mean.isfinite().all(-1)
    mean = torch.where(known[..., None], mean, 0.0)
    cov = torch.where(known[..., None, None], cov, 0.0)
    error = series.y.double() - (C @ mean[..., None])[..., 0] - d
    S = C @ cov @ C.mT + R
    seen = ~series.y.isnan() & known[..., None]
    both = seen[..., :, None] & seen[..., None, :]
    eye = torch.eye(S.shape[-1], dtype=S.dtype, device=S.device)
    S = torch.where(both, S, eye)
    if bool(torch.linalg.cholesky_ex(S).info.any()):
        return None
    return Innovations(torch.where(seen, error, 0.0), S)


def _whitened(lower: Tensor, x: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(lower, x, upper=False)
