"""The square-root filter of larger states as one compiled loop over a series.

Means carry `1 + k` columns, the value at `delta = 0` and the slope in each diffuse coefficient.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from ....ops.arrays import Arrays, Batch, Matrices, Matrix, Space, Whole
from ....ops.cache import cached
from ....ops.lapack import multiply
from ....ops.small_matrices import DRIVER, EPS, HALF_LOG_2PI, copy_matrix, pick
from ..cpu.scalar.predict import absorb, observed
from ..cpu.scalar.update import smallest_part
from .step_kernels import (
    STEP,
    is_strong,
    log_diagonal,
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
# Units of round-off by which a steady factor may still move: Cholesky factors move by some.
_SETTLED = 64.0 * EPS


class Model(NamedTuple):
    """Parameters with axes `(series or 1, time or 1, ...)`.

    Attributes:
        A: Transition. b: Its offset. Q: Its covariance. LQ: A lower factor of it, square.
        C: Emission. d: Its offset. R: Its covariance.
        deviation: Roots of the diagonal of `R`, with no entries where `R` is not diagonal.
        first: Where the entries of each row of `A` begin; empty unless `A` is constant and most of
            it is zero. place: Their columns.
    """

    A: Batch
    b: Batch
    Q: Batch
    LQ: Batch
    C: Batch
    d: Batch
    R: Batch
    deviation: Batch
    first: Whole
    place: Whole


class State(NamedTuple):
    """The filter between two steps.

    Attributes:
        a: Predicted mean and slopes. m: Filtered ones. L: Predicted factor. F: Filtered factor.
        before: Predicted factor of the step before.
        U: Equations of the diffuse coefficients, with a spare row.
        order: Observed components. last: Those of the step before.
        rows: Their whitened rows. noise: Factor of their `R`. e: Whitened residuals.
        S: Factor of `I + V V'`. G: Gain.
        counts: Slots used, number of entries in `last` (-1: none yet), careful steps to come,
            whether a strong update was among the steps.
    """

    a: Matrix
    m: Matrix
    L: Matrix
    F: Matrix
    before: Matrix
    U: Matrix
    order: Whole
    last: Whole
    rows: Matrix
    noise: Matrix
    e: Matrix
    S: Matrix
    G: Matrix
    counts: Whole


@njit(**STEP)
def is_settled(n: int, X: Matrix, old: Matrix) -> bool:
    """True where no row moved by more than round-off, in its own units."""
    for i in range(n):
        square, change = 0.0, 0.0
        for j in range(n):
            square += X[i, j] * X[i, j]
            change = max(change, abs(X[i, j] - old[i, j]))
        if not change <= _SETTLED * math.sqrt(square):
            return False
    return True


@njit(**STEP)
def same_rows(o: int, order: Whole, last: Whole, counts: Whole) -> bool:
    """True where the observed components are those of the step before; they become the last."""
    same = counts[1] == o
    for i in range(o):
        same = same and last[i] == order[i]
        last[i] = order[i]
    counts[1] = o
    return same


@njit(**STEP)
def residuals(
    n: int, o: int, K: int, order: Whole, C: Matrix, d: np.ndarray, y: np.ndarray, a: Matrix,
    e: Matrix, scratch: Matrix,
) -> None:  # fmt: skip
    """`e = [y - d, 0] - C a` of the observed rows."""
    p = C.shape[0]
    multiply(False, False, p, K, n, -1.0, C, a, 0.0, scratch)
    for i in range(o):
        row = order[i]
        for c in range(K):
            e[i, c] = scratch[row, c]
        e[i, 0] += y[row] - d[row]


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
    n: int, o: int, k: int, gains: bool, state: State, space: Space
) -> tuple[float, float]:
    """Condition on whitened rows; return log-density and the part left of a variance, 1 if unknown.

    Where `gains` are wanted, `state.S` and `state.G` hold them, and `e` is whitened by `S`.
    """
    V, w, K = space[4], space[8], 1 + k
    e, L, F = state.e, state.L, state.F
    multiply(False, False, o, n, n, 1.0, state.rows, L, 0.0, V)
    strong = is_strong(n, o, V)
    if not strong and (gains or 3 * o <= n):
        whitened_gain(n, o, K, L, V, True, state.S, state.G, e, space)
        update_few(n, o, L, V, state.S, state.G, F, space)
        add_update(n, K, o, state.a, state.G, e, state.m)
        return log_density(o, k, e, state.U) - log_diagonal(o, state.S), 1.0
    square = 0.0
    for i in range(o):
        square += e[i, 0] * e[i, 0]
    if not strong:
        volume = update_many(n, o, K, L, V, e, F, w, space)
        for i in range(n):
            square -= w[i, 0] * w[i, 0]
    else:
        volume, square = update_carefully(n, o, state.rows, e, L, F, w, space)
        if gains:
            whitened_gain(n, o, K, L, V, False, state.S, state.G, e, space)
    if gains and k > 0:
        add_update(n, K, o, state.a, state.G, e, state.m)
        ll = log_density(o, k, e, state.U) - log_diagonal(o, state.S)
    else:
        add_update(n, K, n, state.a, F, w, state.m)
        ll = -0.5 * square - volume
    return ll, smallest_part(n, L, F) if strong else 1.0


@njit(**STEP)
def update(
    n: int, k: int, s: int, t: int, gains: bool, model: Model, y: Matrices, state: State,
    space: Space,
) -> tuple[int, float, float]:  # fmt: skip
    """Condition on step `t`; return the number of its rows, log-density and part left."""
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
        return 0, 0.0, 1.0
    residuals(n, o, K, state.order, C, d, y[s, t], state.a, state.e, space[10])
    if model.deviation.shape[3] > 0:
        deviation = model.deviation
        own = deviation[pick(s, deviation.shape[0]), pick(t, deviation.shape[1]), 0]
        new = not same or model.C.shape[1] > 1 or deviation.shape[1] > 1
        volume = whiten_apart(n, o, K, state.order, C, own, new, state.rows, state.e)
    else:
        R = model.R[pick(s, model.R.shape[0]), pick(t, model.R.shape[1])]
        new = not same or model.C.shape[1] > 1 or model.R.shape[1] > 1
        volume = whiten(n, o, K, state.order, C, R, new, state.rows, state.noise, state.e)
    ll, left = condition(n, o, k, gains, state, space)
    return o, ll - volume - o * HALF_LOG_2PI, left


@njit(**STEP)
def move(
    n: int, K: int, s: int, t: int, model: Model, state: State, space: Space
) -> None:
    """Predict step `t` from the filtered moments of the step before."""
    A = model.A[pick(s, model.A.shape[0]), pick(t, model.A.shape[1])]
    b = model.b[pick(s, model.b.shape[0]), pick(t, model.b.shape[1])]
    Q = model.Q[pick(s, model.Q.shape[0]), pick(t, model.Q.shape[1])]
    LQ = model.LQ[pick(s, model.LQ.shape[0]), pick(t, model.LQ.shape[1])]
    links = (model.first, model.place)
    transition_times(n, K, A, links, state.m, state.a)
    for i in range(n):
        state.a[i, 0] += b[i]
        for j in range(n):
            state.before[i, j] = state.L[i, j]
    careful = state.counts[2] > 0
    if predict(n, A, links, state.F, Q, LQ, careful, state.L, space):
        state.counts[2] = state.counts[2] - 1 if careful else _CAREFUL_STEPS


@njit(**STEP)
def store_step(
    n: int, k: int, o: int, s: int, t: int, gains: bool, state: State, out: Arrays
) -> None:
    """Write means at step `t`, second moments in the next slot."""
    _, slot, a, L, m, F, G, chol, E, rows, count, info, _ = out
    i = state.counts[0]
    state.counts[0] += 1
    slot[s, t], count[s, i] = i, o
    copy_matrix(n, 1 + k, state.a, a[s, t])
    copy_matrix(n, 1 + k, state.m, m[s, t])
    copy_matrix(n, n, state.L, L[s, i])
    copy_matrix(n, n, state.F, F[s, i])
    for r in range(k):
        for c in range(k + 1):
            info[s, t, r, c] = state.U[r, c]
    if gains:
        copy_matrix(n, o, state.G, G[s, i])
        for r in range(o):
            rows[s, i, r] = state.order[r]
            for c in range(1 + k):
                E[s, t, r, c] = state.e[r, c]


@njit(**STEP)
def store_chol(s: int, t: int, o: int, i: int, model: Model, state: State, chol: Batch) -> None:
    """Factor of the innovation covariance in the user's components, `M S`."""
    if model.deviation.shape[3] > 0:
        deviation = model.deviation
        own = deviation[pick(s, deviation.shape[0]), pick(t, deviation.shape[1]), 0]
        for r in range(o):
            for c in range(r + 1):
                chol[s, i, r, c] = own[state.order[r]] * state.S[r, c]
            for c in range(r + 1, o):
                chol[s, i, r, c] = 0.0
        return
    for r in range(o):
        for c in range(r + 1, o):
            state.S[r, c] = 0.0
    multiply(False, False, o, o, o, 1.0, state.noise, state.S, 0.0, chol[s, i])


@cached(**DRIVER)
def advance(
    s: int, t: int, model: Model, y: Matrices, runs: Whole, state: State, out: Arrays, hard: Whole,
    store: bool, gains: bool, space: Space,
) -> int:  # fmt: skip
    """Filter from step `t` on; return the step from which on the gain is steady, or the last.

    Args:
        s: Series. t: First step; `state` has the predicted moments of step 0, or those before.
        model: See `Model`. y: Data.
        runs: Number of complete steps from each step on, zeros where steady gains are not wanted.
        state: See `State`. out: A `Pass`. hard: Which slots hold updates that needed reflections.
        store: Whether to write moments. gains: Whether to write gains as well.
        space: From `step_space`.
    """
    n, k = state.L.shape[0], state.a.shape[1] - 1
    ll, worst = out[0], out[12]
    while t < y.shape[1]:
        if t > 0:
            move(n, 1 + k, s, t, model, state, space)
            settled = t > 1 and runs[s, t - 1] > _STEADY_STEPS
            if settled and is_settled(n, state.L, state.before):
                return t
        o, ll[s, t], left = update(n, k, s, t, gains, model, y, state, space)
        worst[s] = min(worst[s], math.sqrt(left))
        if gains and store:
            store_chol(s, t, o, state.counts[0], model, state, out[7])
        if store:
            hard[s, state.counts[0]] = left < 1.0
            store_step(n, k, o, s, t, gains, state, out)
        t += 1
    return t


@cached(**DRIVER)
def recur(M: Matrix, x: Matrix) -> None:
    """`x[t + 1] += M x[t]`, in place."""
    n = M.shape[0]
    for t in range(x.shape[0] - 1):
        for i in range(n):
            total = 0.0
            for j in range(n):
                total += M[i, j] * x[t, j]
            x[t + 1, i] += total
