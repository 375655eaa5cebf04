"""What the loops of larger states keep between steps, and what they make of observations."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from ....ops.arrays import Batch, Matrix, Whole
from ....ops.lapack import multiply
from ....ops.small_matrices import EPS, copy_matrix
from .step_kernels import STEP

# What a slot holds: gains, gains of an update that needed reflections, or none of an update in the
# form for many rows, which needs none.
PLAIN, HARD, MANY = 0, 1, 2
# Which gains are wanted: none, those of updates in the form for few rows, all.
NO_GAINS, SOME_GAINS, ALL_GAINS = 0, 1, 2
# Part of its reach below which a slope in a diffuse coefficient is round-off.
_NOTHING = 1e-12
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
        reach: How large each slope could be if nothing cancelled, `(n, k)`.
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
    reach: Matrix
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
def flush_slopes(rows: int, k: int, X: Matrix, reach: Matrix) -> None:
    """Clear slopes that are nothing but the round-off of terms that cancel."""
    for i in range(rows):
        for c in range(k):
            if abs(X[i, 1 + c]) <= _NOTHING * reach[i, c]:
                X[i, 1 + c] = 0.0


@njit(**STEP)
def flush_residuals(
    n: int, o: int, k: int, order: Whole, C: Matrix, e: Matrix, reach: Matrix
) -> None:
    """As `flush_slopes`, for what the observed rows make of the slopes of the state."""
    for i in range(o):
        row = order[i]
        for c in range(k):
            size = 0.0
            for j in range(n):
                size = max(size, abs(C[row, j]) * reach[j, c])
            if abs(e[i, 1 + c]) <= _NOTHING * size:
                e[i, 1 + c] = 0.0


@njit(**STEP)
def move_reach(n: int, k: int, A: Matrix, state: State, scratch: Matrix) -> None:
    """`reach = max_j |A_ij| reach_j`, or what the slopes are if that is more; flush them."""
    for i in range(n):
        for c in range(k):
            scratch[i, c] = abs(state.a[i, 1 + c])
        for j in range(n):
            weight = abs(A[i, j])
            if weight > 0.0:
                for c in range(k):
                    scratch[i, c] = max(scratch[i, c], weight * state.reach[j, c])
    copy_matrix(n, k, scratch, state.reach)
    flush_slopes(n, k, state.a, state.reach)
