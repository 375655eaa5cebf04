"""The filters of one Gaussian a mode, IMM and GPB2, compiled: see `switching_steps.py`.

Matrices of one series have the axes time (or 1), mode, row, column. Covariances are factors moved
by reflections, weights are logarithms.
"""

from __future__ import annotations

import math

import numpy as np

from ...ops.arrays import Marks, Matrices, Matrix, Space, Vector
from ...ops.cache import cached
from ...ops.small_matrices import DRIVER, FASTMATH, copy_matrix, copy_row
from ..gaussian.kernels import lay_row
from .switching_part_kernels import condition, lay_mixture, log_sum, merge, predict
from .switching_part_kernels import score as score_of

_INF = math.inf


@cached(**DRIVER)
def _unmerged(
    t: int,
    log_A: Matrix,
    parameters: Space,
    before: Space,
    y: Vector,
    seen: Marks,
    eps: float,
    scratch: Space,
) -> float:
    """Return the log-density of an observation under the Gaussians that were not merged yet."""
    A, b, LQ, C, d, LR = parameters
    W, V, work, moved, factor = scratch
    log_weight, mean, L = before
    pasts, modes, n = mean.shape
    top, share = -_INF, 0.0
    for j in range(modes):
        r, e = min(t, len(A) - 1), min(t, len(C) - 1)
        for i in range(modes):
            for h in range(pasts):
                if log_weight[h, i] + log_A[i, j] == -_INF:
                    continue
                for a in range(n):
                    moved[a] = mean[h, i, a]
                    lay_row(L[h, i, a], L[h, i, a, :0], W[a])
                predict(
                    A[r, j],
                    b[min(t, len(b) - 1), j],
                    LQ[min(t, len(LQ) - 1), j],
                    n,
                    W,
                    V,
                    moved,
                    factor,
                )
                given = moved, factor, y, seen, eps, W, work
                found = score_of(
                    C[e, j], d[min(t, len(d) - 1), j], LR[min(t, len(LR) - 1), j], *given
                )
                value = log_weight[h, i] + log_A[i, j] + found[2]
                if value > top:
                    share, top = share * math.exp(top - value) + 1.0, value
                elif value > -_INF:
                    share += math.exp(value - top)
    return top + math.log(share) if top > -_INF else -_INF


@cached(**DRIVER)
def _step_all(
    t: int,
    pasts: int,
    log_A: Matrix,
    parameters: Space,
    now: Space,
    fresh: Space,
    y: Vector,
    seen: Marks,
    eps: float,
    scratch: Space,
) -> tuple[float, bool]:
    """Condition every component; write them to `fresh`. Returns the score, and whether it is far.

    An observation that no component can emit leaves them as they are.
    """
    _, _, _, C, d, LR = parameters
    W, _, work, _, gain = scratch
    log_weight, mean, L = now
    modes, (p, n) = log_weight.shape[1], C.shape[2:]
    nearest, count = _INF, 0
    for i in range(pasts):
        for j in range(modes):
            copy_row(n, mean[i, j], fresh[1][i, j])
            emission = (
                C[min(t, len(C) - 1), j],
                d[min(t, len(d) - 1), j],
                LR[min(t, len(LR) - 1), j],
            )
            o, c, found, square = score_of(*emission, mean[i, j], L[i, j], y, seen, eps, W, work)
            fresh[0][i, j] = log_weight[i, j] + found
            nearest, count = min(nearest, square), max(count, c)
            condition(o, c, n + p, W, work[2], gain, fresh[1][i, j], L[i, j], fresh[2][i, j])
    total = -_INF
    for i in range(pasts):
        one = log_sum(fresh[0][i])
        high, low = max(one, total), min(one, total)
        total = high + math.log1p(math.exp(low - high)) if low > -_INF else high
    if total == -_INF:
        for i in range(pasts):
            copy_row(modes, log_weight[i], fresh[0][i])
            copy_matrix(modes, n, mean[i], fresh[1][i])
            for j in range(modes):
                copy_matrix(n, n, L[i, j], fresh[2][i, j])
        return total, False
    for i in range(pasts):
        for j in range(modes):
            fresh[0][i, j] -= total
    return total, count > 0 and nearest > (6.0 + math.sqrt(count)) ** 2


@cached(**DRIVER)
def _move_all(
    order: int,
    t: int,
    log_A: Matrix,
    parameters: Space,
    past: Space,
    now: Space,
    scratch: Space,
    joint: Vector,
) -> None:
    """Predict every component: one a mode for IMM, one a pair of modes for GPB2."""
    A, b, LQ, _, _, _ = parameters
    W, V, _, _, _ = scratch
    weight, mean, L = past
    modes, n = mean.shape
    for j in range(modes):
        step = A[min(t, len(A) - 1), j], b[min(t, len(b) - 1), j], LQ[min(t, len(LQ) - 1), j]
        if order == 1:
            for i in range(modes):
                joint[i] = weight[i] + log_A[i, j]
            cols = lay_mixture(joint, mean, L, W, now[1][0, j])
            now[0][0, j] = log_sum(joint)
            predict(*step, cols, W, V, now[1][0, j], now[2][0, j])
            continue
        for i in range(modes):
            now[0][i, j] = weight[i] + log_A[i, j]
            copy_row(n, mean[i], now[1][i, j])
            for a in range(n):
                for k in range(n):
                    W[a, k] = L[i, a, k]
            predict(*step, n, W, V, now[1][i, j], now[2][i, j])


@cached(error_model="numpy")
def _space(pasts: int, modes: int, n: int) -> Space:
    """Room for a mixture over pasts and modes, of which none has a weight."""
    shape = (pasts, modes)
    return np.full(shape, -_INF), np.zeros((*shape, n)), np.zeros((*shape, n, n))


@cached(error_model="numpy", fastmath=FASTMATH)
def _run(
    order: int,
    log_pi: Vector,
    log_A: Matrix,
    start: Space,
    parameters: Space,
    y: Matrix,
    seen: Marks,
    eps: float,
    predicted: Space,
    filtered: Space,
    score: Vector,
) -> bool:
    """Filter one series; return whether merging spoilt the score of a far observation."""
    (T, p), (K, n), J = y.shape, start[0].shape, 1 if order == 1 else start[0].shape[0]
    now, fresh, before = _space(J, K, n), _space(J, K, n), _space(J, K, n)
    several, wide = _space(1, K, n), max(K * (n + 1) + n, n + p)
    joint = several[0][0], several[1][0], several[2][0]
    scratch = (
        np.empty((p + n, wide)), np.empty((n, wide)), np.empty((3, p + n)), np.empty(n),
        np.empty((n, n)),
    )  # fmt: skip
    spoilt, pasts = False, 1
    for t in range(T):
        if t == 0:
            now[0][0], now[1][0], now[2][0] = log_pi, start[0], start[1]
        else:
            pasts = J
            past = filtered[0][t - 1], filtered[1][t - 1], filtered[2][t - 1]
            _move_all(order, t, log_A, parameters, past, now, scratch, joint[0])
        score[t], far = _step_all(
            t, pasts, log_A, parameters, now, fresh, y[t], seen[t], eps, scratch
        )
        if far and t > 0:
            given = y[t], seen[t], eps, scratch
            exact = _unmerged(t, log_A, parameters, before, *given)
            spoilt = spoilt or not abs(exact - score[t]) <= 1.0
        for kept, found in ((predicted, now), (filtered, fresh)):
            for j in range(K):
                target = kept[1][t, j], kept[2][t, j]
                kept[0][t, j] = merge(pasts, j, found, joint, scratch[0], *target)
        before[0][:] = -_INF
        before[0][:pasts], before[1][:pasts] = fresh[0][:pasts], fresh[1][:pasts]
        before[2][:pasts] = fresh[2][:pasts]
        if not seen[t].any():
            score[t] = 0.0
    return spoilt


@cached(error_model="numpy", fastmath=FASTMATH)
def run(
    order: int,
    log_pi: Vector,
    log_A: Matrix,
    start: Space,
    parameters: Space,
    y: Matrices,
    seen: Marks,
    eps: float,
    predicted: Space,
    filtered: Space,
    score: Matrix,
    spoilt: Marks,
) -> None:
    """Filter all series.

    Args:
        order: 1 for IMM, 2 for GPB2.
        log_pi: Log-probabilities of the first mode.
        log_A: Of the changes of mode.
        start: Means and factors, with an axis of series, or of one.
        parameters: `A`, `b`, factor of `Q`, `C`, `d`, factor of `R`, with such an axis.
        y: `(N, T, obs)`.
        seen: Which of it counts.
        eps: Rounding of the data's own type.
        predicted: Log-weights, means and factors of every mode, to write.
        filtered: The same of filtered ones.
        score: Log-likelihoods, `(N, T)`.
        spoilt: Whether merging spoilt the score of a far observation, `(N,)`.
    """
    A, b, LQ, C, d, LR = parameters
    for k in range(len(y)):
        of_series = (
            A[min(k, len(A) - 1)],
            b[min(k, len(b) - 1)],
            LQ[min(k, len(LQ) - 1)],
            C[min(k, len(C) - 1)],
            d[min(k, len(d) - 1)],
            LR[min(k, len(LR) - 1)],
        )
        first = start[0][min(k, len(start[0]) - 1)], start[1][min(k, len(start[1]) - 1)]
        kept = predicted[0][k], predicted[1][k], predicted[2][k]
        after = filtered[0][k], filtered[1][k], filtered[2][k]
        spoilt[k] = _run(
            order, log_pi, log_A, first, of_series, y[k], seen[k], eps, kept, after, score[k]
        )
