"""The compiled recursion backwards over discrete states: smoother and gradient are one.

Words and arrays are those of `hidden_markov_kernels`.
"""

from __future__ import annotations

import math

import numpy as np

from ...ops.arrays import Batch, Matrices, Matrix, Vector
from ...ops.cache import cached
from .few_states_kernels import MOST_FEW, few_backward
from .hidden_markov_kernels import SUMS, log_filtered

_INF = math.inf


@cached(error_model="numpy", fastmath=SUMS)
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


@cached(error_model="numpy", fastmath=SUMS)
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
