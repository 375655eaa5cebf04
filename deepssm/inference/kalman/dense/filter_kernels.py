"""The square-root filter of larger states as one compiled loop over a series.

Means carry `1 + k` columns, the value at `delta = 0` and the slope in each diffuse coefficient.
"""

from __future__ import annotations

import math

from numba import njit

from ....ops.arrays import Arrays, Matrices, Matrix, Space, Whole
from ....ops.cache import cached
from ....ops.lapack import add_gram, multiply, multiply_vector
from ....ops.small_matrices import DRIVER, HALF_LOG_2PI, copy_matrix, pick
from ..cpu.scalar.predict import absorb, observed
from ..cpu.scalar.update import smallest_part
from .state_kernels import (
    ALL_GAINS,
    HARD,
    MANY,
    NO_GAINS,
    PLAIN,
    Model,
    State,
    flush_residuals,
    is_settled,
    move_reach,
    residuals,
    same_rows,
)
from .step_kernels import (
    STEP,
    is_strong,
    log_diagonal,
    lower_only,
    mirror,
    predict,
    transition_times,
    update_carefully,
    update_few,
    update_many,
    whiten,
    whiten_apart,
    whitened_gain,
)

# Steps by reflections after one that needed them, before the short way is tried again.
_CAREFUL_STEPS = 12
# Complete steps ahead for which the steady state is worth leaving the loop.
_STEADY_STEPS = 16


@njit(**STEP)
def add_update(n: int, K: int, inner: int, a: Matrix, G: Matrix, e: Matrix, m: Matrix) -> None:
    """`m = a + G e`."""
    for i in range(n):
        for c in range(K):
            m[i, c] = a[i, c]
    multiply(False, False, n, K, inner, 1.0, G, e, 1.0, m)


@njit(**STEP)
def log_density(o: int, k: int, e: Matrix, U: Matrix) -> float:
    """Of whitened innovations, whose slopes in the diffuse coefficients are absorbed."""
    total = 0.0
    for i in range(o):
        total += absorb(U, k, e[i]) if k > 0 else -0.5 * e[i, 0] * e[i, 0]
    return total


@njit(**STEP)
def condition(
    n: int, o: int, k: int, gains: int, state: State, space: Space
) -> tuple[float, float, int]:
    """Condition on whitened rows; return log-density, part left of a variance and kind of update.

    The part is 1 where it is large enough. Where `gains` are wanted, `state.S` and `state.G` hold
    them, and `e` is whitened by `S`.
    """
    V, w, K = space[4], space[8], 1 + k
    e, L, F = state.e, state.L, state.F
    multiply(False, False, o, n, n, 1.0, state.rows, L, 0.0, V)
    strong = is_strong(n, o, V)
    if not strong and (gains == ALL_GAINS or k > 0 or 3 * o <= n):
        whitened_gain(n, o, K, L, V, True, state.S, state.G, e, space)
        update_few(n, o, L, V, state.S, state.G, F, space)
        add_update(n, K, o, state.a, state.G, e, state.m)
        return log_density(o, k, e, state.U) - log_diagonal(o, state.S), 1.0, PLAIN
    square = 0.0
    for i in range(o):
        square += e[i, 0] * e[i, 0]
    if not strong:
        volume = update_many(n, o, K, L, V, e, F, w, space)
        for i in range(n):
            square -= w[i, 0] * w[i, 0]
        add_update(n, K, n, state.a, F, w, state.m)
        return -0.5 * square - volume, 1.0, MANY
    volume, square = update_carefully(n, o, state.rows, e, L, F, w, space)
    ll = -0.5 * square - volume
    if gains > NO_GAINS or k > 0:
        whitened_gain(n, o, K, L, V, False, state.S, state.G, e, space)
    if k > 0:
        add_update(n, K, o, state.a, state.G, e, state.m)
        ll = log_density(o, k, e, state.U) - log_diagonal(o, state.S)
    else:
        add_update(n, K, n, state.a, F, w, state.m)
    return ll, smallest_part(n, L, F), HARD


@njit(**STEP)
def update(
    n: int, k: int, s: int, t: int, gains: int, model: Model, y: Matrices, state: State,
    space: Space,
) -> tuple[int, float, float, int]:  # fmt: skip
    """Condition on step `t`; return the number of its rows, and as `condition`."""
    p, K = y.shape[2], 1 + k
    C = model.C[pick(s, model.C.shape[0]), pick(t, model.C.shape[1])]
    d = model.d[pick(s, model.d.shape[0]), pick(t, model.d.shape[1])]
    o = observed(p, y[s, t], state.order)
    same = same_rows(o, state.order, state.last, state.counts)
    if o == 0:
        for i in range(n):
            for c in range(K):
                state.m[i, c] = state.a[i, c]
            for c in range(n):
                state.F[i, c] = state.L[i, c]
        return 0, 0.0, 1.0, PLAIN
    residuals(n, o, K, state.order, C, d, y[s, t], state.a, state.e, space[10])
    if k > 0:
        flush_residuals(n, o, k, state.order, C, state.e, state.reach)
    if model.deviation.shape[3] > 0:
        deviation = model.deviation
        own = deviation[pick(s, deviation.shape[0]), pick(t, deviation.shape[1]), 0]
        new = not same or model.C.shape[1] > 1 or deviation.shape[1] > 1
        volume = whiten_apart(n, o, K, state.order, C, own, new, state.rows, state.e)
    else:
        R = model.R[pick(s, model.R.shape[0]), pick(t, model.R.shape[1])]
        new = not same or model.C.shape[1] > 1 or model.R.shape[1] > 1
        volume = whiten(n, o, K, state.order, C, R, new, state.rows, state.noise, state.e)
    ll, left, kind = condition(n, o, k, gains, state, space)
    return o, ll - volume - o * HALF_LOG_2PI, left, kind


@njit(**STEP)
def move(n: int, K: int, s: int, t: int, model: Model, state: State, space: Space) -> None:
    """Predict step `t` from the filtered moments of the step before."""
    A = model.A[pick(s, model.A.shape[0]), pick(t, model.A.shape[1])]
    b = model.b[pick(s, model.b.shape[0]), pick(t, model.b.shape[1])]
    Q = model.Q[pick(s, model.Q.shape[0]), pick(t, model.Q.shape[1])]
    LQ = model.LQ[pick(s, model.LQ.shape[0]), pick(t, model.LQ.shape[1])]
    links = (model.first, model.place)
    transition_times(n, K, A, links, state.m, state.a)
    for i in range(n):
        state.a[i, 0] += b[i]
    if K > 1:
        move_reach(n, K - 1, A, state, space[8])
    careful = state.counts[2] > 0
    if predict(n, A, links, state.F, Q, LQ, careful, state.L, space):
        state.counts[2] = state.counts[2] - 1 if careful else _CAREFUL_STEPS


@njit(**STEP)
def store_means(n: int, k: int, s: int, t: int, state: State, out: Arrays) -> None:
    """Write means, and the slot of step `t`."""
    _, slot, a, _, m, _, _, _, _, _, _, info, _ = out
    slot[s, t] = state.counts[0]
    copy_matrix(n, 1 + k, state.a, a[s, t])
    copy_matrix(n, 1 + k, state.m, m[s, t])
    copy_matrix(k, k + 1, state.U, info[s, t])


@njit(**STEP)
def store_covs(n: int, o: int, kind: int, s: int, i: int, state: State, out: Arrays) -> None:
    """Write predicted and filtered covariances in place of their factors."""
    P, PF = out[3][s, i], out[5][s, i]
    add_gram(False, n, n, 1.0, state.L, 0.0, P)
    if kind == PLAIN:
        for r in range(n):
            for c in range(r + 1):
                PF[r, c] = P[r, c]
        add_gram(False, n, o, -1.0, state.G, 1.0, PF)
    else:
        add_gram(False, n, n, 1.0, state.F, 0.0, PF)
    mirror(n, P)
    mirror(n, PF)


@njit(**STEP)
def store_factors(
    n: int, k: int, o: int, kind: int, s: int, t: int, model: Model, state: State, out: Arrays
) -> None:
    """Write factors, and gains where the update left some."""
    _, _, _, L, _, F, G, chol, E, rows, count, _, _ = out
    i = state.counts[0]
    count[s, i] = o
    copy_matrix(n, n, state.L, L[s, i])
    copy_matrix(n, n, state.F, F[s, i])
    for r in range(o):
        rows[s, i, r] = state.order[r]
    if kind != MANY:
        copy_matrix(n, o, state.G, G[s, i])
        copy_matrix(o, 1 + k, state.e, E[s, t])
        store_chol(s, t, o, model, state, chol[s, i])


@njit(**STEP)
def store_chol(s: int, t: int, o: int, model: Model, state: State, chol: Matrix) -> None:
    """Factor of the innovation covariance in the user's components, `M S`."""
    if model.deviation.shape[3] > 0:
        deviation = model.deviation
        own = deviation[pick(s, deviation.shape[0]), pick(t, deviation.shape[1]), 0]
        for r in range(o):
            for c in range(o):
                chol[r, c] = own[state.order[r]] * state.S[r, c] if c <= r else 0.0
        return
    lower_only(o, state.S)
    multiply(False, False, o, o, o, 1.0, state.noise, state.S, 0.0, chol)


@cached(**DRIVER)
def advance(
    s: int, t: int, until: int, model: Model, y: Matrices, runs: Whole, state: State, out: Arrays,
    kinds: Whole, keep: tuple[bool, bool, int], space: Space,
) -> int:  # fmt: skip
    """Filter from step `t` on; return the step from which on the gain is steady, or the last.

    Args:
        s: Series.
        t: First step; `state` has the predicted moments of step 0, or those before.
        until: Where to stop.
        model: See `Model`.
        y: Data.
        runs: Number of complete steps from each step on, zeros where steady gains are not wanted.
        state: See `State`.
        out: A `Pass`.
        kinds: What each slot holds.
        keep: Whether to write moments, whether covariances in place of factors, and which gains.
        space: From `step_space`.
    """
    n, k = state.L.shape[0], state.a.shape[1] - 1
    ll, worst = out[0], out[12]
    store, covs, gains = keep
    while t < until:
        if t > 0:
            settling = t > 1 and runs[s, t - 1] > _STEADY_STEPS
            if settling:
                copy_matrix(n, n, state.L, state.before)
            move(n, 1 + k, s, t, model, state, space)
            if settling and is_settled(n, state.L, state.before):
                return t
        o, ll[s, t], left, kind = update(n, k, s, t, gains, model, y, state, space)
        if left < 1.0:
            worst[s] = min(worst[s], math.sqrt(left))
        if store:
            kinds[s, state.counts[0]] = kind
            store_means(n, k, s, t, state, out)
            if covs:
                store_covs(n, o, kind, s, state.counts[0], state, out)
            else:
                store_factors(n, k, o, kind, s, t, model, state, out)
            state.counts[0] += 1
        t += 1
    return t


@cached(**DRIVER)
def recur(M: Matrix, x: Matrix) -> None:
    """`x[t + 1] += M x[t]`, in place."""
    for t in range(x.shape[0] - 1):
        multiply_vector(False, M.shape[0], M.shape[0], 1.0, M, x[t], 1.0, x[t + 1])
