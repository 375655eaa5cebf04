"""Steps of the score that share their second moments: one short recursion and a few products."""

from __future__ import annotations

import numpy as np
from numba import njit

from .....ops.arrays import Matrix, Space, Vector
from .....ops.small_matrices import INLINE, SPLICE, clear


def run_space(n: int, p: int) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Matrices and vectors of a run, and the sums that it adds to."""
    matrices = (np.zeros((n, n)), np.zeros((p, n)), np.zeros((p, p)))
    vectors = (np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(p))
    squares = (np.zeros((n, n)), np.zeros((n, n)), np.zeros((p, n)), np.zeros((p, p)))
    return matrices + vectors, (*squares, np.zeros(n), np.zeros(p))


@njit(**INLINE)
def score_matrices(
    n: int, p: int, A: Matrix, G: Matrix, H: Matrix, chol: Matrix, work: Space
) -> None:
    """`M = (I - H' G') A'` and `B = -V' G' A'` for `V = S^(-1/2)`: `r <- M r + H' e`."""
    M, B, V, _, _, _, _ = work
    for j in range(p):
        for i in range(p):
            total = 1.0 if i == j else 0.0
            for m in range(j, i):
                total -= chol[i, m] * V[m, j]
            V[i, j] = total / chol[i, i] if i >= j else 0.0
    for c in range(n):
        for i in range(n):
            M[i, c] = A[c, i]
        for i in range(p):
            B[i, c] = 0.0
        for m in range(p):
            total = 0.0
            for j in range(n):
                total += G[j, m] * A[c, j]
            for i in range(n):
                M[i, c] -= H[m, i] * total
            for i in range(m + 1):
                B[i, c] -= V[m, i] * total


@njit(**SPLICE)
def score_run(
    n: int, p: int, first: int, last: int, P: Matrix, H: Matrix, a: Vector, E: Vector,
    weight: float, gy: Matrix, work: Space, sums: Space,
) -> None:  # fmt: skip
    """Go back from step `last` to step `first`, with `r` in `work`; set the sums of the steps.

    They are of `r z'` with the `r` of the next step, `r r'`, `w z'`, `w w'`, `r` and `w`. The
    derivative by the observations is written unless its `weight` is zero.
    """
    M, B, V, r, z, q, w = work
    SA, SQ, SC, SR, Sb, Sd = sums
    clear(n, n, SA)
    clear(n, n, SQ)
    clear(p, n, SC)
    clear(p, p, SR)
    for i in range(n):
        Sb[i] = 0.0
    for i in range(p):
        Sd[i] = 0.0
    for t in range(last, first - 1, -1):
        for i in range(p):
            total = 0.0
            for j in range(i, p):
                total += V[j, i] * E[t * p + j]
            for j in range(n):
                total += B[i, j] * r[j]
            w[i] = total
        for i in range(n):
            total = 0.0
            for j in range(p):
                total += H[j, i] * E[t * p + j]
            for j in range(n):
                total += M[i, j] * r[j]
            q[i] = total
        for i in range(n):
            total = a[t * n + i]
            for j in range(n):
                total += P[i, j] * q[j]
            z[i] = total
        for i in range(n):
            for j in range(n):
                SA[i, j] += r[i] * z[j]
                SQ[i, j] += q[i] * q[j]
            Sb[i] += q[i]
        for i in range(p):
            for j in range(n):
                SC[i, j] += w[i] * z[j]
            for j in range(p):
                SR[i, j] += w[i] * w[j]
            Sd[i] += w[i]
            if weight != 0.0:
                gy[t, i] = -weight * w[i]
        for i in range(n):
            r[i] = q[i]


@njit(**INLINE)
def add_run(
    n: int, p: int, steps: int, scale: float, half: float, sums: Space, constants: Space,
    out: Space,
) -> None:  # fmt: skip
    """Add the weighted derivatives of `steps` steps of a run; `half` is the factor of `Q`."""
    SA, SQ, SC, SR, Sb, Sd = sums
    D, HP, NAP, N = constants
    gA, gb, gQ, gC, gd, gR = out
    for i in range(n):
        for j in range(n):
            gA[i, j] += scale * (SA[i, j] - steps * NAP[i, j])
            gQ[i, j] += half * scale * (SQ[i, j] - steps * N[i, j])
        gb[i] += scale * Sb[i]
    for i in range(p):
        for j in range(n):
            gC[i, j] += scale * (SC[i, j] - steps * HP[i, j])
        for j in range(p):
            gR[i, j] += 0.5 * scale * (SR[i, j] - steps * D[i, j])
        gd[i] += scale * Sd[i]
