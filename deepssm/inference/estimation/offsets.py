"""Offsets of a linear-Gaussian model at their exact maximum: generalised least squares."""

from __future__ import annotations

import numpy as np

from ...core.model import Series, StateSpaceModel
from ..kalman.method import Kalman
from .objective import Objective

OFFSETS = {"m0", "B", "b", "D", "d"}


def climb_offsets(model: StateSpaceModel, series: Series, names: set[str]) -> None:
    r"""Set offsets to the maximum of the likelihood, all else as it is.

    .. math:: \log p(y \mid \beta) = \text{const} + g' (\beta - \beta_0)
        - \tfrac12 (\beta - \beta_0)' H (\beta - \beta_0)

    The mean of `y` is linear in `m0, B, b, D, d`, so the log-likelihood is exactly quadratic in
    them and its gradient linear: one more gradient a number gives `H`, and one Newton step is the
    generalised least squares estimate. What the data do not determine stays.

    Args:
        model: Has those of `names` as free parameters on the real line.
        series: The data.
        names: Which offsets to set.

    Source: Durbin & Koopman (2012), section 6.2: regression with known matrices.
    """
    whole = Objective(model, series, Kalman())
    whole.free = [free for free in whole.free if free.name in names]
    at = whole.vector()
    _, slope = whole.gradient(at)
    columns = []
    for i in range(len(at)):
        moved = at.copy()
        moved[i] += 1.0
        columns.append(whole.gradient(moved)[1] - slope)
    H = np.array(columns)
    H = (H + H.T) / 2
    scale = np.sqrt(np.maximum(np.diagonal(H), 0.0))
    scale = np.where(scale > 0, scale, 1.0)
    inverse = np.linalg.pinv(H / np.outer(scale, scale), rcond=1e-10, hermitian=True)
    whole.assign(at - inverse @ (slope / scale) / scale)
