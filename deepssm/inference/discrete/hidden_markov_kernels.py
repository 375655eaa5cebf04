"""Compiled recursions over discrete states, in the log domain: nothing can underflow.

`A` is `(N or 1, T or 1, K, K)`, entry `t` driving `t-1` to `t`; `B` is `(N, T, K)`; `pi` `(K,)`.
"""

from __future__ import annotations

import math

import numpy as np

from ...ops.arrays import Batch, Matrices, Matrix, Vector, Whole
from ...ops.cache import cached

_INF = math.inf


@cached(error_model="numpy")
def _log_sum(x: Vector) -> float:
    top = -_INF
    for value in x:
        top = max(top, value)
    if top == -_INF:
        return -_INF
    total = 0.0
    for value in x:
        total += math.exp(value - top)
    return top + math.log(total)


@cached(error_model="numpy")
def forward(pi: Vector, A: Batch, B: Matrices) -> tuple[Matrices, Matrices, Matrix]:
    """Return log predicted, log filtered, `(N, T, K)`, and log-likelihood, `(N, T)`."""
    N, T, K = B.shape
    predicted, filtered = np.empty((N, T, K)), np.empty((N, T, K))
    score, work = np.empty((N, T)), np.empty(K)
    for n in range(N):
        for t in range(T):
            if t == 0:
                predicted[n, 0] = pi
            else:
                a = A[min(n, A.shape[0] - 1), min(t, A.shape[1] - 1)]
                for j in range(K):
                    for i in range(K):
                        work[i] = filtered[n, t - 1, i] + a[i, j]
                    predicted[n, t, j] = _log_sum(work)
            for j in range(K):
                work[j] = predicted[n, t, j] + B[n, t, j]
            score[n, t] = _log_sum(work)
            if score[n, t] == -_INF:  # an impossible observation: go on as if it were missing
                filtered[n, t] = predicted[n, t]
            else:
                filtered[n, t] = work - score[n, t]
    return predicted, filtered, score


@cached(error_model="numpy")
def backward(A: Batch, predicted: Matrices, filtered: Matrices, pairs: Batch) -> Matrices:
    """Return log smoothed; fill `pairs`, `(N, T, K, K)` or empty, with `p(z_{t-1}, z_t | y)`."""
    N, T, K = filtered.shape
    smoothed, work = np.empty((N, T, K)), np.empty(K)
    for n in range(N):
        smoothed[n, T - 1] = filtered[n, T - 1]
        for t in range(T - 1, 0, -1):
            a = A[min(n, A.shape[0] - 1), min(t, A.shape[1] - 1)]
            for i in range(K):
                for j in range(K):
                    later = smoothed[n, t, j]
                    if later == -_INF:
                        work[j] = -_INF
                    else:
                        work[j] = filtered[n, t - 1, i] + a[i, j] + later - predicted[n, t, j]
                    if pairs.size:
                        pairs[n, t, i, j] = math.exp(work[j])
                smoothed[n, t - 1, i] = _log_sum(work)
    return smoothed


@cached(error_model="numpy")
def adjoint(
    A: Batch, predicted: Matrices, filtered: Matrices, weight: Matrix
) -> tuple[Vector, Batch, Matrices]:
    """Return the gradients of `sum weight * score` in `pi`, `A` and `B`."""
    N, T, K = filtered.shape
    d_pi, d_A, d_B = np.zeros(K), np.zeros(A.shape), np.empty((N, T, K))
    f, v = np.empty(K), np.empty(K)
    for n in range(N):
        f[:] = 0.0
        for t in range(T - 1, -1, -1):
            total = 0.0
            for j in range(K):
                total += f[j]
            for j in range(K):
                v[j] = f[j] + (weight[n, t] - total) * math.exp(filtered[n, t, j])
                d_B[n, t, j] = v[j]
            f[:] = 0.0
            if t == 0:
                d_pi += v
                break
            s, r = min(n, A.shape[0] - 1), min(t, A.shape[1] - 1)
            for j in range(K):
                if predicted[n, t, j] == -_INF or v[j] == 0.0:
                    continue
                for i in range(K):
                    share = filtered[n, t - 1, i] + A[s, r, i, j] - predicted[n, t, j]
                    part = v[j] * math.exp(share)
                    d_A[s, r, i, j] += part
                    f[i] += part
    return d_pi, d_A, d_B


@cached(error_model="numpy")
def viterbi(pi: Vector, A: Batch, B: Matrices) -> tuple[Whole, Vector]:
    """Return the most probable path, `(N, T)`, and its log joint density, `(N,)`."""
    N, T, K = B.shape
    path, best = np.empty((N, T), np.int64), np.empty(N)
    back = np.empty((T, K), np.int32)
    now, new = np.empty(K), np.empty(K)
    for n in range(N):
        now[:] = pi + B[n, 0]
        for t in range(1, T):
            a = A[min(n, A.shape[0] - 1), min(t, A.shape[1] - 1)]
            for j in range(K):
                top, where = -_INF, 0
                for i in range(K):
                    value = now[i] + a[i, j]
                    if value > top:
                        top, where = value, i
                back[t, j] = where
                new[j] = top + B[n, t, j]
            now[:] = new
        last = int(np.argmax(now))
        best[n] = now[last]
        for t in range(T - 1, -1, -1):
            path[n, t] = last
            last = back[t, last]
    return path, best
