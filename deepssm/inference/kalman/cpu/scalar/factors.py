"""The Cholesky factor of one regular covariance, compiled: the checks and the factor in one go."""

from __future__ import annotations

import math

import numpy as np

from .....ops.cache import kept
from .predict import DRIVER


@kept(**DRIVER)
def regular_factor(P: np.ndarray, L: np.ndarray) -> bool:
    """Write the lower factor of `P` to `L`; false unless `P` is finite, symmetric and regular."""
    n = P.shape[0]
    for i in range(n):
        for j in range(i + 1):
            total = P[i, j]
            if total != P[j, i]:
                return False
            for r in range(j):
                total -= L[i, r] * L[j, r]
            if i > j:
                L[i, j], L[j, i] = total / L[j, j], 0.0
            elif not 0.0 < total < math.inf:
                return False
            else:
                L[i, i] = math.sqrt(total)
    return True
