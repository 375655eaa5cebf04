"""Steps of a filter in its steady state: only means move."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from .....ops.arrays import Matrices, Matrix, Space, Vector, Whole
from .....ops.small_matrices import HALF_LOG_2PI, INLINE, SPLICE, pick
from .predict import absorb
from .steady_blocks import block_space


@njit(**INLINE)
def complete(p: int, y: np.ndarray) -> bool:
    """True when no component is missing."""
    for i in range(p):
        if math.isnan(y[i]):
            return False
    return True


@njit(**INLINE)
def log_volume(p: int, chol: np.ndarray) -> float:
    """Log-density of a complete observation whose whitened innovation is zero."""
    total = 0.0
    for i in range(p):
        total -= HALF_LOG_2PI + math.log(chol[i, i])
    return total


@njit(**SPLICE)
def update_steady(
    n: int, p: int, k: int, C: Matrix, d: Vector, y: Vector, a: Matrix, m: Matrix, G: Matrix,
    chol: Matrix, E: Matrix, U: Matrix,
) -> float:  # fmt: skip
    """Condition the mean alone, by the gains of an earlier step; return the quadratic term."""
    ll = 0.0
    for i in range(p):
        for col in range(1 + k):
            total = y[i] - d[i] if col == 0 else 0.0
            for j in range(n):
                total -= C[i, j] * a[j, col]
            for j in range(i):
                total -= chol[i, j] * E[j, col]
            E[i, col] = total / chol[i, i]
        ll += absorb(U, k, E[i]) if k > 0 else -0.5 * E[i, 0] * E[i, 0]
    for j in range(n):
        for col in range(1 + k):
            total = a[j, col]
            for i in range(p):
                total += G[j, i] * E[i, col]
            m[j, col] = total
    return ll


def fold_space(n: int, p: int) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Scratch arrays of `fold` and `run_steady`, and of whole blocks."""
    matrices = (np.zeros((p, p)), np.zeros((p, n)), np.zeros((n, n)), np.zeros((n, p)))
    vectors = (np.zeros(n), np.zeros(n), np.zeros(p), np.zeros(p))
    return (*matrices, *vectors), block_space(n, p)


@njit(**INLINE)
def fold(n: int, p: int, A: Matrix, C: Matrix, G: Matrix, chol: Matrix, folded: Space) -> None:
    """`V = S^(-1/2)`, `H = V C`, `M = A (I - G H)`, `B = A G V`; a step is `M a + B (y - d) + b`.

    `B` holds `A G` until `M` is made.
    """
    V, H, M, B, _, _, _, _ = folded
    for j in range(p):
        for i in range(p):
            total = 1.0 if i == j else 0.0
            for r in range(j, i):
                total -= chol[i, r] * V[r, j]
            V[i, j] = total / chol[i, i] if i >= j else 0.0
    for i in range(p):
        for j in range(n):
            H[i, j] = 0.0
            for r in range(i + 1):
                H[i, j] += V[i, r] * C[r, j]
    for i in range(n):
        for j in range(p):
            B[i, j] = 0.0
            for r in range(n):
                B[i, j] += A[i, r] * G[r, j]
        for j in range(n):
            M[i, j] = A[i, j]
            for r in range(p):
                M[i, j] -= B[i, r] * H[r, j]
        for j in range(p):
            total = 0.0
            for r in range(j, p):
                total += B[i, r] * V[r, j]
            B[i, j] = total


@njit(**SPLICE)
def run_steady(
    n: int, p: int, keep: tuple[bool, ...], t: int, stop: int, b: Matrix, d: Matrix, y: Matrix,
    ll: Vector, slot: Whole, i: int, a: Matrices, m: Matrices, E: Matrices, G: Matrix,
    volume: float, folded: Space,
) -> int:  # fmt: skip
    """Filter complete observations from `t` to `stop` with one gain; return the first not done.

    The recursion through `M` alone is the critical path; everything else hangs off it. The mean
    predicted for step `t` is in the scratch array `x`, where that of the next step is left, with
    the filtered mean of the last step done in `before`.
    """
    V, H, M, B, x, before, v, e = folded
    first = t
    while t < stop and complete(p, y[t]):
        total = 0.0
        for r in range(p):
            v[r] = y[t, r] - d[pick(t, d.shape[0]), r]
        for r in range(p):
            e[r] = 0.0
            for c in range(r + 1):
                e[r] += V[r, c] * v[c]
            for c in range(n):
                e[r] -= H[r, c] * x[c]
            total += e[r] * e[r]
        ll[t], slot[t] = volume - 0.5 * total, i
        for r in range(n):
            before[r] = x[r]
            if keep[0]:
                a[t, r, 0] = x[r]
            if keep[1]:
                m[t, r, 0] = x[r]
                for c in range(p):
                    m[t, r, 0] += G[r, c] * e[c]
        for r in range(p):
            if keep[2]:
                E[t, r, 0] = e[r]
        t += 1
        for r in range(n):
            total = b[pick(min(t, y.shape[0] - 1), b.shape[0]), r]
            for c in range(p):
                total += B[r, c] * v[c]
            for c in range(n):
                total += M[r, c] * before[c]
            x[r] = total
    if t > first:
        for r in range(n):
            for c in range(p):
                before[r] += G[r, c] * e[c]
    return t
