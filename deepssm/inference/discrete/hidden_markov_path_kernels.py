"""Compiled loops over paths of discrete states: the best one, and draws of the posterior."""

from __future__ import annotations

import math

import numpy as np

from ...ops.arrays import Batch, Matrices, Matrix, Vector, Whole
from ...ops.cache import cached
from .hidden_markov_kernels import log_filtered

_INF = math.inf


@cached(error_model="numpy")
def _best_move(score: Matrix, t: int, a: Matrices, r: int) -> None:
    """Write `max_i score_ti + a_rij` to row `t + 1`."""
    K, i, u = score.shape[1], 2, t + 1
    first, second, one = score[t, 0], score[t, min(1, K - 1)], min(1, K - 1)
    for j in range(K):
        x, y = first + a[r, 0, j], second + a[r, one, j]
        score[u, j] = x if x > y else y
    while i + 2 <= K:
        first, second = score[t, i], score[t, i + 1]
        for j in range(K):
            x, y = first + a[r, i, j], second + a[r, i + 1, j]
            x = x if x > y else y
            score[u, j] = x if x > score[u, j] else score[u, j]
        i += 2
    if i < K:
        for j in range(K):
            x = score[t, i] + a[r, i, j]
            score[u, j] = x if x > score[u, j] else score[u, j]


@cached(error_model="numpy")
def _take_in(b: Matrix, score: Matrix, t: int) -> bool:
    """Add the log-likelihoods of an observation, unless no state left can emit it."""
    top = -_INF
    for k in range(b.shape[1]):
        top = max(top, score[t, k] + b[t, k])
    if top == -_INF:
        return False
    for k in range(b.shape[1]):
        score[t, k] += b[t, k]
    return True


@cached(error_model="numpy")
def _decode(pi: Vector, A: Matrices, B: Matrix, score: Matrix, path: Whole) -> float:
    """Write the best path, and return its log joint density."""
    T, K = B.shape
    last, possible = A.shape[0] - 1, True
    for t in range(T):
        if t == 0:
            score[0] = pi
        else:
            _best_move(score, t - 1, A, min(t, last))
        possible = _take_in(B, score, t) and possible
    now = _largest(score[T - 1])
    best = float(score[T - 1, now]) if possible else -_INF
    for t in range(T - 1, 0, -1):
        path[t] = now
        r, top, where = min(t, last), -_INF, 0
        for i in range(K):
            x = score[t - 1, i] + A[r, i, now]
            if x > top:
                top, where = x, i
        now = where
    path[0] = now
    return best


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
    score = np.empty((T, K))
    for n in range(N):
        best[n] = _decode(pi, A[min(n, A.shape[0] - 1)], B[n], score, path[n])
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
                    log_filtered(predicted[n, t], B[n, t], total[n, t], top[n, t], weight)
                    for i in range(K):
                        weight[i] += A[s, r, i, now]
                        most = max(most, weight[i])
                    for i in range(K):
                        weight[i] = math.exp(weight[i] - most)
                now = _pick(weight, uniform[k, n, t - first])
                path[k, n, t - first] = now
