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
from ..gaussian.kernels import absorb_rows, lay_identity, lay_row, triangle

_INF = math.inf


@cached(**DRIVER)
def _log_sum(x: Vector) -> float:
    top, total = -_INF, 0.0
    for value in x:
        top = max(top, value)
    if top == -_INF:
        return -_INF
    for value in x:
        total += math.exp(value - top)
    return top + math.log(total)


@cached(**DRIVER)
def _lay_mixture(
    log_weight: Vector, mean: Matrix, factor: Matrices, W: Matrix, centre: Vector
) -> int:
    """Lay a factor of a mixture's covariance into `W`; write its mean. Returns columns."""
    parts, n = mean.shape
    total = _log_sum(log_weight)
    centre[:] = 0.0
    for i in range(parts):
        share = math.exp(log_weight[i] - total) if total > -_INF else 1.0 / parts
        for a in range(n):
            centre[a] += share * mean[i, a]
    for i in range(parts):
        share = math.exp(log_weight[i] - total) if total > -_INF else 1.0 / parts
        root = math.sqrt(share)
        for a in range(n):
            for k in range(n):
                W[a, i * n + k] = root * factor[i, a, k]
            W[a, parts * n + i] = root * (mean[i, a] - centre[a])
    return parts * (n + 1)


@cached(**DRIVER)
def _predict(
    A: Matrix, b: Vector, LQ: Matrix, cols: int, W: Matrix, V: Matrix, mean: Vector, out: Matrix
) -> None:
    """Move the Gaussian of mean `mean` and factor `W[:, :cols]`; write what comes of it."""
    n = len(b)
    for a in range(n):
        for k in range(cols):
            total = 0.0
            for c in range(n):
                total += A[a, c] * W[c, k]
            V[a, k] = total
        for k in range(n):
            V[a, cols + k] = LQ[a, k]
        total = b[a]
        for c in range(n):
            total += A[a, c] * mean[c]
        out[a, 0] = total
    for a in range(n):
        mean[a] = out[a, 0]
    triangle(0, 0, n, cols + n, V, out)


@cached(**DRIVER)
def _merge(
    pasts: int, j: int, found: Space, joint: Space, W: Matrix, centre: Vector, out: Matrix
) -> float:
    """Write mean and factor of the mixture over pasts of a mode; return its log-weight."""
    n = len(centre)
    weight, mean, L = joint
    for i in range(pasts):
        weight[i] = found[0][i, j]
        for a in range(n):
            mean[i, a] = found[1][i, j, a]
            for k in range(n):
                L[i, a, k] = found[2][i, j, a, k]
    if pasts == 1:
        for a in range(n):
            centre[a] = mean[0, a]
            for k in range(n):
                out[a, k] = L[0, a, k]
        return weight[0]
    cols = _lay_mixture(weight, mean, L, W, centre)
    triangle(0, 0, n, cols, W, out)
    return _log_sum(weight)


@cached(**DRIVER)
def _score(
    C: Matrix,
    d: Vector,
    LR: Matrix,
    mean: Vector,
    L: Matrix,
    y: Vector,
    seen: Marks,
    eps: float,
    W: Matrix,
    work: Matrix,
) -> tuple[int, int, float, float]:
    """Lay and absorb the rows of an observation.

    Returns rows, columns used, log-density and squared distance; `work[2]` holds what is white.
    """
    p, n = C.shape
    target, size, white = work[0], work[1], work[2]
    o = 0
    for i in range(p):
        if not seen[i]:
            continue
        expected = d[i]
        for a in range(n):
            expected += C[i, a] * mean[a]
        for k in range(n):
            total = 0.0
            for a in range(n):
                total += C[i, a] * L[a, k]
            W[o, k] = total
        for k in range(p):
            W[o, n + k] = LR[i, k]
        target[o] = y[i] - expected
        size[o] = 1.0 + abs(target[o]) + abs(expected)
        o += 1
    lay_identity(o, n, n + p, W)
    c, found, _, wrong = absorb_rows(o, n, n + p, 10.0 * (p + n) * eps, W, target, size, white)
    square = 0.0
    for j in range(c):
        square += white[j] * white[j]
    return o, c, -_INF if wrong else found, square


@cached(**DRIVER)
def _condition(
    o: int,
    c: int,
    cols: int,
    W: Matrix,
    white: Vector,
    gain: Matrix,
    mean: Vector,
    L: Matrix,
    out: Matrix,
) -> None:
    """Write the posterior of what `_score` absorbed: `mean` is moved, its factor goes to `out`."""
    n = len(mean)
    for i in range(n):
        moved = 0.0
        for j in range(c):
            moved += W[o + i, j] * white[j]
        for a in range(n):
            mean[a] += L[a, i] * moved
    triangle(o, c, n, cols, W, gain)
    for a in range(n):
        for k in range(n):
            total = 0.0
            for i in range(n):
                total += L[a, i] * gain[i, k]
            out[a, k] = total


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
                _predict(
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
                found = _score(
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
            o, c, found, square = _score(*emission, mean[i, j], L[i, j], y, seen, eps, W, work)
            fresh[0][i, j] = log_weight[i, j] + found
            nearest, count = min(nearest, square), max(count, c)
            _condition(o, c, n + p, W, work[2], gain, fresh[1][i, j], L[i, j], fresh[2][i, j])
    top, total = -_INF, -_INF
    for i in range(pasts):
        for j in range(modes):
            top = max(top, fresh[0][i, j])
    if top > -_INF:
        total = 0.0
        for i in range(pasts):
            for j in range(modes):
                total += math.exp(fresh[0][i, j] - top)
        total = top + math.log(total)
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
            cols = _lay_mixture(joint, mean, L, W, now[1][0, j])
            now[0][0, j] = _log_sum(joint)
            _predict(*step, cols, W, V, now[1][0, j], now[2][0, j])
            continue
        for i in range(modes):
            now[0][i, j] = weight[i] + log_A[i, j]
            copy_row(n, mean[i], now[1][i, j])
            for a in range(n):
                for k in range(n):
                    W[a, k] = L[i, a, k]
            _predict(*step, n, W, V, now[1][i, j], now[2][i, j])


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
    T, p = y.shape
    K, n = start[0].shape
    J, wide = (1 if order == 1 else K), max(K * (n + 1) + n, n + p)
    shape = (J, K)
    now = np.empty(shape), np.empty((J, K, n)), np.empty((J, K, n, n))
    fresh = np.empty(shape), np.empty((J, K, n)), np.empty((J, K, n, n))
    scratch = (
        np.empty((p + n, wide)),
        np.empty((n, wide)),
        np.empty((3, p + n)),
        np.empty(n),
        np.empty((n, n)),
    )
    before = np.full(shape, -_INF), np.empty((J, K, n)), np.empty((J, K, n, n))
    joint, spoilt, pasts = np.empty(K), False, 1
    several = np.empty(K), np.empty((K, n)), np.empty((K, n, n))
    for t in range(T):
        if t == 0:
            now[0][0], now[1][0], now[2][0] = log_pi, start[0], start[1]
        else:
            pasts = J
            past = filtered[0][t - 1], filtered[1][t - 1], filtered[2][t - 1]
            _move_all(order, t, log_A, parameters, past, now, scratch, joint)
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
                kept[0][t, j] = _merge(pasts, j, found, several, scratch[0], *target)
        before[0][:] = -_INF
        before[0][:pasts], before[1][:pasts], before[2][:pasts] = (
            fresh[0][:pasts],
            fresh[1][:pasts],
            fresh[2][:pasts],
        )
        seen_any = False
        for i in range(p):
            seen_any = seen_any or seen[t, i]
        if not seen_any:
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
