"""The gradient of an extended Kalman filter's log-likelihood by one pass back over its steps.

With `A = I - K H`, `w = S^-1 v` and the gain optimal, so that the covariance does not change with
it to first order, the adjoints of an update are those of

    dP+ = A dP A' + K dR K' - A P dH' K' - K dH P A'
    dm  = da + K dv + A dP H'w + A P dH'w - K dH P H'w - K dR w
    dl  = -w'dv + (w'dS w - tr S^-1 dS) / 2,    dS = dH P H' + H dP H' + H P dH' + dR.

Source: derived here; checked against autograd.
"""

from __future__ import annotations

import math

from numba import njit

from ....ops.arrays import Arrays, Matrices, Matrix, Spaces, Vector, Whole
from ....ops.cache import cached
from ....ops.small_matrices import DRIVER, pick
from ....ops.tracing.calls import call_step
from .dense_kernels import invert, times, transposed_times
from .step_kernels import ADDRESS, COLUMNS, FACTOR, INLINE, NOISE, OUT, VARIANCE


@njit(**INLINE)
def noise_of(side: Spaces, values: Vector, s: int, t: int, i: int, j: int) -> float:
    """Entry `(i, j)` of the covariance of the noise."""
    whole, factor = side[0], side[6]
    total, columns, out = 0.0, whole[COLUMNS], whole[OUT]
    if whole[NOISE] == VARIANCE:
        return max(float(values[out + i]), 0.0) if i == j else 0.0
    for k in range(columns):
        if whole[NOISE] == FACTOR:
            total += values[out + i * columns + k] * values[out + j * columns + k]
        else:
            a, b = pick(s, factor.shape[0]), pick(t, factor.shape[1])
            total += factor[a, b, i, k] * factor[a, b, j, k]
    return float(total)


@njit(**INLINE)
def first_slope(side: Spaces) -> int:
    """Where the Jacobian begins among the values of a step."""
    whole = side[0]
    if whole[NOISE] == VARIANCE:
        return 2 * whole[OUT]
    if whole[NOISE] == FACTOR:
        return whole[OUT] * (1 + whole[COLUMNS])
    return whole[OUT]


@njit(**INLINE)
def pull(
    side: Spaces, address: int, n: int, z: Vector, u: Vector, values: Vector, weights: Vector,
    Nbar: Matrix, given: Matrices, s: int, t: int, total: Vector, out: Vector,
) -> None:  # fmt: skip
    """Pass weights of mean, slopes and noise on to state and parameters, in `out`."""
    whole, p = side[0], side[3]
    rows, columns = whole[OUT], whole[COLUMNS]
    for i in range(rows):
        if whole[NOISE] == VARIANCE:
            weights[rows + i] = Nbar[i, i]
        elif whole[NOISE] == FACTOR:
            for k in range(columns):
                value = 0.0
                for j in range(rows):
                    value += 2.0 * Nbar[i, j] * values[rows + j * columns + k]
                weights[rows + i * columns + k] = value
        else:
            a, b = pick(s, given.shape[0]), pick(t, given.shape[1])
            for j in range(rows):
                given[a, b, i, j] += Nbar[i, j]
    call_step(address, z, u, p, weights, out)
    for i in range(total.shape[0]):
        total[i] += out[n + i]


@njit(**INLINE)
def observed_rows(
    H: Spaces, values: Vector, y: Vector, n: int, s: int, t: int, seen: Whole, v: Vector,
    C: Matrix, S: Matrix,
) -> int:  # fmt: skip
    """Collect residuals, slopes and noise of what is observed; return how many components are."""
    p, first, o, turn = H[0][OUT], first_slope(H), 0, 2.0 * math.pi
    for i in range(p):
        if not math.isnan(y[i]):
            seen[o] = i
            v[o] = y[i] - values[i]
            if H[1][i] != 0:
                v[o] -= turn * math.floor((v[o] + math.pi) / turn)
            for b in range(n):
                C[o, b] = values[first + i * n + b]
            o += 1
    for i in range(o):
        for j in range(o):
            S[i, j] = noise_of(H, values, s, t, seen[i], seen[j])
    return o


@njit(**INLINE)
def unsee(
    n: int, o: int, g: float, P: Matrix, C: Matrix, S: Matrix, v: Vector, bar: Vector,
    Pbar: Matrix, space: Spaces,
) -> None:  # fmt: skip
    """Adjoints of an update: `Pbar` becomes that of `P`; `Cbar`, `Rbar`, `vbar` are in `space`."""
    PC, inverse, K, A, X, Y, Cbar, Rbar, w, q, Km, back, vbar = space
    for i in range(n):
        for j in range(o):
            total = 0.0
            for m in range(n):
                total += P[i, m] * C[j, m]
            PC[i, j] = total
    times(C, PC, o, n, o, Rbar)
    for i in range(o):
        for j in range(o):
            S[i, j] += Rbar[i, j]
    invert(S, o, inverse)
    times(PC, inverse, n, o, o, K)
    times(K, C, n, o, n, A)
    for i in range(n):
        for j in range(n):
            A[i, j] = -A[i, j]
        A[i, i] += 1.0
    for i in range(o):
        w[i], Km[i] = 0.0, 0.0
        for j in range(o):
            w[i] += inverse[i, j] * v[j]
        for j in range(n):
            Km[i] += K[j, i] * bar[j]
        vbar[i] = Km[i] - g * w[i]
    for i in range(n):
        q[i], back[i] = 0.0, 0.0
        for j in range(n):
            q[i] += A[j, i] * bar[j]
        for j in range(o):
            back[i] += C[j, i] * w[j]
    unsee_covariance(n, o, g, P, C, Pbar, space)


@njit(**INLINE)
def unsee_covariance(
    n: int, o: int, g: float, P: Matrix, C: Matrix, Pbar: Matrix, space: Spaces
) -> None:
    """Adjoints of the covariances, from the gain and the residual."""
    PC, inverse, K, A, X, Y, Cbar, Rbar, w, q, Km, back, _ = space
    # `K' Pbar`, then `Rbar` and the first part of `Cbar`.
    transposed_times(K, Pbar, o, n, n, X)
    times(X, K, o, n, o, Rbar)
    times(X, A, o, n, n, Y)
    times(Y, P, o, n, n, Cbar)
    unsee_density(n, o, g, P, C, inverse, PC, w, q, Km, X, Cbar, Rbar)
    times(Pbar, A, n, n, n, X)
    transposed_times(A, X, n, n, n, Pbar)
    for i in range(n):
        for j in range(n):
            Pbar[i, j] += 0.5 * (q[i] * back[j] + back[i] * q[j])
            for k in range(o):
                for m in range(o):
                    G = 0.5 * g * (w[k] * w[m] - inverse[k, m])
                    Pbar[i, j] += C[k, i] * G * C[m, j]


@njit(**INLINE)
def unsee_density(
    n: int, o: int, g: float, P: Matrix, C: Matrix, inverse: Matrix, PC: Matrix, w: Vector,
    q: Vector, Km: Vector, X: Matrix, Cbar: Matrix, Rbar: Matrix,
) -> None:  # fmt: skip
    """Add what mean and density say of the slope and of the noise."""
    for i in range(o):
        for b in range(n):
            value, along = 0.0, 0.0
            for j in range(n):
                value += P[b, j] * q[j]
            for j in range(o):
                along += PC[b, j] * w[j]
            Cbar[i, b] = -2.0 * Cbar[i, b] + w[i] * value - Km[i] * along
            for j in range(o):
                G = 0.5 * g * (w[i] * w[j] - inverse[i, j])
                Cbar[i, b] += 2.0 * G * PC[b, j]
        for j in range(o):
            G = 0.5 * g * (w[i] * w[j] - inverse[i, j])
            Rbar[i, j] += G - 0.5 * (Km[i] * w[j] + w[i] * Km[j])


@njit(**INLINE)
def back_through_emission(
    H: Spaces, address: int, n: int, s: int, t: int, o: int, z: Vector, u: Vector, bar: Vector,
    values: Vector, wh: Vector, Nbar: Matrix, given: Matrices, total: Vector, pulled: Vector,
    seen: Whole, space: Spaces,
) -> None:  # fmt: skip
    """Add to `bar` what the emission says of the state."""
    Cbar, Rbar, vbar, first = space[6], space[7], space[12], first_slope(H)
    wh[:] = 0.0
    Nbar[:] = 0.0
    for i in range(o):
        wh[seen[i]] = -vbar[i]
        for b in range(n):
            wh[first + seen[i] * n + b] = Cbar[i, b]
        for j in range(o):
            Nbar[seen[i], seen[j]] = Rbar[i, j]
    pull(H, address, n, z, u, values, wh, Nbar, given, s, t, total, pulled)
    for i in range(n):
        bar[i] += pulled[i]


@njit(**INLINE)
def back_through_transition(
    F: Spaces, address: int, n: int, s: int, t: int, z: Vector, u: Vector, cov: Vector,
    bar: Vector, Pbar: Matrix, values: Vector, wf: Vector, given: Matrices, total: Vector,
    pulled: Vector, P: Matrix, A: Matrix, X: Matrix, Y: Matrix,
) -> None:  # fmt: skip
    """Turn adjoints of the predicted state into those of the filtered state before."""
    call_step(F[0][ADDRESS], z, u, F[3], F[3], values)
    first = first_slope(F)
    for i in range(n * n):
        P[i // n, i % n] = cov[i]
        A[i // n, i % n] = values[first + i]
    times(Pbar, A, n, n, n, X)
    times(X, P, n, n, n, Y)
    for i in range(n):
        wf[i] = bar[i]
        for j in range(n):
            wf[first + i * n + j] = 2.0 * Y[i, j]
    pull(F, address, n, z, u, values, wf, Pbar, given, s, t, total, pulled)
    transposed_times(A, X, n, n, n, Pbar)
    for i in range(n):
        bar[i] = pulled[i]


@cached(**DRIVER)
def adjoint_all(
    y: Matrices, u: Matrices, weights: Matrix, passed: Arrays, F: Spaces, H: Spaces, codes: Whole,
    vectors: Spaces, squares: Spaces, seen: Whole, out: Arrays,
) -> None:  # fmt: skip
    """Accumulate the gradients of weighted log-densities of all series into `out`."""
    means, covs, ahead, ahead_covs = passed
    pF, pH, given_F, given_H, m0bar, P0bar = out
    values, wf, wh, pulled, v, bar, w, q, Km, back, vbar = vectors
    P, C, S, Pbar, PC, inverse, K, A, X, Y, Cbar, Rbar, Nbar = squares
    space = (PC, inverse, K, A, X, Y, Cbar, Rbar, w, q, Km, back, vbar)
    n = means.shape[2]
    for s in range(y.shape[0]):
        bar[:] = 0.0
        Pbar[:] = 0.0
        for t in range(y.shape[1] - 1, -1, -1):
            drive = u[pick(s, u.shape[0]), pick(t, u.shape[1])]
            for i in range(n * n):
                P[i // n, i % n] = ahead_covs[s, t, i]
            call_step(H[0][ADDRESS], ahead[s, t], drive, H[3], H[3], values)
            o = observed_rows(H, values, y[s, t], n, s, t, seen, v, C, S)
            if o > 0:
                unsee(n, o, weights[s, t], P, C, S, v, bar, Pbar, space)
                back_through_emission(
                    H, codes[1], n, s, t, o, ahead[s, t], drive, bar, values, wh, Nbar, given_H,
                    pH, pulled, seen, space,
                )  # fmt: skip
            if t > 0:
                back_through_transition(
                    F, codes[0], n, s, t, means[s, t - 1], drive, covs[s, t - 1], bar, Pbar,
                    values, wf, given_F, pF, pulled, P, A, X, Y,
                )  # fmt: skip
        for i in range(n):
            m0bar[i] += bar[i]
            for j in range(n):
                P0bar[i, j] += Pbar[i, j]
