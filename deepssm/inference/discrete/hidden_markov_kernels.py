"""Compiled recursions over discrete states: scaled probabilities, logarithms where they underflow.

A prediction too small for what was rounded to zero before it is held as its logarithm, a number
below zero, and 0 means impossible: such *signed* numbers lose nothing. A step that meets one is
done in the log domain, and so is one that all states explain badly; every other step is a product
of a vector with a matrix.

What is rounded to zero is below 1e-308, over the evidence of its step once it is scaled. So a
prediction above 1e-292 over that evidence is right to 1e-16, and so is what is divided by it.

`A` is `(N or 1, T or 1, K, K)`, entry `t` driving `t-1` to `t`, and `P` its exponential; `B`, the
log-likelihoods of the states, `(N, T, K)`. Loops work on the steps from `at` on.
"""

from __future__ import annotations

import math

import numpy as np

from ...ops.arrays import Batch, Matrices, Matrix, Vector
from ...ops.cache import cached
from .few_states_kernels import LEAST as _LEAST
from .few_states_kernels import MOST_FEW, few_backward, few_forward
from .few_states_kernels import TINY as _TINY

_INF = math.inf
# Terms so many nats below the largest one do not change a sum.
_NOTHING = 45.0
# Flags that let sums be done in vectors, and keep tests for NaN and infinity.
_SUMS = {"contract", "reassoc", "nsz"}


@cached(error_model="numpy")
def log_of(x: float) -> float:
    """Return the logarithm of a signed number."""
    if x > 0.0:
        return math.log(x)
    return x if x < 0.0 else -_INF


@cached(error_model="numpy")
def signed(log: float, least: float = _TINY) -> float:
    """Return a logarithm as a signed number, `least` being the smallest that is a probability."""
    if log == -_INF:
        return 0.0
    value = math.exp(log)
    return value if value >= least else log


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
def _from_left(f: Matrix, t: int, P: Matrices, r: int, out: Matrix, u: int) -> float:
    """Write `f_t P_r` to row `u`; return its smallest entry."""
    K, i = f.shape[1], 4
    if K < 4:
        low = _INF
        for j in range(K):
            total = 0.0
            for k in range(K):
                total += f[t, k] * P[r, k, j]
            out[u, j] = total
            low = min(low, total)
        return low
    a, b, c, d = f[t, 0], f[t, 1], f[t, 2], f[t, 3]
    for j in range(K):
        out[u, j] = a * P[r, 0, j] + b * P[r, 1, j] + c * P[r, 2, j] + d * P[r, 3, j]
    while i + 4 <= K:
        a, b, c, d = f[t, i], f[t, i + 1], f[t, i + 2], f[t, i + 3]
        for j in range(K):
            out[u, j] += (
                a * P[r, i, j] + b * P[r, i + 1, j] + c * P[r, i + 2, j] + d * P[r, i + 3, j]
            )
        i += 4
    while i < K:
        a = f[t, i]
        for j in range(K):
            out[u, j] += a * P[r, i, j]
        i += 1
    low = _INF
    for j in range(K):
        low = min(low, out[u, j])
    return low


@cached(error_model="numpy", fastmath=_SUMS)
def _from_right(P: Matrices, r: int, x: Matrix, t: int, f: Matrix, out: Vector) -> float:
    """Write `f_t` times `P_r x_t`; return its sum."""
    K, whole = f.shape[1], 0.0
    for i in range(K):
        total = 0.0
        for j in range(K):
            total += P[r, i, j] * x[t, j]
        out[i] = total * f[t, i]
        whole += out[i]
    return whole


@cached(error_model="numpy", fastmath=_SUMS)
def _weigh(p: Matrix, now: int, e: Matrix, t: int, out: Matrix) -> float:
    """Write `p e` over its sum; return the sum."""
    total = 0.0
    for k in range(p.shape[1]):
        out[now, k] = p[now, k] * e[t, k]
        total += out[now, k]
    scale = 1.0 / total
    for k in range(p.shape[1]):
        out[now, k] *= scale
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
def log_filtered(p: Vector, b: Vector, total: float, top: float, out: Vector) -> None:
    """Write the logarithms of filtered probabilities, from signed predictions."""
    for i in range(p.shape[0]):
        out[i] = log_of(p[i])
        if total != 0.0 and out[i] > -_INF:
            out[i] += b[i] - math.log(total) - top


@cached(error_model="numpy")
def _mend(out: Vector, a: Matrix, log: Vector, least: float) -> bool:
    """Predict states below `least` anew from log filtered probabilities.

    Returns whether any of them is held as a logarithm now.
    """
    K, hard = out.shape[0], False
    for j in range(K):
        if out[j] >= least:
            continue
        top, share = -_INF, 0.0
        for i in range(K):
            top = max(top, log[i] + a[i, j])
        if top == -_INF:
            out[j] = 0.0
            continue
        for i in range(K):
            below = log[i] + a[i, j] - top
            if below > -_NOTHING:
                share += math.exp(below)
        out[j] = signed(top + math.log(share), least)
        hard = hard or out[j] < 0.0
    return hard


@cached(error_model="numpy")
def _forward(
    at: int,
    A: Matrices,
    P: Matrices,
    B: Matrix,
    E: Matrix,
    predicted: Matrix,
    filtered: Matrix,
    total: Vector,
    top: Vector,
    keep: bool,
) -> bool:
    steps, last, log = B.shape[0], A.shape[0] - 1, np.empty(B.shape[1])
    hard = True  # the first prediction may hold logarithms
    ever = predicted[0].min() < 0.0
    few, t = B.shape[1] <= MOST_FEW and last == 0, 0
    while t < steps:
        if few and not hard:
            t = few_forward(t, P, E, predicted, filtered, total, keep)
            if t == steps:
                break
        now, after = (t, t + 1) if keep else (t % 2, 1 - t % 2)
        least = _TINY
        if not hard:
            total[t] = _weigh(predicted, now, E, t, filtered)
            least = _TINY / min(total[t], 1.0)
        if hard or not total[t] > _LEAST:
            total[t], top[t] = _weigh_logs(predicted[now], B[t], filtered[now])
            least = _TINY
        hard = False
        if last == 0 or at + t < last:
            r = 0 if last == 0 else at + t + 1
            low = _from_left(filtered, now, P, r, predicted, after)
            if not low >= least:
                log_filtered(predicted[now], B[t], total[t], top[t], log)
                hard = _mend(predicted[after], A[r], log, least)
                ever = ever or hard
        t += 1
    return ever


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
    ever = False
    for n in range(B.shape[0]):
        s = min(n, A.shape[0] - 1)
        of_n = B[n], E[n], predicted[n], filtered[n], total[n], top[n]
        ever = _forward(at, A[s], P[s], *of_n, keep) or ever
    return ever


@cached(error_model="numpy")
def _ratios(v: Vector, p: Matrix, u: int, out: Matrix, t: int) -> bool:
    """Write `v / p_u`, 0 where a prediction is a logarithm; return whether one of these counts."""
    hard = False
    for j in range(v.shape[0]):
        if p[u, j] > 0.0:
            out[t, j] = v[j] / p[u, j]
        else:
            out[t, j] = 0.0
            hard = hard or (p[u, j] < 0.0 and v[j] != 0.0)
    return hard


@cached(error_model="numpy")
def _back_logs(v: Vector, after: Vector, a: Matrix, log: Vector, F: Vector, d_a: Matrix) -> float:
    """Add to `F` and `d_a` what goes back through states whose prediction is a logarithm.

    `log` holds log filtered probabilities of the step before. Returns the sum of what is added.
    """
    K, whole = v.shape[0], 0.0
    for j in range(K):
        if after[j] >= 0.0 or v[j] == 0.0:
            continue
        for i in range(K):
            share = log[i] + a[i, j] - after[j]
            if share > -700.0:
                part = v[j] * math.exp(share)
                F[i] += part
                whole += part
                if d_a.size:
                    d_a[i, j] += part
    return whole


@cached(error_model="numpy", fastmath=_SUMS)
def _share_out(v: Vector, F: Vector, rest: float, f: Matrix, t: int, out: Matrix) -> None:
    """Write `F + rest f_t` to `v` and to row `t`."""
    for k in range(v.shape[0]):
        v[k] = F[k] + rest * f[t, k]
        out[t, k] = v[k]


@cached(error_model="numpy")
def _backward(
    gradient: bool,
    at: int,
    A: Matrices,
    P: Matrices,
    B: Matrix,
    predicted: Matrix,
    filtered: Matrix,
    total: Vector,
    top: Vector,
    weight: Vector,
    carry: Vector,
    ended: bool,
    v: Matrix,
    ratio: Matrix,
    d_A: Matrices,
) -> None:
    steps, K = v.shape
    F, log, none = np.zeros(K), np.empty(K), np.empty((0, 0))
    few, t = K <= MOST_FEW and A.shape[0] == 1, steps
    while t > 0:
        if few and (t < steps or not ended):
            t = few_backward(t, gradient, P, predicted, filtered, total, weight, carry, v, ratio)
            if t == 0:
                break
        t -= 1
        whole = 0.0
        if t == steps - 1 and ended:
            F[:] = 0.0
            ratio[t] = 0.0
        else:
            r = min(at + t + 1, A.shape[0] - 1)
            hard = _ratios(carry, predicted, t + 1, ratio, t)
            whole = _from_right(P, r, ratio, t, filtered, F)
            if hard:
                log_filtered(predicted[t], B[t], total[t], top[t], log)
                d = d_A[min(at + t + 1, d_A.shape[0] - 1)] if d_A.size else none
                whole += _back_logs(carry, predicted[t + 1], A[r], log, F, d)
        if gradient and total[t] == 0.0:
            _share_out(carry, F, 0.0, filtered, t, v)
            v[t] = 0.0
        else:
            _share_out(carry, F, weight[t] - whole, filtered, t, v)


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
    for n in range(v.shape[0]):
        s = min(n, A.shape[0] - 1)
        given = B[n], predicted[n], filtered[n], total[n], top[n], weight[n], carry[n]
        d = d_A[min(n, d_A.shape[0] - 1)] if d_A.size else np.empty((0, 0, 0))
        _backward(gradient, at, A[s], P[s], *given, ended, v[n], ratio[n], d)
