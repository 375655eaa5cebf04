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

from .kalman_kernels import at
from .kalman_steps import _FAST


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
def multiply(
    rows: int, inner: int, cols: int, X: np.ndarray, Y: np.ndarray, out: np.ndarray, sign: float
) -> None:
    """`out += sign X Y`."""
    for i in range(rows):
        for m in range(inner):
            x = sign * X[i, m]
            for j in range(cols):
                out[i, j] += x * Y[m, j]


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
def multiply_t(
    rows: int, inner: int, cols: int, X: np.ndarray, Y: np.ndarray, out: np.ndarray, sign: float
) -> None:
    """`out += sign X' Y`."""
    for m in range(inner):
        for i in range(rows):
            x = sign * X[m, i]
            for j in range(cols):
                out[i, j] += x * Y[m, j]


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
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


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
def clear(rows: int, cols: int, X: np.ndarray) -> None:
    """`X[:rows, :cols] = 0`."""
    for i in range(rows):
        for j in range(cols):
            X[i, j] = 0.0


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
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


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
def unwhiten(c: int, cols: int, chol: np.ndarray, X: np.ndarray) -> None:
    """`X <- S^(-T/2) X` by back substitution, in place."""
    for i in range(c - 1, -1, -1):
        for j in range(cols):
            total = X[i, j]
            for m in range(i + 1, c):
                total -= chol[m, i] * X[m, j]
            X[i, j] = total / chol[i, i]


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
def emission_scores(
    n: int,
    c: int,
    K: int,
    chol: np.ndarray,
    rows: np.ndarray,
    w: np.ndarray,
    z: np.ndarray,
    D: np.ndarray,
    HP: np.ndarray,
    grads: tuple[np.ndarray, ...],
) -> None:
    """Add the derivatives with respect to `y`, `d`, `R` and `C` of one step.

    `D` comes in as `I + G' M G` and `HP` as `(H - G' M (I - G H)) P`, both still whitened.
    """
    gy, gd, gR, gC = grads
    unwhiten(c, K, chol, w)
    unwhiten(c, n, chol, HP)
    unwhiten(c, c, chol, D)
    for i in range(c):
        for j in range(i):
            D[i, j], D[j, i] = D[j, i], D[i, j]
    unwhiten(c, c, chol, D)
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


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
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


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
def pull_back(n, K, A, r, N, q, M, X):  # noqa: ANN001, ANN201
    """`q = A' r`, `M = A' N A`."""
    clear(n, K, q)
    clear(n, n, M)
    clear(n, n, X)
    multiply_t(n, n, K, A, r, q, 1.0)
    multiply(n, n, n, N, A, X, 1.0)
    multiply_t(n, n, n, A, X, M, 1.0)


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
def through_update(n, K, c, H, G, E, mix, q, M, r, N, w, X, Y):  # noqa: ANN001, ANN201
    """`w = e - G' q`, `r = q + H' w`, `Y = M (I - G H)`, `N = H' H + (I - G H)' Y`."""
    clear(c, K, w)
    multiply(c, K, K, E, mix, w, 1.0)
    multiply_t(c, n, K, G, q, w, -1.0)
    r[:] = q
    multiply_t(n, c, K, H, w, r, 1.0)
    clear(n, n, X)
    multiply(n, c, n, G, H, X, -1.0)
    for i in range(n):
        X[i, i] += 1.0
    clear(n, n, Y)
    multiply(n, n, n, M, X, Y, 1.0)
    clear(n, n, N)
    multiply_t(n, c, n, H, H, N, 1.0)
    multiply_t(n, n, n, X, Y, N, 1.0)


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
def emission_terms(n, c, G, M, Y, P, H, HP, D, X):  # noqa: ANN001, ANN201
    """`D = I + G' M G` and `HP = (H - G' Y) P`; `H` is spent."""
    clear(c, c, D)
    clear(c, n, HP)
    clear(n, n, X)
    multiply(n, n, c, M, G, X, 1.0)
    multiply_t(c, n, c, G, X, D, 1.0)
    for i in range(c):
        D[i, i] += 1.0
    multiply_t(c, n, n, G, Y, H, -1.0)
    multiply(c, n, n, H, P, HP, 1.0)


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
def smoothed_mean(n, K, a, mix, L, r, z, P):  # noqa: ANN001, ANN201
    """`z = a + P r` in the mixed columns, and `P = L L'`."""
    clear(n, n, P)
    multiply_by_t(n, n, n, L, L, P, 1.0)
    clear(n, K, z)
    multiply(n, K, K, a, mix, z, 1.0)
    multiply(n, n, K, P, r, z, 1.0)


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
def transition_score(n, K, A, F, r, N, z, gA, P, X):  # noqa: ANN001, ANN201
    """Add `r z' - N A F F'`."""
    multiply_by_t(n, K, n, r, z, gA, 1.0)
    clear(n, n, P)
    multiply_by_t(n, n, n, F, F, P, 1.0)
    clear(n, n, X)
    multiply(n, n, n, A, P, X, 1.0)
    multiply(n, n, n, N, X, gA, -1.0)


@cache
def score_kernel(sizes: tuple[int, int, int] | None = None) -> Callable[..., None]:
    """Compile the score, for any sizes or for `sizes = (n, p, k)` alone."""
    fixed = sizes is not None
    n_, p_, k_ = sizes if sizes is not None else (0, 0, 0)

    @njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
    def score(first, last, A, C, stored, mix, grads):  # noqa: ANN001, ANN202
        a, L, F, G, chol, E, rows, count = stored
        gA, gb, gQ, gC, gd, gR, gy, gm0, gP0 = grads
        n, p, K = (n_, p_, 1 + k_) if fixed else (C.shape[3], C.shape[2], a.shape[3])
        r, q, z, r2 = np.zeros((n, K)), np.zeros((n, K)), np.zeros((n, K)), np.zeros((n, K))
        N, M, P, N2 = np.zeros((n, n)), np.zeros((n, n)), np.zeros((n, n)), np.zeros((n, n))
        X, Y = np.zeros((n, max(n, p))), np.zeros((n, n))
        H, HP, w, D = np.zeros((p, n)), np.zeros((p, n)), np.zeros((p, K)), np.zeros((p, p))
        for s in range(first, last):
            r[:], N[:], q[:], M[:] = 0.0, 0.0, 0.0, 0.0
            for t in range(a.shape[1] - 1, -1, -1):
                c, later = count[s, t], t < a.shape[1] - 1
                if later:
                    pull_back(n, K, at(at(A, s), t + 1), r, N, q, M, X)
                whitened_emission(n, c, at(at(C, s), t), rows[s, t], chol[s, t], H)
                through_update(n, K, c, H, G[s, t], E[s, t], mix[s], q, M, r2, N2, w, X, Y)
                smoothed_mean(n, K, a[s, t], mix[s], L[s, t], r2, z, P)
                emission_terms(n, c, G[s, t], M, Y, P, H, HP, D, X)
                emission_scores(
                    n, c, K, chol[s, t], rows[s, t], w, z, D, HP,
                    (gy[s, t], at(gd[s], t), at(gR[s], t), at(gC[s], t)),
                )  # fmt: skip
                if later:
                    At = at(at(A, s), t + 1)
                    transition_score(n, K, At, F[s, t], r, N, z, at(gA[s], t + 1), P, X)
                r[:], N[:] = r2, N2
                if t > 0:
                    moment_scores(n, K, r, N, at(gb[s], t), at(gQ[s], t))
            moment_scores(n, K, r, N, gm0[s], gP0[s])

    return score
