"""The forward pass of the square-root Kalman filter as one compiled loop over a series.

`forward_kernel(sizes)` closes over the sizes, so that the compiler sees constants; what it
compiles is cached on disk. All arrays are float64 and C-contiguous. A parameter array has leading
axes `(series or 1, time or 1)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from numba import njit

from .kalman_steps import (
    _EPS,
    _FAST,
    _HALF_LOG_2PI,
    absorb,
    innovate,
    load_update,
    predict_factor,
    predict_mean,
    reflect,
    triangularize_rows,
)


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
def whiten(
    n: int,
    k: int,
    o: int,
    C: np.ndarray,
    d: np.ndarray,
    y: np.ndarray,
    a: np.ndarray,
    order: np.ndarray,
    kept: np.ndarray,
    W: np.ndarray,
    E: np.ndarray,
) -> float:
    """Whitened innovations, `S^(-1/2) v`; returns `-inf` when a noiseless row is contradicted."""
    c, ll = 0, 0.0
    for i in range(o):
        row, v = order[i], E[c]
        innovate(n, k, C, d, y, a, row, v)
        size = abs(y[row]) + abs(d[row])
        for j in range(n):
            size += abs(C[row, j] * a[j, 0])
        for m in range(c):
            for col in range(1 + k):
                v[col] -= W[i, m] * E[m, col]
            size += abs(W[i, m] * E[m, 0])
        if kept[i]:
            for col in range(1 + k):
                v[col] /= W[i, c]
            ll -= _HALF_LOG_2PI + math.log(W[i, c])
            c += 1
        elif abs(v[0]) > 1e6 * _EPS * size:
            ll = -np.inf
    return ll


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
def finish_update(
    n: int,
    k: int,
    o: int,
    c: int,
    a: np.ndarray,
    E: np.ndarray,
    W: np.ndarray,
    m: np.ndarray,
    F: np.ndarray,
    G: np.ndarray,
) -> None:
    """Read gain `G`, filtered mean `m = a + G e` and filtered factor `F` off the array `W`."""
    for i in range(n):
        for j in range(c):
            G[i, j] = W[o + i, j]
        for col in range(1 + k):
            total = a[i, col]
            for j in range(c):
                total += W[o + i, j] * E[j, col]
            m[i, col] = total
    if c < o:
        for i in range(n):
            reflect(W, o + i, c + i, o + n, n + o)
    for i in range(n):
        for j in range(n):
            F[i, j] = W[o + i, c + j]


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
def settled(n: int, L: np.ndarray, old: np.ndarray) -> bool:
    """True when a factor repeats itself to round-off, row by row, hence in any units."""
    for i in range(n):
        square, change = 0.0, 0.0
        for j in range(i + 1):
            square += L[i, j] * L[i, j]
            change = max(change, abs(L[i, j] - old[i, j]))
        if change > _EPS * math.sqrt(square):
            return False
    return True


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
def copy_matrix(rows: int, cols: int, source: np.ndarray, target: np.ndarray) -> None:
    """`target[:rows, :cols] = source[:rows, :cols]`."""
    for i in range(rows):
        for j in range(cols):
            target[i, j] = source[i, j]


@njit(forceinline=True)
def at(array: np.ndarray, t: int) -> np.ndarray:
    """Entry `t` of a parameter that has one entry a step, or a single one."""
    return array[t if array.shape[0] > 1 else 0]


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
def update(n, p, k, C, d, R, y, a, L, m, F, G, chol, E, rows, U, W, order, kept):  # noqa: ANN001, ANN201
    """Condition on one observation; return the number of pivots, log-density, smallest pivot."""
    o = load_update(n, p, C, R, y, L, order, W)
    if o == 0:
        copy_matrix(n, 1 + k, a, m)
        copy_matrix(n, n, L, F)
        return 0, 0.0, 1.0
    for i in range(o):
        rows[i] = order[i]
    c, worst = triangularize_rows(n, o, W, rows, chol, kept)
    ll = whiten(n, k, o, C, d, y, a, order, kept, W, E)
    for j in range(c):
        ll += absorb(U, k, E[j]) if k > 0 else -0.5 * E[j, 0] * E[j, 0]
    finish_update(n, k, o, c, a, E, W, m, F, G)
    return c, ll, worst


@cache
def forward_kernel(sizes: tuple[int, int, int, int] | None = None) -> Callable[..., None]:
    """Compile the filter, for any sizes or, faster, for `sizes = (n, p, k, q)` alone.

    Args:
        sizes: States, observations, diffuse terms and noise directions as compile-time constants.
    """
    fixed = sizes is not None
    N, P, K, Q = sizes if sizes is not None else (0, 0, 0, 0)

    @njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
    def forward(first, last, params, start, y, out, store):  # noqa: ANN001, ANN202
        A, b, LQ, C, d, R = params
        m0, L0 = start
        ll, a, L, m, F, G, chol, E, rows, count, info, worst = out
        n, p = (N, P) if fixed else (C.shape[3], C.shape[2])
        k, q = (K, Q) if fixed else (info.shape[2], LQ.shape[3])
        W, U = np.zeros((p + n, n + max(p, q))), np.zeros((k + 1, k + 1))
        order, kept = np.zeros(p, np.int64), np.zeros(p, np.bool_)
        for s in range(first, last):
            U[:] = 0.0
            i = 0
            copy_matrix(n, 1 + k, at(m0, s), a[s, 0])
            copy_matrix(n, n, at(L0, s), L[s, 0])
            for t in range(y.shape[1]):
                if t > 0:
                    At, j = at(at(A, s), t), i
                    i = t if store else 0
                    predict_mean(n, k, At, at(at(b, s), t), m[s, j], a[s, i])
                    predict_factor(n, q, At, F[s, j], at(at(LQ, s), t), W, L[s, i])
                count[s, i], ll[s, t], pivot = update(
                    n, p, k, at(at(C, s), t), at(at(d, s), t), at(at(R, s), t), y[s, t], a[s, i],
                    L[s, i], m[s, i], F[s, i], G[s, i], chol[s, i], E[s, i], rows[s, i], U, W,
                    order, kept,
                )  # fmt: skip
                worst[s] = min(worst[s], pivot)
                if k > 0:
                    copy_matrix(k, k + 1, U, info[s, i])

    return forward


@njit(forceinline=True)
def latest(array: np.ndarray) -> np.ndarray:
    """The last entry of a parameter of the first series."""
    return array[0, array.shape[1] - 1]


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def predict_once(params, out):  # noqa: ANN001, ANN201
    """Move the state in slot 0 one step; it becomes both predicted and filtered."""
    A, b, LQ, _, _, _ = params
    _, a, L, m, F, _, _, _, _, _, _, _ = out
    n, q, k = A.shape[3], LQ.shape[3], m.shape[3] - 1
    predict_mean(n, k, latest(A), latest(b), m[0, 0], a[0, 0])
    predict_factor(n, q, latest(A), F[0, 0], latest(LQ), np.zeros((n, n + q)), L[0, 0])
    copy_matrix(n, 1 + k, a[0, 0], m[0, 0])
    copy_matrix(n, n, L[0, 0], F[0, 0])


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def update_once(params, y, out):  # noqa: ANN001, ANN201
    """Condition the state in slot 0 on one observation; return its log-density."""
    _, _, _, C, d, R = params
    _, a, L, m, F, G, chol, E, rows, count, info, _ = out
    n, p, k = C.shape[3], C.shape[2], m.shape[3] - 1
    W, U = np.zeros((p + n, n + p)), np.zeros((k + 1, k + 1))
    copy_matrix(k, k + 1, info[0, 0], U)
    count[0, 0], ll, _ = update(
        n, p, k, latest(C), latest(d), latest(R), y, a[0, 0], L[0, 0], m[0, 0], F[0, 0], G[0, 0],
        chol[0, 0], E[0, 0], rows[0, 0], U, W, np.zeros(p, np.int64), np.zeros(p, np.bool_),
    )  # fmt: skip
    copy_matrix(k, k + 1, U, info[0, 0])
    copy_matrix(n, 1 + k, m[0, 0], a[0, 0])
    copy_matrix(n, n, F[0, 0], L[0, 0])
    return ll
