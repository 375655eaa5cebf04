"""Compiled recursions over discrete states: scaled probabilities, logarithms where they underflow.

A probability below `TINY` is held as its logarithm, a number below zero, and 0 means impossible:
such *signed* numbers lose nothing. A step that meets one is done in the log domain, and so is one
that all states explain badly; every other step is a product of a vector with a matrix.

`A` is `(N or 1, T or 1, K, K)`, entry `t` driving `t-1` to `t`, and `P` its exponential; `B`, the
log-likelihoods of the states, `(N, T, K)`. Loops work on the steps from `at` on.
"""

from __future__ import annotations

import math

import numpy as np

from ...ops.arrays import Batch, Matrices, Matrix, Vector
from ...ops.cache import cached

_INF = math.inf
_TINY = 1e-150
_LOG_TINY = math.log(_TINY)
# An observation's probability below this is summed in logarithms.
_LEAST = 1e-100
# Flags that let sums be done in vectors, and keep tests for NaN and infinity.
_SUMS = {"contract", "reassoc", "nsz"}


@cached(error_model="numpy")
def log_of(x: float) -> float:
    """Return the logarithm of a signed number."""
    if x > 0.0:
        return math.log(x)
    return x if x < 0.0 else -_INF


@cached(error_model="numpy")
def signed(log: float) -> float:
    """Return a logarithm as a signed number."""
    if log == -_INF:
        return 0.0
    return math.exp(log) if log >= _LOG_TINY else log


@cached(error_model="numpy")
def probability(x: float) -> float:
    """Return the probability that a signed number holds."""
    return x if x >= 0.0 else math.exp(x)


@cached(error_model="numpy")
def shift(B: Matrix, gap: Matrix, top: Vector) -> None:
    """Write the largest entry of each row to `top`, and what is below it to `gap`."""
    for t in range(B.shape[0]):
        most = -_INF
        for b in B[t]:
            most = max(most, b)
        top[t] = most if most > -_INF else 0.0
        for k in range(B.shape[1]):
            gap[t, k] = B[t, k] - top[t]


@cached(error_model="numpy", fastmath=_SUMS)
def _from_left(f: Vector, P: Matrix, out: Vector) -> float:
    """Write `f P`; return its smallest entry."""
    K, i = f.shape[0], 0
    out[:] = 0.0
    while i + 4 <= K:
        a, b, c, d = f[i], f[i + 1], f[i + 2], f[i + 3]
        for j in range(K):
            out[j] += a * P[i, j] + b * P[i + 1, j] + c * P[i + 2, j] + d * P[i + 3, j]
        i += 4
    while i < K:
        a = f[i]
        for j in range(K):
            out[j] += a * P[i, j]
        i += 1
    low = out[0]
    for x in out:
        low = min(low, x)
    return low


@cached(error_model="numpy", fastmath=_SUMS)
def _from_right(P: Matrix, r: Vector, out: Vector) -> None:
    """Write `P r`."""
    K = r.shape[0]
    for i in range(K):
        total = 0.0
        for j in range(K):
            total += P[i, j] * r[j]
        out[i] = total


@cached(error_model="numpy", fastmath=_SUMS)
def _weigh(p: Vector, e: Vector, out: Vector) -> float:
    """Write `p e` over its sum; return the sum."""
    total = 0.0
    for k in range(p.shape[0]):
        out[k] = p[k] * e[k]
        total += out[k]
    scale = 1.0 / total if total > _LEAST else 0.0
    for k in range(p.shape[0]):
        out[k] *= scale
    return total


@cached(error_model="numpy")
def _weigh_logs(p: Vector, b: Vector, out: Vector) -> tuple[float, float]:
    """Do what `_weigh` does for signed `p`; return the sum and the logarithm it is relative to."""
    top, total = -_INF, 0.0
    for k in range(p.shape[0]):
        out[k] = log_of(p[k]) + b[k]
        if math.isnan(out[k]):
            out[:] = math.nan
            return math.nan, 0.0
        top = max(top, out[k])
    if top == -_INF:  # an impossible observation: go on as if it were missing
        for k in range(p.shape[0]):
            out[k] = probability(p[k])
        return 0.0, 0.0
    for k in range(p.shape[0]):
        out[k] = math.exp(out[k] - top)
        total += out[k]
    for k in range(p.shape[0]):
        out[k] /= total
    return total, top


@cached(error_model="numpy")
def log_filtered(p: float, b: float, total: float, top: float) -> float:
    """Return the log filtered probability of a state from its signed prediction."""
    if total == 0.0:
        return log_of(p)
    return log_of(p) + b - math.log(total) - top


@cached(error_model="numpy")
def _mend(out: Vector, a: Matrix, before: Vector, b: Vector, total: float, top: float) -> bool:
    """Predict states below `TINY` anew, in logarithms; return whether any is still below."""
    K, hard = out.shape[0], False
    for j in range(K):
        if out[j] >= _TINY:
            continue
        most, share = -_INF, 0.0
        for i in range(K):
            if a[i, j] > -_INF and before[i] != 0.0:
                value = log_filtered(before[i], b[i], total, top) + a[i, j]
                if value > most:
                    share, most = share * math.exp(most - value) + 1.0, value
                elif value > -_INF:
                    share += math.exp(value - most)
        out[j] = signed(most + math.log(share)) if most > -_INF else 0.0
        hard = hard or out[j] < 0.0
    return hard


@cached(error_model="numpy")
def forward(
    at: int,
    A: Batch,
    P: Batch,
    B: Matrices,
    E: Matrices,
    predicted: Matrices,
    filtered: Matrices,
    total: Matrix,
    top: Matrix,
    keep: bool,
) -> bool:
    """Filter the steps from `at` on; `exp(B - top)` is `E`, and `total exp(top)` the evidence.

    `predicted`, `(N, steps + 1, K)`, holds signed numbers: its first row is given, its last is the
    prediction of what follows, if the series goes on. Where nothing is kept, `predicted` and
    `filtered` have two rows, used in turn. Returns whether any prediction is a logarithm.
    """
    N, steps, _ = B.shape
    ever = False
    for n in range(N):
        hard = True  # the first prediction may hold logarithms
        ever = ever or predicted[n, 0].min() < 0.0
        for t in range(steps):
            now = t if keep else t % 2
            after = t + 1 if keep else 1 - now
            p, f = predicted[n, now], filtered[n, now]
            if not hard:
                total[n, t] = _weigh(p, E[n, t], f)
            if hard or not total[n, t] > _LEAST:
                total[n, t], top[n, t] = _weigh_logs(p, B[n, t], f)
            hard = False
            if after < predicted.shape[1] and (A.shape[1] == 1 or at + t + 1 < A.shape[1]):
                s, r = min(n, A.shape[0] - 1), min(at + t + 1, A.shape[1] - 1)
                low = _from_left(f, P[s, r], predicted[n, after])
                if not low >= _TINY:
                    hard = _mend(predicted[n, after], A[s, r], p, B[n, t], total[n, t], top[n, t])
                    ever = ever or hard
    return ever


@cached(error_model="numpy")
def _ratios(v: Vector, p: Vector, out: Vector) -> bool:
    """Write `v / p`, 0 where a prediction is a logarithm; return whether one of these counts."""
    hard = False
    for j in range(v.shape[0]):
        if p[j] > 0.0:
            out[j] = v[j] / p[j]
        else:
            out[j] = 0.0
            hard = hard or (p[j] < 0.0 and v[j] != 0.0)
    return hard


@cached(error_model="numpy")
def _back_logs(
    v: Vector,
    after: Vector,
    a: Matrix,
    before: Matrix,
    total: float,
    top: float,
    F: Vector,
    d_a: Matrix,
) -> None:
    """Add to `F` and `d_a` what goes back through states whose prediction is a logarithm.

    `before` holds the signed prediction and the log-likelihoods of the step before.
    """
    K = v.shape[0]
    for j in range(K):
        if after[j] >= 0.0 or v[j] == 0.0:
            continue
        for i in range(K):
            if a[i, j] == -_INF or before[0, i] == 0.0:
                continue
            now = log_filtered(before[0, i], before[1, i], total, top)
            part = v[j] * math.exp(now + a[i, j] - after[j])
            F[i] += part
            if d_a.size:
                d_a[i, j] += part


@cached(error_model="numpy")
def backward(
    gradient: bool,
    at: int,
    A: Batch,
    P: Batch,
    B: Matrices,
    predicted: Matrices,
    filtered: Matrices,
    total: Matrix,
    top: Matrix,
    weight: Matrix,
    carry: Matrix,
    ended: bool,
    v: Matrices,
    ratio: Matrices,
    d_A: Batch,
) -> None:
    """Write the gradient of `sum weight * score` in `B` to `v`; with weights one, it smooths.

    That in `A` is `P` times the sum of `filtered ratio'`, plus what is added to `d_A` here.

    Args:
        gradient: Give impossible observations no part; else they count as missing.
        at: First step.
        A: Log transition matrices.
        P: Their exponential.
        B: Log-likelihoods of the states.
        predicted: Signed predictions, `(N, steps + 1, K)`, as the next three those of `forward`.
        filtered: Filtered probabilities.
        total: Evidence.
        top: Its logarithmic scale.
        weight: `(N, steps)`.
        carry: `v` of the step that follows, `(N, K)`; that of the first step on return.
        ended: Nothing follows.
        v: `(N, steps, K)`.
        ratio: `v / predicted` of the step after each, `(N, steps, K)`.
        d_A: Where to add, indexed as `A`, or empty.
    """
    N, steps, K = v.shape
    F, both, none = np.zeros(K), np.empty((2, K)), np.empty((0, 0))
    for n in range(N):
        for t in range(steps - 1, -1, -1):
            F[:] = 0.0
            ratio[n, t] = 0.0
            if t < steps - 1 or not ended:
                s, r = min(n, A.shape[0] - 1), min(at + t + 1, A.shape[1] - 1)
                hard = _ratios(carry[n], predicted[n, t + 1], ratio[n, t])
                _from_right(P[s, r], ratio[n, t], F)
                F *= filtered[n, t]
                if hard:
                    both[0], both[1] = predicted[n, t], B[n, t]
                    d = none
                    if d_A.size:
                        d = d_A[min(n, d_A.shape[0] - 1), min(at + t + 1, d_A.shape[1] - 1)]
                    _back_logs(
                        carry[n], predicted[n, t + 1], A[s, r], both, total[n, t], top[n, t], F, d
                    )
            if gradient and total[n, t] == 0.0:
                carry[n] = F
                v[n, t] = 0.0
            else:
                carry[n] = F + (weight[n, t] - F.sum()) * filtered[n, t]
                v[n, t] = carry[n]
