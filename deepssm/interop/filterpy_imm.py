"""filterpy's `IMMEstimator` as a switching model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike

from ..inference.discrete.switching import Switching
from .filterpy_nonlinear import Migrated
from .filterpy_read import drive, gain, gaussian, matrix

if TYPE_CHECKING:
    from filterpy.kalman import IMMEstimator


def migrate_imm(imm: IMMEstimator, u0: ArrayLike | None, update_first: bool) -> Migrated:
    """Return the switching model of a bank of Kalman filters, and `Switching()`.

    filterpy mixes the filters before it predicts, so the mixed and moved states are the starts of
    the modes, and `mu M` their probabilities.

    Args:
        imm: The estimator; it is only read.
        u0: The input of the first prediction.
        update_first: The estimator will read before it predicts.

    Raises:
        ValueError: a filter of the bank is not a `KalmanFilter`.
    """
    from filterpy.kalman import KalmanFilter

    from ..models import LinearGaussian, SwitchingLinearGaussian

    other = next((f for f in imm.filters if not isinstance(f, KalmanFilter)), None)
    if other is not None:
        raise ValueError(
            f"`imm.filters` must be filterpy KalmanFilters, got {type(other).__name__}: modes of "
            "a switching model are linear."
        )
    M, mu = np.array(imm.M, dtype=float), np.array(imm.mu, dtype=float)
    starts = [gaussian(f) for f in imm.filters]
    xs, Ps = np.stack([s.x for s in starts]), np.stack([s.P for s in starts])
    modes = []
    for j, (kf, start) in enumerate(zip(imm.filters, starts, strict=True)):
        n, p = len(start.x), len(start.R)
        F, H, B = matrix(kf, "F", (n, n)), matrix(kf, "H", (p, n)), gain(kf, n)
        x, P = start.x, start.P
        if not update_first:
            weight = mu * M[:, j] / (mu @ M[:, j])
            x = weight @ xs
            P = np.einsum("k,kij->ij", weight, Ps)
            P = P + np.einsum("k,ki,kj->ij", weight, xs - x, xs - x)
            x, P = F @ x, F @ P @ F.T + start.Q
            x = x if u0 is None else x + drive(B, u0)
        A, Q, C, R, x, P = (torch.from_numpy(v) for v in (F, start.Q, H, start.R, x, P))
        push = None if B is None else torch.from_numpy(B)
        modes.append(LinearGaussian(A, Q, C, R, B=push, m0=x, P0=P))
    initial = torch.from_numpy(mu @ M)
    model = SwitchingLinearGaussian(modes, transition=torch.from_numpy(M), initial=initial)
    return Migrated(model, Switching())
