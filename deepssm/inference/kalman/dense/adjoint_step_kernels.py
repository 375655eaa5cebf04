r"""The backward pass of larger states: scores and smoothed moments from `r_t` and `N_t`.

With whitened innovations `e`, gains `G`, whitened emission `H = S^-1/2 C` and filtered covariance
`P`, run backwards from `r = 0, N = 0`

    q = A' r,  M = A' N A,  r <- q + H' (e - G' q),  N <- H' H + (I - G H)' M (I - G H).

After an update in the form for many rows the same holds with the whitened rows as `H`, `P H'` as
`G`, the whitened filtered residuals as `e`, and `H' (I - H G) H` in place of `H' H`.

Smoothed means are `m + P q`, covariances `P - P M P`, and `Cov(z_{t+1}, z_t)` is
`A P - P_{t+1} N A P`. The subtraction loses digits where the future says much more than the past:
there the pass stops, and `smoother_kernels.py` goes on.

Source: Koopman & Shephard (1992); de Jong (1989); Durbin & Koopman (2012), ch. 4 and 7.3.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from ....ops.arrays import Matrices, Matrix, Whole
from ....ops.lapack import add_gram, multiply, solve_lower, solve_lower_right
from ....ops.small_matrices import copy_matrix, pick
from .state_kernels import Model, residuals
from .step_kernels import (
    STEP,
    mirror,
    set_identity,
    transition_times,
    transposed_times,
    whiten,
    whiten_apart,
)

# Part of a filtered variance that the future must leave for the subtraction to be exact enough,
# and the size of what it says in units of filtered deviations: far above one of skew states.
_LEFT, _SAID = 1e-5, 1e5


class Wants(NamedTuple):
    """What a backward pass is for.

    Attributes:
        scores: Derivatives of the offsets, the data and the start. A, C, R: Of these matrices.
        moments: Smoothed means and covariances. cross: Lag-one covariances.
    """

    scores: bool
    A: bool
    C: bool
    R: bool
    moments: bool
    cross: bool


class Adjoint(NamedTuple):
    """The pass between two steps, and what a step computes, `(n, n)` unless said otherwise.

    Attributes:
        r: `(n, 1 + k)`. N: Of the later step. new: `N` of this step.
        q: `A' r`. z: Smoothed mean. w: Smoothed errors, `(p, 1 + k)`. next: The new `r`.
        NA: `N A`. M: `A' N A`. P: Filtered covariance. NAP, MP: Products with it.
        H: `(p, n)`. Z: Derivative by `C` of the volume, `(p, n)`. MG: `(n, p)`. X: `(p, n)`.
        D: Precision of the errors, `(p, p)`. T, Y: Scratch.
        G: Gain, `(n, p)`, e: residuals, `(p, 1 + k)`, noise: factor of `R`, `(p, p)`, of an update
            in the form for many rows. spare: Scratch, `(p, 1 + k)`.
    """

    r: Matrix
    N: Matrix
    new: Matrix
    q: Matrix
    z: Matrix
    w: Matrix
    next: Matrix
    NA: Matrix
    M: Matrix
    P: Matrix
    NAP: Matrix
    MP: Matrix
    H: Matrix
    Z: Matrix
    MG: Matrix
    X: Matrix
    D: Matrix
    T: Matrix
    Y: Matrix
    G: Matrix
    e: Matrix
    noise: Matrix
    spare: Matrix


def adjoint_space(n: int, p: int, k: int) -> Adjoint:
    """The pass before the last step."""
    K = 1 + k
    shapes = (
        (n, K), (n, n), (n, n), (n, K), (n, K), (p, K), (n, K), (n, n), (n, n), (n, n), (n, n),
        (n, n), (p, n), (p, n), (n, p), (p, n), (p, p), (n, n), (n, n), (n, p), (p, K), (p, p),
        (p, K),
    )  # fmt: skip
    return Adjoint(*(np.zeros(shape) for shape in shapes))


@njit(**STEP)
def through_transition(
    n: int, K: int, A: Matrix, links: tuple[Whole, Whole], own: Adjoint
) -> None:
    """`NA`, `M` and `q`."""
    transposed_times(n, n, A, links, own.N, own.T)
    for i in range(n):
        for j in range(n):
            own.NA[i, j] = own.T[j, i]
    transposed_times(n, n, A, links, own.NA, own.M)
    transposed_times(n, K, A, links, own.r, own.q)


@njit(**STEP)
def with_filtered(
    n: int, A: Matrix, links: tuple[Whole, Whole], F: Matrix, cross: bool, own: Adjoint
) -> None:
    """`P`, `MP`, and `NAP` where it is wanted."""
    add_gram(False, n, n, 1.0, F, 0.0, own.P)
    mirror(n, own.P)
    if cross:
        multiply(False, False, n, n, n, 1.0, own.NA, own.P, 0.0, own.NAP)
        transposed_times(n, n, A, links, own.NAP, own.MP)
    else:
        multiply(False, False, n, n, n, 1.0, own.M, own.P, 0.0, own.MP)


@njit(**STEP)
def through_update(n: int, c: int, G: Matrix, own: Adjoint) -> None:
    """`MG`, `X = H - G' M (I - G H)` and the new `N`."""
    H, X, Y, N = own.H, own.X, own.T, own.new
    for i in range(n):
        for j in range(n):
            Y[i, j] = own.M[i, j]
    multiply(False, False, n, c, n, 1.0, own.M, G, 0.0, own.MG)
    multiply(False, False, n, n, c, -1.0, own.MG, H, 1.0, Y)
    for i in range(c):
        for j in range(n):
            X[i, j] = H[i, j]
    multiply(True, False, c, n, n, -1.0, G, Y, 1.0, X)
    multiply(True, False, n, n, c, 1.0, H, X, 1.0, Y)
    for i in range(n):
        for j in range(i + 1):
            N[i, j] = 0.5 * (Y[i, j] + Y[j, i])
            N[j, i] = N[i, j]


@njit(**STEP)
def through_many(n: int, c: int, own: Adjoint) -> None:
    """The new `N` after an update in the form for many rows."""
    left, T, N = own.Y, own.T, own.new
    set_identity(n, left)
    multiply(False, False, n, n, c, -1.0, own.G, own.H, 1.0, left)
    add_gram(True, n, c, 1.0, own.H, 0.0, T)
    mirror(n, T)
    multiply(False, False, n, n, n, 1.0, T, left, 0.0, N)
    multiply(False, False, n, n, n, 1.0, own.M, left, 0.0, T)
    multiply(True, False, n, n, n, 1.0, left, T, 1.0, N)
    for i in range(n):
        for j in range(i):
            N[i, j] = 0.5 * (N[i, j] + N[j, i])
            N[j, i] = N[i, j]


@njit(**STEP)
def emission_terms(n: int, c: int, G: Matrix, chol: Matrix, wants: Wants, own: Adjoint) -> None:
    """`Z = S^-T/2 G' (I - M P)` and `D = S^-T/2 (I + G' M G) S^-1/2`, where wanted."""
    if wants.C:
        for i in range(c):
            for j in range(n):
                own.Z[i, j] = G[j, i]
        multiply(True, False, c, n, n, -1.0, G, own.MP, 1.0, own.Z)
        solve_lower(True, c, n, chol, own.Z)
    if wants.R:
        set_identity(c, own.D)
        multiply(True, False, c, c, n, 1.0, G, own.MG, 1.0, own.D)
        solve_lower(True, c, c, chol, own.D)
        solve_lower_right(False, c, c, chol, own.D)


@njit(**STEP)
def emission_terms_of_many(n: int, c: int, apart: bool, wants: Wants, own: Adjoint) -> None:
    """`Z = R^-T/2 H P_s` and `D = R^-T/2 (I - H P_s H') R^-1/2`, where wanted."""
    if not (wants.C or wants.R):
        return
    smoothed = own.T
    copy_matrix(n, n, own.P, smoothed)
    multiply(False, False, n, n, n, -1.0, own.P, own.MP, 1.0, smoothed)
    multiply(False, False, c, n, n, 1.0, own.H, smoothed, 0.0, own.Z)
    if wants.R:
        set_identity(c, own.D)
        multiply(False, True, c, c, n, -1.0, own.Z, own.H, 1.0, own.D)
        unwhiten(c, c, apart, own.noise, own.D)
        if apart:
            for i in range(c):
                for j in range(c):
                    own.D[i, j] /= own.noise[j, j]
        else:
            solve_lower_right(False, c, c, own.noise, own.D)
    unwhiten(c, n, apart, own.noise, own.Z)


@njit(**STEP)
def unwhiten(c: int, cols: int, apart: bool, noise: Matrix, X: Matrix) -> None:
    """`X <- M^-T X` for a factor `M`, or for a diagonal one where `apart`."""
    if not apart:
        solve_lower(True, c, cols, noise, X)
        return
    for i in range(c):
        scale = 1.0 / noise[i, i]
        for j in range(cols):
            X[i, j] *= scale


@njit(**STEP)
def load_many(
    n: int, c: int, K: int, s: int, t: int, model: Model, order: Whole, y: Matrices, m: Matrix,
    own: Adjoint,
) -> bool:  # fmt: skip
    """Whitened rows, filtered residuals and the factor of `R`; return whether that is diagonal."""
    C = model.C[pick(s, model.C.shape[0]), pick(t, model.C.shape[1])]
    d = model.d[pick(s, model.d.shape[0]), pick(t, model.d.shape[1])]
    residuals(n, c, K, order, C, d, y[s, t], m, own.e, own.spare)
    apart = model.deviation.shape[3] > 0
    if apart:
        deviation = model.deviation
        scale = deviation[pick(s, deviation.shape[0]), pick(t, deviation.shape[1]), 0]
        whiten_apart(n, c, K, order, C, scale, True, own.H, own.e)
        for i in range(c):
            own.noise[i, i] = scale[order[i]]
    else:
        R = model.R[pick(s, model.R.shape[0]), pick(t, model.R.shape[1])]
        whiten(n, c, K, order, C, R, True, own.H, own.noise, own.e)
    return apart


@njit(**STEP)
def means(
    n: int, K: int, c: int, m: Matrix, E: Matrix, mix: Matrix, G: Matrix, own: Adjoint
) -> None:
    """Smoothed mean `z`, errors `w = e - G' q` and the new `r`."""
    multiply(False, False, n, K, K, 1.0, m, mix, 0.0, own.z)
    multiply(False, False, n, K, n, 1.0, own.P, own.q, 1.0, own.z)
    multiply(False, False, c, K, K, 1.0, E, mix, 0.0, own.w)
    multiply(True, False, c, K, n, -1.0, G, own.q, 1.0, own.w)
    copy_matrix(n, K, own.q, own.next)
    multiply(True, False, n, K, c, 1.0, own.H, own.w, 1.0, own.next)


@njit(**STEP)
def smoothed_cov(n: int, later: bool, own: Adjoint, cov: Matrix) -> bool:
    """`P - P M P`; false where that is not exact enough."""
    copy_matrix(n, n, own.P, cov)
    if not later:
        return True
    said = 0.0
    for i in range(n):
        said += own.P[i, i] * own.M[i, i]
    if not said <= _SAID:
        return False
    multiply(False, False, n, n, n, -1.0, own.P, own.MP, 1.0, cov)
    for i in range(n):
        if not cov[i, i] >= _LEFT * own.P[i, i]:
            return False
        for j in range(i):
            cov[i, j] = 0.5 * (cov[i, j] + cov[j, i])
            cov[j, i] = cov[i, j]
    return True


@njit(**STEP)
def lag_one(
    n: int, A: Matrix, links: tuple[Whole, Whole], L: Matrix, own: Adjoint, cross: Matrix
) -> None:
    """`A P - L L' N A P`."""
    transition_times(n, n, A, links, own.P, cross)
    multiply(True, False, n, n, n, 1.0, L, own.NAP, 0.0, own.T)
    multiply(False, False, n, n, n, -1.0, L, own.T, 1.0, cross)
