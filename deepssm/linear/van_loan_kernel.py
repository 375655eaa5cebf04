"""Transition and noise of short lists of small systems, as compiled loops; see `van_loan`."""

from __future__ import annotations

import math

from numba import njit

from ..ops.arrays import Matrix
from ..ops.cache import cached

_DEGREE = 18
_RADIUS = 0.5


@njit(forceinline=True, error_model="numpy")
def product(A: Matrix, B: Matrix, out: Matrix) -> None:
    """`out = A B`."""
    n = A.shape[0]
    for i in range(n):
        for j in range(n):
            total = 0.0
            for k in range(n):
                total += A[i, k] * B[k, j]
            out[i, j] = total


@njit(forceinline=True, error_model="numpy")
def symmetric_product(A: Matrix, B: Matrix, scale: float, out: Matrix) -> None:
    """`out = scale (A B' + B A')`."""
    n = A.shape[0]
    for i in range(n):
        for j in range(i + 1):
            total = 0.0
            for k in range(n):
                total += A[i, k] * B[j, k] + B[i, k] * A[j, k]
            out[i, j] = out[j, i] = scale * total


@njit(forceinline=True, error_model="numpy")
def small_step(
    F: Matrix, D: Matrix, h: float, A: Matrix, Q: Matrix, term: Matrix, work: Matrix
) -> None:
    """Sum the Taylor series of `exp(F h)` and of its noise, smallest terms of `h` last."""
    n = F.shape[0]
    for i in range(n):
        for j in range(n):
            A[i, j] = term[i, j] = 1.0 if i == j else 0.0
    for k in range(1, _DEGREE + 1):
        product(F, term, work)
        for i in range(n):
            for j in range(n):
                term[i, j] = work[i, j] * (h / k)
                A[i, j] += term[i, j]
    for i in range(n):
        for j in range(n):
            Q[i, j] = term[i, j] = h * D[i, j]
    for k in range(1, _DEGREE + 4):
        symmetric_product(F, term, h / (k + 1), work)
        for i in range(n):
            for j in range(n):
                term[i, j] = work[i, j]
                Q[i, j] += term[i, j]


@cached(nogil=True, error_model="numpy")
def van_loan_all(F: Matrix, D: Matrix, dt: Matrix, A: Matrix, Q: Matrix, work: Matrix) -> None:
    """Write `A = exp(F dt)` and its noise for each of many systems.

    Args:
        F: Drifts, `(k or 1, n, n)`.
        D: Symmetric diffusions, `(k or 1, n, n)`.
        dt: `(k,)`.
        A: Room for transitions, `(k, n, n)`.
        Q: Room for noises, `(k, n, n)`.
        work: Scratch, `(2, n, n)`.
    """
    n = F.shape[1]
    for s in range(dt.shape[0]):
        f, d = F[s if F.shape[0] > 1 else 0], D[s if D.shape[0] > 1 else 0]
        largest = 0.0
        for j in range(n):
            total = 0.0
            for i in range(n):
                total += abs(f[i, j])
            largest = max(largest, total * abs(dt[s]))
        doublings, h = 0, dt[s]
        if largest < math.inf:
            while largest > _RADIUS:
                largest, h, doublings = 0.5 * largest, 0.5 * h, doublings + 1
        small_step(f, d, h, A[s], Q[s], work[0], work[1])
        for _ in range(doublings):
            product(A[s], Q[s], work[0])
            symmetric_product(work[0], A[s], 0.5, work[1])
            for i in range(n):
                for j in range(n):
                    Q[s, i, j] += work[1, i, j]
            product(A[s], A[s], work[0])
            for i in range(n):
                for j in range(n):
                    A[s, i, j] = work[0, i, j]
