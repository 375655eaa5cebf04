"""Steps of the square-root filter on BLAS and LAPACK.

Each step is done by a Cholesky factor where this is as good as an orthogonal one, which is seen
from the result: a factor of `W W' + Q` whose pivots keep a fair part of the diagonal has lost no
digits that matter, and the same holds for `I + V' V` where `V` is not large. Else, by reflections.

Observations are whitened first. With `V = C L` of the whitened rows there are two forms,

    S S' = I + V V',  G = L V' S^-T,  F = L - G (S + I)^-1 V        (few rows),
    M M' = I + V' V,  F = L M^-T                                    (many rows),

and the reflections work on the second, `[I; V]`, with many rows collapsed to `n` by themselves.

Source: Bierman (1977), chapters IV and V; Andrews (1968), AIAA Journal 6; Jungbacker & Koopman
(2015), Econometrics Journal 18, for the collapse.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from ....ops.arrays import Matrix, Space, Vector, Whole
from ....ops.lapack import (
    BLOCK,
    add_gram,
    cholesky,
    lower_factor,
    multiply,
    solve_lower,
    solve_lower_right,
    stack_lower,
)
from ....ops.small_matrices import DRIVER

STEP: dict[str, Any] = {k: v for k, v in DRIVER.items() if k != "nogil"}
# Part of a variance that earlier states must leave of each for a Cholesky factor to do.
_PIVOT = 1e-4
# Largest square of a row of `V` with which `I + V V'` is factored as it is.
_STRONG = 1e4


def step_space(n: int, p: int, k: int) -> tuple[np.ndarray, ...]:
    """Scratch arrays of the steps."""
    wide = max(n + 1, p)
    return (
        np.zeros((n + 1, wide)), np.zeros((n + 1, wide)), np.zeros((max(p, n), max(p, n))),
        np.zeros((n + 1, n + 1)), np.zeros((p, n)), np.zeros((p, p + n)),
        np.zeros((max(n + 1, p), BLOCK)), np.zeros((64 * (n + p + k + 2), 1)),
        np.zeros((n, 1 + k)), np.zeros((p, n)), np.zeros((p, 1 + k)), np.zeros((p, p)),
        np.zeros((k + 1, k + 1)), np.zeros((n, n)),
    )  # fmt: skip


@njit(**STEP)
def lower_only(n: int, X: Matrix) -> None:
    """Clear what lies above the diagonal."""
    for i in range(n):
        for j in range(i + 1, n):
            X[i, j] = 0.0


@njit(**STEP)
def mirror(n: int, X: Matrix) -> None:
    """Copy what lies below the diagonal to above it."""
    for i in range(n):
        for j in range(i):
            X[j, i] = X[i, j]


@njit(**STEP)
def positive(n: int, L: Matrix) -> None:
    """Turn columns of a lower factor so that its diagonal is not negative."""
    for j in range(n):
        if L[j, j] < 0.0:
            for i in range(j, n):
                L[i, j] = -L[i, j]


@njit(**STEP)
def transition_times(
    n: int, cols: int, A: Matrix, links: tuple[Whole, Whole], X: Matrix, out: Matrix
) -> None:
    """`out = A X`, by the entries of `A` that are not zero where these are few."""
    first, place = links
    if first.size == 0:
        multiply(False, False, n, cols, n, 1.0, A, X, 0.0, out)
        return
    for i in range(n):
        for c in range(cols):
            out[i, c] = 0.0
        for entry in range(first[i], first[i + 1]):
            j = place[entry]
            weight = A[i, j]
            for c in range(cols):
                out[i, c] += weight * X[j, c]


@njit(**STEP)
def transposed_times(
    n: int, cols: int, A: Matrix, links: tuple[Whole, Whole], X: Matrix, out: Matrix
) -> None:
    """`out = A' X`, as `transition_times`."""
    first, place = links
    if first.size == 0:
        multiply(True, False, n, cols, n, 1.0, A, X, 0.0, out)
        return
    for i in range(n):
        for c in range(cols):
            out[i, c] = 0.0
    for i in range(n):
        for entry in range(first[i], first[i + 1]):
            j = place[entry]
            weight = A[i, j]
            for c in range(cols):
                out[j, c] += weight * X[i, c]


@njit(**STEP)
def predict(
    n: int, A: Matrix, links: tuple[Whole, Whole], F: Matrix, Q: Matrix, LQ: Matrix, careful: bool,
    L: Matrix, space: Space,
) -> bool:  # fmt: skip
    """`L L' = A F F' A' + Q`, lower triangular; return whether reflections were needed."""
    W, T, work = space[13], space[6], space[7]
    transition_times(n, n, A, links, F, W)
    if not careful:
        for i in range(n):
            for j in range(i + 1):
                L[i, j] = Q[i, j]
        add_gram(False, n, n, 1.0, W, 1.0, L)
        diagonal = work
        for i in range(n):
            diagonal[i, 0] = L[i, i]
        good = cholesky(n, L)
        for i in range(n):
            good = good and L[i, i] * L[i, i] >= _PIVOT * diagonal[i, 0]
        if good:
            lower_only(n, L)
            return False
    for i in range(n):
        for j in range(n):
            L[i, j] = LQ[i, j]
    stack_lower(n, n, L, W, T, work)
    positive(n, L)
    return True


@njit(**STEP)
def whiten(
    n: int, o: int, cols: int, order: Whole, C: Matrix, R: Matrix, new: bool, rows: Matrix,
    M: Matrix, e: Matrix,
) -> float:  # fmt: skip
    """Whiten residuals, and where the observed rows are `new` these, too; return log-volume.

    `M` is the factor of `R` of the observed rows.
    """
    if new:
        for i in range(o):
            for j in range(i + 1):
                M[i, j] = R[order[i], order[j]]
            for j in range(n):
                rows[i, j] = C[order[i], j]
        cholesky(o, M)
        lower_only(o, M)
        solve_lower(False, o, n, M, rows)
    solve_lower(False, o, cols, M, e)
    volume = 0.0
    for i in range(o):
        volume += math.log(M[i, i])
    return volume


@njit(**STEP)
def whiten_apart(
    n: int, o: int, cols: int, order: Whole, C: Matrix, deviation: Vector, new: bool, rows: Matrix,
    e: Matrix,
) -> float:  # fmt: skip
    """As `whiten`, where `R` is diagonal."""
    volume = 1.0
    total = 0.0
    for i in range(o):
        scale = 1.0 / deviation[order[i]]
        if new:
            for j in range(n):
                rows[i, j] = C[order[i], j] * scale
        for c in range(cols):
            e[i, c] *= scale
        volume *= deviation[order[i]]
        if not 1e-200 < volume < 1e200:
            total += math.log(volume)
            volume = 1.0
    return total + math.log(volume)


@njit(**STEP)
def log_diagonal(n: int, X: Matrix) -> float:
    """Sum of the logarithms of the diagonal's sizes."""
    total, product = 0.0, 1.0
    for i in range(n):
        product *= abs(X[i, i])
        if not 1e-200 < product < 1e200:
            total += math.log(product)
            product = 1.0
    return total + math.log(product)


@njit(**STEP)
def set_identity(n: int, X: Matrix) -> None:
    """`X[:n, :n] = I`."""
    for i in range(n):
        for j in range(n):
            X[i, j] = 1.0 if i == j else 0.0


@njit(**STEP)
def whitened_gain(
    n: int, o: int, K: int, L: Matrix, V: Matrix, plain: bool, S: Matrix, G: Matrix, e: Matrix,
    space: Space,
) -> None:  # fmt: skip
    """`S S' = I + V V'`, `G = L V' S^-T`, `e <- S^-1 e`."""
    if plain:
        set_identity(o, S)
        add_gram(False, o, n, 1.0, V, 1.0, S)
        cholesky(o, S)
    else:
        wide, work = space[5], space[7]
        for i in range(o):
            for j in range(o):
                wide[i, j] = 1.0 if i == j else 0.0
            for j in range(n):
                wide[i, o + j] = V[i, j]
        lower_factor(o, o + n, wide, work[: o + n], work[o + n :])
        positive(o, wide)
        for i in range(o):
            for j in range(i + 1):
                S[i, j] = wide[i, j]
    multiply(False, True, n, o, n, 1.0, L, V, 0.0, G)
    solve_lower_right(True, n, o, S, G)
    solve_lower(False, o, K, S, e)


@njit(**STEP)
def update_few(n: int, o: int, L: Matrix, V: Matrix, S: Matrix, G: Matrix, F: Matrix,
               space: Space) -> None:  # fmt: skip
    """`F = L - G (S + I)^-1 V`; `V` is overwritten."""
    M = space[2]
    for i in range(o):
        for j in range(i + 1):
            M[i, j] = S[i, j] + (1.0 if i == j else 0.0)
    solve_lower(False, o, n, M, V)
    for i in range(n):
        for j in range(n):
            F[i, j] = L[i, j]
    multiply(False, False, n, n, o, -1.0, G, V, 1.0, F)


@njit(**STEP)
def update_many(
    n: int, o: int, K: int, L: Matrix, V: Matrix, e: Matrix, F: Matrix, w: Matrix, space: Space
) -> float:
    """`M M' = I + V' V`, `F = L M^-T`, `w = M^-1 V' e`; return the log-volume."""
    M = space[3]
    set_identity(n, M)
    add_gram(True, n, o, 1.0, V, 1.0, M)
    cholesky(n, M)
    for i in range(n):
        for j in range(n):
            F[i, j] = L[i, j]
    solve_lower_right(True, n, n, M, F)
    multiply(True, False, n, K, o, 1.0, V, e, 0.0, w)
    solve_lower(False, n, K, M, w)
    return log_diagonal(n, M)


@njit(**STEP)
def update_carefully(
    n: int, o: int, rows: Matrix, e: Matrix, L: Matrix, F: Matrix, w: Matrix, space: Space
) -> tuple[float, float]:
    """As `update_many` by reflections, for one column; return log-volume and square that is left.

    More rows than unknowns are collapsed first, together with their residuals.
    """
    B, collapsed, X, T, work = space[0], space[1], space[3], space[6], space[7]
    left = o
    if o > n + 1:
        left = n + 1
        for j in range(o):
            for r in range(n):
                collapsed[r, j] = rows[j, r]
            collapsed[n, j] = e[j, 0]
        lower_factor(n + 1, o, collapsed, work[: n + 1], work[n + 1 :])
        lower_only(n + 1, collapsed)
        multiply(True, False, n, left, n, 1.0, L, collapsed, 0.0, B)
        for j in range(left):
            B[n, j] = collapsed[n, j]
    else:
        multiply(True, True, n, o, n, 1.0, L, rows, 0.0, B)
        for j in range(o):
            B[n, j] = e[j, 0]
    set_identity(n + 1, X)
    X[n, n] = 0.0
    stack_lower(n + 1, left, X, B, T, work)
    for i in range(n):
        for j in range(n):
            F[i, j] = L[i, j]
    solve_lower_right(True, n, n, X, F)
    for i in range(n):
        w[i, 0] = X[n, i]
    return log_diagonal(n, X), X[n, n] * X[n, n]


@njit(**STEP)
def is_strong(n: int, o: int, V: Matrix) -> bool:
    """True where `I + V V'` must not be formed."""
    total = 0.0
    for i in range(o):
        square = 0.0
        for j in range(n):
            square += V[i, j] * V[i, j]
        if not square <= _STRONG:
            return True
        total += square
    return not total <= 100.0 * _STRONG
