"""Covariances from factors, copied where a step repeats the one before."""

from __future__ import annotations

import math

import numpy as np

from .....ops.arrays import Batch, Whole
from .....ops.cache import cached
from .....ops.small_matrices import DRIVER, copy_matrix


@cached(**DRIVER)
def gram(first: int, last: int, slot: Whole, L: Batch, cov: Batch, space: tuple[()]) -> None:
    """`cov[s, t] = L L'` for the factor in slot `slot[s, t]`; repeated slots are copied."""
    n = L.shape[2]
    for s in range(first, last):
        for t in range(slot.shape[1]):
            i = slot[s, t]
            if t > 0 and slot[s, t - 1] == i:
                copy_matrix(n, n, cov[s, t - 1], cov[s, t])
                continue
            for r in range(n):
                for c in range(r + 1):
                    total = 0.0
                    for j in range(n):
                        total += L[s, i, r, j] * L[s, i, c, j]
                    cov[s, t, r, c] = total
                    cov[s, t, c, r] = total


@cached(**DRIVER)
def cross_covariances(
    first: int, last: int, shared: Whole, gain: Batch, cov: Batch, cross: Batch, space: tuple[()]
) -> None:
    """`cross[s, t] = gain cov[s, t-1]` for the gain that links `t-1` to `t`."""
    n = cov.shape[2]
    for s in range(first, last):
        for t in range(1, cov.shape[1]):
            i = shared[s, t - 1]
            if t > 1 and shared[s, t - 2] == i:
                copy_matrix(n, n, cross[s, t - 1], cross[s, t])
                continue
            for r in range(n):
                for c in range(n):
                    total = 0.0
                    for j in range(n):
                        total += gain[s, i, r, j] * cov[s, t - 1, j, c]
                    cross[s, t, r, c] = total


@cached(**DRIVER)
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


@cached(**DRIVER)
def regular_factors(P: np.ndarray, L: np.ndarray) -> bool:
    """As `regular_factor`, for a stack of matrices."""
    n = P.shape[1]
    for k in range(P.shape[0]):
        for i in range(n):
            for j in range(i + 1):
                total = P[k, i, j]
                if total != P[k, j, i]:
                    return False
                for r in range(j):
                    total -= L[k, i, r] * L[k, j, r]
                if i > j:
                    L[k, i, j], L[k, j, i] = total / L[k, j, j], 0.0
                elif not 0.0 < total < math.inf:
                    return False
                else:
                    L[k, i, i] = math.sqrt(total)
    return True
