r"""The exact gradient of the log-likelihood by one disturbance-smoother pass, compiled.

With predicted `a_t, P_t`, whitened innovation `e_t`, whitened gain `G_t` and whitened emission
`H_t = S_t^(-1/2) C_t`, run backwards from `r = 0, N = 0`

    q = A' r,  M = A' N A,  r <- q + H' (e - G' q),  N <- H' H + (I - G H)' M (I - G H).

Every derivative is a product of these with smoothed means; none needs an inverse of `P`, `Q` or
`R`. Diffuse coefficients enter as further columns: by Fisher's identity the score is the mean of
the conditional score over their posterior.

Source: Koopman & Shephard (1992), Biometrika 79; Durbin & Koopman (2012), ch. 4 and 7.3.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numba import njit

from .....ops.arrays import Arrays, Batch, Matrices, Matrix, Space, Spaces, Vector, Whole
from .....ops.cache import cached
from .....ops.small_matrices import DRIVER, INLINE, SPLICE, clear, copy_matrix, copy_row, pick
from .predict import is_steady
from .steady_score import add_run, run_space, score_matrices, score_run


@njit(**INLINE)
def multiply(
    rows: int, inner: int, cols: int, X: np.ndarray, Y: np.ndarray, out: np.ndarray, sign: float
) -> None:
    """`out += sign X Y`."""
    for i in range(rows):
        for m in range(inner):
            x = sign * X[i, m]
            for j in range(cols):
                out[i, j] += x * Y[m, j]


@njit(**INLINE)
def multiply_t(
    rows: int, inner: int, cols: int, X: np.ndarray, Y: np.ndarray, out: np.ndarray, sign: float
) -> None:
    """`out += sign X' Y`."""
    for m in range(inner):
        for i in range(rows):
            x = sign * X[m, i]
            for j in range(cols):
                out[i, j] += x * Y[m, j]


@njit(**INLINE)
def multiply_by_t(
    rows: int, inner: int, cols: int, X: np.ndarray, Y: np.ndarray, out: np.ndarray, sign: float
) -> None:
    """`out += sign X Y'`."""
    for i in range(rows):
        for j in range(cols):
            total = 0.0
            for m in range(inner):
                total += X[i, m] * Y[j, m]
            out[i, j] += sign * total


@njit(**INLINE)
def whitened_emission(
    n: int, c: int, C: np.ndarray, rows: np.ndarray, chol: np.ndarray, H: np.ndarray
) -> None:
    """`H = S^(-1/2) C` by forward substitution over the rows that have a pivot."""
    for i in range(c):
        for j in range(n):
            total = C[rows[i], j]
            for m in range(i):
                total -= chol[i, m] * H[m, j]
            H[i, j] = total / chol[i, i]


@njit(**INLINE)
def unwhiten(c: int, cols: int, chol: np.ndarray, X: np.ndarray) -> None:
    """`X <- S^(-T/2) X` by back substitution, in place."""
    for i in range(c - 1, -1, -1):
        for j in range(cols):
            total = X[i, j]
            for m in range(i + 1, c):
                total -= chol[m, i] * X[m, j]
            X[i, j] = total / chol[i, i]


@njit(**INLINE)
def emission_scores(
    n: int, c: int, K: int, rows: Whole, w: Matrix, z: Matrix, D: Matrix, HP: Matrix, gy: Vector,
    gd: Vector, gR: Matrix, gC: Matrix,
) -> None:  # fmt: skip
    """Add the derivatives with respect to `y`, `d`, `R` and `C` of one step."""
    for i in range(c):
        row = rows[i]
        gy[row] -= w[i, 0]
        gd[row] += w[i, 0]
        for j in range(c):
            total = -D[i, j]
            for m in range(K):
                total += w[i, m] * w[j, m]
            gR[row, rows[j]] += 0.5 * total
        for j in range(n):
            total = -HP[i, j]
            for m in range(K):
                total += w[i, m] * z[j, m]
            gC[row, j] += total


@njit(**INLINE)
def moment_scores(
    n: int, K: int, r: np.ndarray, N: np.ndarray, gmean: np.ndarray, gcov: np.ndarray
) -> None:
    """Add the derivatives by a mean shift, `r`, and by a covariance, `(r r' - N) / 2`."""
    for i in range(n):
        gmean[i] += r[i, 0]
        for j in range(n):
            total = -N[i, j]
            for m in range(K):
                total += r[i, m] * r[j, m]
            gcov[i, j] += 0.5 * total


@njit(**SPLICE)
def through_update(
    n: int, c: int, H: Matrix, G: Matrix, M: Matrix, N: Matrix, X: Matrix, Y: Matrix
) -> None:
    """`Y = M (I - G H)`, `N = H' H + (I - G H)' Y`."""
    clear(n, n, X)
    multiply(n, c, n, G, H, X, -1.0)
    for i in range(n):
        X[i, i] += 1.0
    clear(n, n, Y)
    multiply(n, n, n, M, X, Y, 1.0)
    clear(n, n, N)
    multiply_t(n, c, n, H, H, N, 1.0)
    multiply_t(n, n, n, X, Y, N, 1.0)


@njit(**SPLICE)
def emission_terms(
    n: int, c: int, G: Matrix, chol: Matrix, M: Matrix, Y: Matrix, P: Matrix, H: Matrix,
    HP: Matrix, D: Matrix, X: Matrix,
) -> None:  # fmt: skip
    """`D = S^-1 + K' M K` and `HP = (S^-1 C - K' M (I - K C)) P`, in the user's components."""
    clear(c, c, D)
    clear(c, n, HP)
    clear(n, c, X)
    multiply(n, n, c, M, G, X, 1.0)
    multiply_t(c, n, c, G, X, D, 1.0)
    for i in range(c):
        D[i, i] += 1.0
    unwhiten(c, c, chol, D)
    for i in range(c):
        for j in range(i):
            D[i, j], D[j, i] = D[j, i], D[i, j]
    unwhiten(c, c, chol, D)
    clear(n, c, X)
    multiply_t(n, n, c, Y, G, X, 1.0)
    for i in range(c):
        for j in range(n):
            X[j, i] = H[i, j] - X[j, i]
    multiply_t(c, n, n, X, P, HP, 1.0)
    unwhiten(c, n, chol, HP)


@njit(**SPLICE)
def second_moments(
    n: int, c: int, later: bool, A: Matrix, C: Matrix, rows: Whole, chol: Matrix, G: Matrix,
    L: Matrix, F: Matrix, N: Matrix, M: Matrix, N2: Matrix, H: Matrix, P: Matrix, D: Matrix,
    HP: Matrix, NAP: Matrix, X: Matrix, Y: Matrix,
) -> None:  # fmt: skip
    """All that does not depend on the data: `H, P, N2, D, HP` and `NAP = N A F F'`."""
    whitened_emission(n, c, C, rows, chol, H)
    clear(n, n, M)
    clear(n, n, NAP)
    if later:
        clear(n, n, X)
        multiply(n, n, n, N, A, X, 1.0)
        multiply_t(n, n, n, A, X, M, 1.0)
        clear(n, n, Y)
        multiply(n, n, n, X, F, Y, 1.0)
        multiply_by_t(n, n, n, Y, F, NAP, 1.0)
    clear(n, n, P)
    multiply_by_t(n, n, n, L, L, P, 1.0)
    through_update(n, c, H, G, M, N2, X, Y)
    emission_terms(n, c, G, chol, M, Y, P, H, HP, D, X)


@njit(**SPLICE)
def first_moments(
    n: int, K: int, c: int, later: bool, A: Matrix, a: Matrix, E: Matrix, mix: Matrix, H: Matrix,
    G: Matrix, chol: Matrix, P: Matrix, r: Matrix, q: Matrix, r2: Matrix, w: Matrix, z: Matrix,
) -> None:  # fmt: skip
    """`q = A' r`, `w = e - G' q`, `r2 = q + H' w`, `z = a + P r2`, and `w` unwhitened."""
    clear(n, K, q)
    if later:
        multiply_t(n, n, K, A, r, q, 1.0)
    clear(c, K, w)
    multiply(c, K, K, E, mix, w, 1.0)
    multiply_t(c, n, K, G, q, w, -1.0)
    copy_matrix(n, K, q, r2)
    multiply_t(n, c, K, H, w, r2, 1.0)
    clear(n, K, z)
    multiply(n, K, K, a, mix, z, 1.0)
    multiply(n, n, K, P, r2, z, 1.0)
    unwhiten(c, K, chol, w)


@njit(**INLINE)
def run_start(slot: np.ndarray, t: int) -> int:
    """First step, after the very first, from which on all steps up to `t` share a slot."""
    while t > 1 and slot[t - 1] == slot[t]:
        t -= 1
    return t


@njit(**SPLICE)
def whole_run(
    n: int, p: int, s: int, t: int, A: Matrix, slot: Whole, G: Matrix, chol: Matrix,
    moments: Space, flat: Space, weight: float, grads: Space, r: Matrix, run: tuple[Space, Space],
) -> int:  # fmt: skip
    """Go back over all steps up to `t` that share its slot; return the step before them."""
    P, H, D, HP, NAP, N = moments
    gA, gb, gQ, gC, gd, gR, gy, _, _ = grads
    work, sums = run
    start = run_start(slot, t)
    score_matrices(n, p, A, G, H, chol, work)
    copy_row(n, r[:, 0], work[3])
    score_run(n, p, start, t, P, H, flat[0][s], flat[1][s], weight, gy[s], work, sums)
    copy_row(n, work[3], r[:, 0])
    out = (gA[s, 0], gb[s, 0], gQ[s, 0], gC[s, 0], gd[s, 0], gR[s, 0])
    add_run(n, p, t - start + 1, 1.0, 0.5, sums, (D, HP, NAP, N), out)
    return start - 1


@njit(**SPLICE)
def clear_state(n: int, K: int, r: np.ndarray, N: np.ndarray) -> bool:
    """`r = 0, N = 0`: nothing is steady yet."""
    clear(n, K, r)
    clear(n, n, N)
    return False


@njit(**INLINE)
def cross_scores(
    n: int, K: int, r: np.ndarray, z: np.ndarray, NAP: np.ndarray, gA: np.ndarray
) -> None:
    """Add the derivative with respect to `A`, `r z' - N A P`."""
    for i in range(n):
        for j in range(n):
            total = -NAP[i, j]
            for m in range(K):
                total += r[i, m] * z[j, m]
            gA[i, j] += total


def score_space(n: int, p: int, k: int) -> tuple[tuple[tuple[np.ndarray, ...], ...], ...]:
    """Scratch arrays of the score, and of a run of steady steps."""
    K = 1 + k
    vectors = tuple(np.zeros((n, K)) for _ in range(4))
    square = tuple(np.zeros((n, max(n, p))) for _ in range(7))
    other = (np.zeros((p, n)), np.zeros((p, n)), np.zeros((p, p)))
    return ((*vectors, np.zeros((p, K))), square + other), run_space(n, p)


@cache
def score_kernel(sizes: tuple[int, int, int] | None = None) -> Callable[..., None]:
    """Compile the score, for any sizes or for `sizes = (n, p, k)` alone."""
    fixed, (n_, p_, k_) = sizes is not None, sizes or (0, 0, 0)

    @cached(**DRIVER)
    def score(first: int, last: int, A: Batch, C: Batch, same: bool, stored: Arrays, mix: Matrices,
              flat: Space, want_y: bool, grads: Space, spaces: Spaces) -> None:  # fmt: skip
        slot, a, L, F, G, chol, E, rows, count = stored
        gA, gb, gQ, gC, gd, gR, gy, gm0, gP0 = grads
        n, p, K = (n_, p_, 1 + k_) if fixed else (C.shape[3], C.shape[2], a.shape[3])
        (r, q, z, r2, w), (N, M, P, N2, X, Y, NAP, H, HP, D) = spaces[0]
        T, plain = a.shape[1], same and K == 1 and gb.shape[1] == 1 and gd.shape[1] == 1
        for s in range(first, last):
            t, steady = T - 1, clear_state(n, K, r, N)
            while t >= 0:
                i, later, u = slot[s, t], t < T - 1, min(t + 1, T - 1)
                c, shares = count[s, i], same and later and slot[s, u] == i
                At = A[pick(s, A.shape[0]), pick(u, A.shape[1])]
                if plain and steady and shares and t > 0:
                    t = whole_run(
                        n, p, s, t, At, slot[s], G[s, i], chol[s, i], (P, H, D, HP, NAP, N), flat,
                        1.0 if want_y else 0.0, grads, r, spaces[1],
                    )  # fmt: skip
                    continue
                if not (steady and shares):
                    Ct = C[pick(s, C.shape[0]), pick(t, C.shape[1])]
                    second_moments(
                        n, c, later, At, Ct, rows[s, i], chol[s, i], G[s, i], L[s, i], F[s, i], N,
                        M, N2, H, P, D, HP, NAP, X, Y,
                    )  # fmt: skip
                    steady = shares and c == p and is_steady(n, N2, N)
                first_moments(
                    n, K, c, later, At, a[s, t], E[s, t], mix[s], H, G[s, i], chol[s, i], P, r,
                    q, r2, w, z,
                )  # fmt: skip
                emission_scores(
                    n, c, K, rows[s, i], w, z, D, HP, gy[s, t], gd[s, pick(t, gd.shape[1])],
                    gR[s, pick(t, gR.shape[1])], gC[s, pick(t, gC.shape[1])],
                )  # fmt: skip
                if later:
                    cross_scores(n, K, r, z, NAP, gA[s, pick(u, gA.shape[1])])
                copy_matrix(n, K, r2, r)
                copy_matrix(n, n, N2, N)
                if t > 0:
                    gb_t, gQ_t = gb[s, pick(t, gb.shape[1])], gQ[s, pick(t, gQ.shape[1])]
                    moment_scores(n, K, r, N, gb_t, gQ_t)
                t -= 1
            moment_scores(n, K, r, N, gm0[s], gP0[s])

    return score
