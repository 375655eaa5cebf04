"""The backward pass of larger states as one compiled loop; see `adjoint_step_kernels.py`."""

from __future__ import annotations

from numba import njit

from ....ops.arrays import Arrays, Matrices, Matrix, Space, Whole
from ....ops.cache import cached
from ....ops.lapack import multiply, solve_lower
from ....ops.small_matrices import DRIVER, clear, copy_matrix, copy_row, pick
from ..cpu.scalar.score import cross_scores, emission_scores, moment_scores
from .adjoint_step_kernels import (
    Adjoint,
    Wants,
    emission_terms,
    emission_terms_of_many,
    lag_one,
    load_many,
    means,
    smoothed_cov,
    through_many,
    through_transition,
    through_update,
    unwhiten,
    with_filtered,
)
from .state_kernels import HARD, MANY, Model, is_settled
from .step_kernels import STEP

_STEADY_STEPS = 16


@njit(**STEP)
def run_below(slot: Whole, t: int) -> int:
    """Number of steps up to `t`, after the very first, that share its slot."""
    i = t
    while i > 0 and slot[i] == slot[t]:
        i -= 1
    return t - i


@njit(**STEP)
def add_scores(
    n: int, K: int, c: int, s: int, t: int, later: bool, rows: Whole, own: Adjoint, grads: Space
) -> None:
    """Add the derivatives of one step; `r` and `N` are still those of the step after it."""
    gA, gb, gQ, gC, gd, gR, gy, _, _ = grads
    if later:
        cross_scores(n, K, own.r, own.z, own.NAP, gA[s, pick(t + 1, gA.shape[1])])
    emission_scores(
        n, c, K, rows, own.w, own.z, own.D, own.Z, gy[s, t], gd[s, pick(t, gd.shape[1])],
        gR[s, pick(t, gR.shape[1])], gC[s, pick(t, gC.shape[1])],
    )  # fmt: skip
    if t > 0:
        gb_t, gQ_t = gb[s, pick(t, gb.shape[1])], gQ[s, pick(t, gQ.shape[1])]
        moment_scores(n, K, own.next, own.new, gb_t, gQ_t)


@njit(**STEP)
def load_step(
    n: int, c: int, K: int, s: int, t: int, kind: int, model: Model, stored: Arrays, y: Matrices,
    own: Adjoint,
) -> bool:  # fmt: skip
    """Whitened emission `H`; of updates in the form for many rows also residuals and `R`."""
    slot, _, m, _, _, chol, _, rows, _ = stored
    i = slot[s, t]
    if kind == MANY:
        return load_many(n, c, K, s, t, model, rows[s, i], y, m[s, t], own)
    C = model.C[pick(s, model.C.shape[0]), pick(t, model.C.shape[1])]
    for r in range(c):
        copy_row(n, C[rows[s, i, r]], own.H[r])
    solve_lower(False, c, n, chol[s, i], own.H)
    return False


@njit(**STEP)
def through_step(
    n: int, K: int, c: int, s: int, t: int, kind: int, apart: bool, later: bool, stored: Arrays,
    mix: Matrix, wants: Wants, own: Adjoint, grads: Space,
) -> None:  # fmt: skip
    """Means, the new `r` and `N`, and scores of step `t`."""
    slot, _, m, _, G, chol, E, rows, _ = stored
    i = slot[s, t]
    if kind == MANY:
        multiply(False, True, n, c, n, 1.0, own.P, own.H, 0.0, own.G)
        means(n, K, c, m[s, t], own.e, mix, own.G, own)
        through_many(n, c, own)
    else:
        means(n, K, c, m[s, t], E[s, t], mix, G[s, i], own)
        through_update(n, c, G[s, i], own)
    if not wants.scores:
        return
    if kind == MANY:
        emission_terms_of_many(n, c, apart, wants, own)
        unwhiten(c, K, apart, own.noise, own.w)
    else:
        emission_terms(n, c, G[s, i], chol[s, i], wants, own)
        solve_lower(True, c, K, chol[s, i], own.w)
    add_scores(n, K, c, s, t, later, rows[s, i], own, grads)


@cached(**DRIVER)
def retreat(
    s: int, t: int, model: Model, y: Matrices, stored: Arrays, kinds: Whole, mix: Matrix,
    wants: Wants, own: Adjoint, grads: Space, smoothed: Space, same: bool,
) -> tuple[int, bool]:  # fmt: skip
    """Go back from step `t` on; return the next step to do and whether a steady run begins there.

    A step below -1 is where the pass must be left to the careful smoother, counted from -2 down.

    Args:
        s: Series.
        t: First step to do.
        model: Of all series.
        y: Data.
        stored: What the filter left: `slot, L, m, F, G, chol, E, rows, count`.
        kinds: What each slot holds.
        mix: Posterior of the diffuse coefficients.
        wants: What for.
        own: See `Adjoint`.
        grads: Derivatives `A, b, Q, C, d, R, y, m0, P0` to add to.
        smoothed: Means, covariances and lag-one covariances.
        same: Whether no matrix varies in time.
    """
    slot, L, m, F, _, _, _, _, count = stored
    mean, cov, cross = smoothed
    n, p, K, T = model.A.shape[3], model.C.shape[2], m.shape[3], m.shape[1]
    links = (model.first, model.place)
    while t >= 0:
        i, later = slot[s, t], t < T - 1
        c, kind = count[s, i], kinds[s, i]
        if wants.moments and kind == HARD:
            return -2 - t, False
        A = model.A[pick(s, model.A.shape[0]), pick(min(t + 1, T - 1), model.A.shape[1])]
        apart = load_step(n, c, K, s, t, kind, model, stored, y, own)
        if later:
            through_transition(n, K, A, links, own)
        else:
            clear(n, n, own.NA)
            clear(n, n, own.M)
            clear(n, K, own.q)
        with_filtered(n, A, links, F[s, i], wants.A or wants.cross, own)
        if wants.moments and not smoothed_cov(n, later, own, cov[s, t]):
            return -2 - t, False
        if wants.cross and later:
            lag_one(n, A, links, L[s, slot[s, t + 1]], own, cross[s, t + 1])
        through_step(n, K, c, s, t, kind, apart, later, stored, mix, wants, own, grads)
        if wants.moments:
            copy_matrix(n, K, own.z, mean[s, t])
        steady = same and later and c == p and K == 1 and slot[s, t + 1] == i and t > 0
        steady = steady and run_below(slot[s], t - 1) > _STEADY_STEPS and slot[s, t - 1] == i
        steady = steady and is_settled(n, own.new, own.N)
        copy_matrix(n, K, own.next, own.r)
        copy_matrix(n, n, own.new, own.N)
        t -= 1
        if steady:
            return t, True
    if wants.scores:
        moment_scores(n, K, own.r, own.N, grads[7][s], grads[8][s])
    return -1, False
