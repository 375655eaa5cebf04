"""Many series with one model and one pattern of gaps: second moments once, means side by side.

Factors and gains do not depend on the data, so they are computed for the first series alone; the
means of a block of series then move together, one lane a series.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from .kalman_backward import backward_gain, mean_map, step_maps
from .kalman_steps import (
    _HALF_LOG_2PI,
    DRIVER,
    INLINE,
    clear,
    copy_matrix,
    observed,
    pick,
    settled,
)

WIDTH = 16  # lanes of a block: a multiple of every processor's vector length


@njit(**INLINE)
def affine(rows, cols, A, x, out, sign):  # noqa: ANN001, ANN201
    """`out += sign A x` for a block of columns."""
    for i in range(rows):
        for j in range(cols):
            a = sign * A[i, j]
            for lane in range(WIDTH):
                out[i, lane] += a * x[j, lane]


@njit(**INLINE)
def affine_t(rows, cols, A, x, out, sign):  # noqa: ANN001, ANN201
    """`out += sign A' x` for a block of columns, `A` with `cols` rows."""
    for j in range(cols):
        for i in range(rows):
            a = sign * A[j, i]
            for lane in range(WIDTH):
                out[i, lane] += a * x[j, lane]


@njit(**INLINE)
def spread(rows, values, out):  # noqa: ANN001, ANN201
    """`out[:, lane] = values`."""
    for i in range(rows):
        for lane in range(WIDTH):
            out[i, lane] = values[i]


@njit(**INLINE)
def innovations(n, c, C, d, rows, chol, y, block, last, t, a, e):  # noqa: ANN001, ANN201
    """Whitened innovations of a block; lanes past the end repeat its last series."""
    for r in range(c):
        row = rows[r]
        for lane in range(WIDTH):
            e[r, lane] = y[min(block + lane, last - 1), t, row] - d[row]
        for j in range(n):
            for lane in range(WIDTH):
                e[r, lane] -= C[row, j] * a[j, lane]
        for j in range(r):
            for lane in range(WIDTH):
                e[r, lane] -= chol[r, j] * e[j, lane]
        inverse = 1.0 / chol[r, r]
        for lane in range(WIDTH):
            e[r, lane] *= inverse


@njit(**DRIVER)
def shared_forward(first, last, params, mean, pattern, y, out, store, space):  # noqa: ANN001, ANN201
    """Means, innovations and log-likelihoods of series that share `pattern`."""
    A, b, _, C, d, _ = params
    slot, G, chol, rows, count = pattern
    ll, a, m, E = out
    am, mm, e = space
    n = A.shape[3]
    for block in range(first, last, WIDTH):
        width = min(WIDTH, last - block)
        for t in range(y.shape[1]):
            i = slot[0, t]
            c = count[0, i]
            if t == 0:
                spread(n, mean[0, :, 0], am)
            else:
                spread(n, b[0, pick(t, b.shape[1])], am)
                affine(n, n, A[0, pick(t, A.shape[1])], mm, am, 1.0)
            Ct, dt = C[0, pick(t, C.shape[1])], d[0, pick(t, d.shape[1])]
            innovations(n, c, Ct, dt, rows[0, i], chol[0, i], y, block, last, t, am, e)
            copy_matrix(n, WIDTH, am, mm)
            affine(n, c, G[0, i], e, mm, 1.0)
            volume = 0.0
            for r in range(c):
                volume -= _HALF_LOG_2PI + math.log(chol[0, i, r, r])
            for lane in range(width):
                total = 0.0
                for r in range(c):
                    total += e[r, lane] * e[r, lane]
                ll[block + lane, t] = volume - 0.5 * total
            if store:
                for lane in range(width):
                    for j in range(n):
                        a[block + lane, t, j, 0] = am[j, lane]
                        m[block + lane, t, j, 0] = mm[j, lane]
                    for r in range(c):
                        E[block + lane, t, r, 0] = e[r, lane]


@njit(**DRIVER)
def backward_maps(first, last, params, y, stored, out, spaces):  # noqa: ANN001, ANN201
    """The smoother of the first series without its data: maps, factor and gain of every step."""
    A, _, LQ, C, _, R = params
    slot, L, F, G, chol, count = stored
    Z, Ze, B, factor, gain, shared = out
    space, maps = spaces
    W, x, U, _, _, _, order, old, _, _ = space
    n, p, q = A.shape[3], C.shape[2], LQ.shape[3]
    same = A.shape[1] == 1 and LQ.shape[1] == 1 and C.shape[1] == 1 and R.shape[1] == 1
    for s in range(first, last):
        steady = False
        clear(n, n, U)
        for t in range(y.shape[1] - 1, -1, -1):
            i, u = slot[s, t], t + 1
            repeats = same and t < y.shape[1] - 1 and slot[s, u] == i and count[s, i] == p
            if steady and repeats:
                shared[s, t] = shared[s, u]
                continue
            shared[s, t] = t
            if t < y.shape[1] - 1:
                j = slot[s, u]
                At, Lt = A[0, pick(u, A.shape[1])], LQ[0, pick(u, LQ.shape[1])]
                Ct, Rt = C[0, pick(u, C.shape[1])], R[0, pick(u, R.shape[1])]
                copy_matrix(n, n, U, old)
                o = observed(p, y[s, u], order)
                step_maps(
                    n, p, q, o, At, Lt, Ct, Rt, L[s, j], G[s, j], chol[s, j], U, space, Z[t],
                    Ze[t], maps[3],
                )  # fmt: skip
                for row in range(n):
                    for col in range(n):
                        U[row, col] = W[q + col, q + row] if col >= row else 0.0
                backward_gain(n, q, At, Lt, W, gain[s, t], x)
                steady = repeats and settled(n, U, old)
            mean_map(n, F[s, i], U, space, B[t], factor[s, t])


@njit(**DRIVER)
def shared_backward(first, last, maps, shared, slot, count, m, E, mean, space):  # noqa: ANN001, ANN201
    """Smoothed means of series that share `maps`."""
    Z, Ze, B = maps
    zeta, x, e = space
    n, T = m.shape[2], m.shape[1]
    for block in range(first, last, WIDTH):
        width = min(WIDTH, last - block)
        clear(n, WIDTH, zeta)
        for t in range(T - 1, -1, -1):
            i = shared[0, t]
            if t < T - 1:
                c = count[0, slot[0, t + 1]]
                for r in range(c):
                    for lane in range(width):
                        e[r, lane] = E[block + lane, t + 1, r, 0]
                clear(n, WIDTH, x)
                affine(n, n, Z[i], zeta, x, 1.0)
                affine(n, c, Ze[i], e, x, 1.0)
                copy_matrix(n, WIDTH, x, zeta)
            for j in range(n):
                for lane in range(width):
                    x[j, lane] = m[block + lane, t, j, 0]
            affine(n, n, B[i], zeta, x, 1.0)
            for lane in range(width):
                for j in range(n):
                    mean[block + lane, t, j, 0] = x[j, lane]


def lanes(*rows: int) -> tuple[np.ndarray[Any, Any], ...]:
    """Blocks of the given numbers of rows."""
    return tuple(np.zeros((size, WIDTH)) for size in rows)
