"""Compiled loops over paths of discrete states: the best one, and draws of the posterior."""

from __future__ import annotations

import math

import numpy as np

from ...ops.arrays import Batch, Matrices, Matrix, Vector, Whole
from ...ops.cache import cached
from .hidden_markov_kernels import log_filtered

_INF = math.inf


@cached(error_model="numpy")
def _best_move(now: Vector, a: Matrix, out: Vector) -> None:
    """Write `max_i now_i + a_ij`."""
    K, i = now.shape[0], 2
    first, second = now[0], now[min(1, K - 1)]
    for j in range(K):
        x, y = first + a[0, j], second + a[min(1, K - 1), j]
        out[j] = x if x > y else y
    while i + 2 <= K:
        first, second = now[i], now[i + 1]
        for j in range(K):
            x, y = first + a[i, j], second + a[i + 1, j]
            x = x if x > y else y
            out[j] = x if x > out[j] else out[j]
        i += 2
    if i < K:
        for j in range(K):
            x = now[i] + a[i, j]
            out[j] = x if x > out[j] else out[j]


@cached(error_model="numpy")
def _take_in(b: Vector, out: Vector) -> bool:
    """Add the log-likelihoods of an observation, unless no state left can emit it."""
    top = -_INF
    for k in range(b.shape[0]):
        top = max(top, out[k] + b[k])
    if top == -_INF:
        return False
    for k in range(b.shape[0]):
        out[k] += b[k]
    return True


@cached(error_model="numpy")
def _largest(x: Vector) -> int:
    top, where = -_INF, 0
    for i in range(x.shape[0]):
        if x[i] > top:
            top, where = x[i], i
    return where


@cached(error_model="numpy")
def viterbi(pi: Vector, A: Batch, B: Matrices) -> tuple[Whole, Vector]:
    """Return the most probable path, `(N, T)`, and its log joint density, `(N,)`.

    An observation that no state emits makes the density zero, and says nothing of the path.
    """
    N, T, K = B.shape
    path, best = np.empty((N, T), np.int64), np.empty(N)
    score, work = np.empty((T, K)), np.empty(K)
    for n in range(N):
        s, possible = min(n, A.shape[0] - 1), True
        for t in range(T):
            if t == 0:
                score[0] = pi
            else:
                _best_move(score[t - 1], A[s, min(t, A.shape[1] - 1)], score[t])
            possible = _take_in(B[n, t], score[t]) and possible
        last = _largest(score[T - 1])
        best[n] = score[T - 1, last] if possible else -_INF
        for t in range(T - 1, 0, -1):
            path[n, t] = last
            a = A[s, min(t, A.shape[1] - 1)]
            for i in range(K):
                work[i] = score[t - 1, i] + a[i, last]
            last = _largest(work)
        path[n, 0] = last
    return path, best


@cached(error_model="numpy")
def _pick(weight: Vector, u: float) -> int:
    """Return an index in proportion to weights, of which zeros are never taken."""
    left, last = u * weight.sum(), 0
    for i in range(weight.shape[0]):
        if weight[i] > 0.0:
            last = i
            if left < weight[i]:
                return i
            left -= weight[i]
    return last


@cached(error_model="numpy")
def draw(
    first: int,
    A: Batch,
    P: Batch,
    B: Matrices,
    predicted: Matrices,
    filtered: Matrices,
    total: Matrix,
    top: Matrix,
    uniform: Batch,
    path: Whole,
) -> None:
    """Draw paths of the steps from `first` on, backwards in time.

    Args:
        first: First step.
        A: Log transition matrices, as all from here to `top` those of `forward`.
        P: Their exponential.
        B: Log-likelihoods of the states.
        predicted: Signed predictions of all steps.
        filtered: Filtered probabilities of all steps.
        total: Evidence.
        top: Its logarithmic scale.
        uniform: Random numbers, `(samples, N, T - first)`.
        path: Where to write, of the same shape.
    """
    samples, N, steps = uniform.shape
    K = B.shape[2]
    weight = np.empty(K)
    for k in range(samples):
        for n in range(N):
            now = _pick(filtered[n, first + steps - 1], uniform[k, n, steps - 1])
            path[k, n, steps - 1] = now
            for t in range(first + steps - 2, first - 1, -1):
                s, r = min(n, A.shape[0] - 1), min(t + 1, A.shape[1] - 1)
                if predicted[n, t + 1, now] > 0.0:
                    for i in range(K):
                        weight[i] = filtered[n, t, i] * P[s, r, i, now]
                else:
                    most = -_INF
                    for i in range(K):
                        x = log_filtered(predicted[n, t, i], B[n, t, i], total[n, t], top[n, t])
                        weight[i] = x + A[s, r, i, now]
                        most = max(most, weight[i])
                    for i in range(K):
                        weight[i] = math.exp(weight[i] - most)
                now = _pick(weight, uniform[k, n, t - first])
                path[k, n, t - first] = now
