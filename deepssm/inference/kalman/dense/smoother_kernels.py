"""The two-filter smoother of larger states by reflections: nothing is subtracted or inverted.

The future is carried as whitened equations `U (z_t - m_t) = zeta`, as in `cpu/scalar/smoother.py`.

Source: Bierman (1977), Factorization Methods for Discrete Sequential Estimation, ch. X.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ....ops.arrays import Arrays, Matrices, Matrix, Space, Vector, Whole
from ....ops.cache import cached
from ....ops.lapack import (
    BLOCK,
    apply_stack,
    lower_factor,
    multiply,
    solve_lower_right,
    stack_lower,
)
from ....ops.small_matrices import DRIVER, pick
from ..cpu.scalar.predict import observed
from .state_kernels import Model, residuals
from .step_kernels import STEP, set_identity, transposed_times, whiten, whiten_apart


def smoother_space(n: int, p: int) -> tuple[np.ndarray, ...]:
    """Scratch arrays of the smoother."""
    wide = n + p
    return (
        np.zeros((n + 1, n + 1)), np.zeros((n + 1, n)), np.zeros((n, wide)),
        np.zeros((n + 1, wide)), np.zeros((n, n)), np.zeros((n + 1, n)), np.zeros((n + 1, BLOCK)),
        np.zeros((64 * (wide + 2), 1)), np.zeros((p, n)), np.zeros((p, p)), np.zeros((p, 1)),
        np.zeros((p, 1)), np.zeros((n, wide)), np.zeros((n, n)), np.zeros((n, 1)),
    )  # fmt: skip


@njit(**STEP)
def combine(
    n: int, m: Matrix, F: Matrix, U: Matrix, zeta: Vector, mean: Matrix, factor: Matrix,
    space: Space,
) -> None:  # fmt: skip
    """`mean = m + F X^-1 xi`, `factor = F X^-1`, `[X | xi] = QR [[I, 0], [U F, zeta]]`."""
    X, B, T, work = space[0], space[1], space[6], space[7]
    multiply(True, True, n, n, n, 1.0, F, U, 0.0, B)
    for j in range(n):
        B[n, j] = zeta[j]
    set_identity(n + 1, X)
    X[n, n] = 0.0
    stack_lower(n + 1, n, X, B, T, work)
    for i in range(n):
        for j in range(n):
            factor[i, j] = F[i, j]
    solve_lower_right(True, n, n, X, factor)
    for i in range(n):
        mean[i, 0] = m[i, 0]
        for j in range(n):
            mean[i, 0] += factor[i, j] * X[n, j]


@njit(**STEP)
def load_observation(
    n: int, s: int, t: int, model: Model, y: Matrices, a: Matrix, order: Whole, space: Space
) -> int:
    """Whitened rows of step `t` and their residuals; return their number."""
    rows, noise, e, scratch = space[8], space[9], space[10], space[11]
    C = model.C[pick(s, model.C.shape[0]), pick(t, model.C.shape[1])]
    d = model.d[pick(s, model.d.shape[0]), pick(t, model.d.shape[1])]
    o = observed(y.shape[2], y[s, t], order)
    residuals(n, o, 1, order, C, d, y[s, t], a, e, scratch)
    if model.deviation.shape[3] > 0:
        deviation = model.deviation
        own = deviation[pick(s, deviation.shape[0]), pick(t, deviation.shape[1]), 0]
        whiten_apart(n, o, 1, order, C, own, True, rows, e)
    else:
        R = model.R[pick(s, model.R.shape[0]), pick(t, model.R.shape[1])]
        whiten(n, o, 1, order, C, R, True, rows, noise, e)
    return o


@njit(**STEP)
def absorb_observation(
    n: int, s: int, t: int, model: Model, y: Matrices, a: Matrix, m: Matrix, U: Matrix,
    zeta: Vector, order: Whole, space: Space,
) -> int:  # fmt: skip
    """Write `[U | zeta + U (m - a)]` and the rows of step `t` to `space[3]`, one unknown a row."""
    Y, rows, e = space[3], space[8], space[10]
    o = load_observation(n, s, t, model, y, a, order, space)
    for j in range(n):
        total = zeta[j]
        for i in range(n):
            total += U[j, i] * (m[i, 0] - a[i, 0])
            Y[i, j] = U[j, i]
        Y[n, j] = total
    for j in range(o):
        for i in range(n):
            Y[i, n + j] = rows[j, i]
        Y[n, n + j] = e[j, 0]
    return o


@njit(**STEP)
def read_triangle(n: int, cols: int, Y: Matrix, U: Matrix, zeta: Vector, space: Space) -> None:
    """Triangularise the equations in `Y` and read them off."""
    work = space[7]
    lower_factor(n + 1, cols, Y, work[: n + 1], work[n + 1 :])
    for i in range(n):
        for j in range(n):
            U[i, j] = Y[j, i] if j >= i and i < cols else 0.0
        zeta[i] = Y[n, i] if i < cols else 0.0


@njit(**STEP)
def eliminate_noise(
    n: int, cols: int, A: Matrix, links: tuple[Whole, Whole], LQ: Matrix, gain: Matrix,
    space: Space,
) -> None:  # fmt: skip
    """Express the equations of `space[3]` in the state before; `gain = A - LQ X^-1 Y`."""
    X, V, R1, Yt = space[4], space[2], space[3], space[5]
    T, work, moved = space[6], space[7], space[12]
    multiply(True, False, n, cols, n, 1.0, LQ, R1, 0.0, V)
    transposed_times(n, cols, A, links, R1, moved)
    for i in range(n):
        for j in range(cols):
            R1[i, j] = moved[i, j]
    set_identity(n, X)
    for i in range(n + 1):
        for j in range(n):
            Yt[i, j] = 0.0
    stack_lower(n, cols, X, V, T, work)
    apply_stack(n, cols, n + 1, V, T, Yt, R1, work)
    J = space[13]
    for i in range(n):
        for j in range(n):
            J[i, j], gain[i, j] = LQ[i, j], A[i, j]
    solve_lower_right(True, n, n, X, J)
    multiply(False, True, n, n, n, -1.0, J, Yt, 1.0, gain)


@njit(**STEP)
def step_back(
    n: int, cols: int, s: int, t: int, model: Model, U: Matrix, zeta: Vector, gain: Matrix,
    space: Space,
) -> None:  # fmt: skip
    """Turn the equations of `space[3]` in the state of step `t` into some in the state before."""
    A = model.A[pick(s, model.A.shape[0]), pick(t, model.A.shape[1])]
    LQ = model.LQ[pick(s, model.LQ.shape[0]), pick(t, model.LQ.shape[1])]
    eliminate_noise(n, cols, A, (model.first, model.place), LQ, gain, space)
    read_triangle(n, cols, space[3], U, zeta, space)


@cached(**DRIVER)
def smooth_carefully(
    s: int, t: int, model: Model, y: Matrices, stored: Arrays, U: Matrix, zeta: Vector,
    smoothed: Space, order: Whole, room: Space, space: Space,
) -> None:  # fmt: skip
    """Smooth steps `t, ..., 0`.

    Args:
        s: Series.
        t: First step to do.
        model: Of all series.
        y: Data.
        stored: What the filter left: `slot, a, m, F`.
        U: Equations of the data from step `t + 1` on, in terms of its predicted mean, overwritten
            by those of data from step 0 on.
        zeta: Their right-hand sides.
        smoothed: Means, covariances, and lag-one covariances.
        order: Scratch.
        room: Two matrices of scratch.
        space: From `smoother_space`.
    """
    slot, a, m, F = stored
    mean, cov, cross = smoothed
    n, (factor, gain) = U.shape[0], room
    later = t + 1 < y.shape[1]
    if later:
        Y = space[3]
        for j in range(n):
            for i in range(n):
                Y[i, j] = U[j, i]
            Y[n, j] = zeta[j]
        step_back(n, n, s, t + 1, model, U, zeta, gain, space)
    while t >= 0:
        combine(n, m[s, t], F[s, slot[s, t]], U, zeta, mean[s, t], factor, space)
        multiply(False, True, n, n, n, 1.0, factor, factor, 0.0, cov[s, t])
        if later:
            multiply(False, False, n, n, n, 1.0, gain, cov[s, t], 0.0, cross[s, t + 1])
        o = absorb_observation(n, s, t, model, y, a[s, t], m[s, t], U, zeta, order, space)
        if t == 0:
            read_triangle(n, n + o, space[3], U, zeta, space)
        else:
            step_back(n, n + o, s, t, model, U, zeta, gain, space)
        later, t = True, t - 1
