"""Conditioning a mean and a factor on one observation, one decorrelated component at a time.

For a component with row `c`, noise `r` and `f = F' c`, `s = f'f + r`, the reflection that sends
`[f, sqrt r]` to `[0, sqrt s]` gives gain `g = F f / sqrt s` and factor `F - g f' / (sqrt s + sqrt
r)`: `s >= r` holds exactly and nothing is subtracted from a covariance.

Source: Potter (1963), in Bierman (1977), section V.2; Durbin & Koopman (2012), section 6.4.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from .....ops.arrays import Arrays, Matrix, Vector, Whole
from .....ops.small_matrices import EPS, HALF_LOG_2PI, INLINE, SPLICE, copy_matrix
from .predict import absorb, decorrelate, observed


@njit(**INLINE)
def scale_of_row(n: int, C: np.ndarray, R: np.ndarray, L: np.ndarray, row: int) -> float:
    """Predicted variance of one component before any other is known."""
    total = R[row, row]
    for j in range(n):
        f = 0.0
        for i in range(j, n):
            f += C[row, i] * L[i, j]
        total += f * f
    return total


@njit(**INLINE)
def load_row(
    n: int,
    C: np.ndarray,
    d: np.ndarray,
    y: np.ndarray,
    row: int,
    i: int,
    M: np.ndarray,
    H: np.ndarray,
) -> None:
    """Decorrelate row `i`: `H[i] = [C | y - d][row] - sum_j M[i, j] H[j]`."""
    for j in range(n):
        H[i, j] = C[row, j]
    H[i, n] = y[row] - d[row]
    for r in range(i):
        for j in range(n + 1):
            H[i, j] -= M[i, r] * H[r, j]


@njit(**INLINE)
def size_of_parts(n: int, h: np.ndarray, m: np.ndarray, y: float) -> float:
    """Size of what an innovation is the difference of: its round-off, but for the last digit."""
    size = abs(y) + abs(h[n])
    for j in range(n):
        size += abs(h[j] * m[j, 0])
    return size


@njit(**INLINE)
def gain_and_factor(
    n: int, F: np.ndarray, f: np.ndarray, root: float, noise: float, G: np.ndarray, c: int
) -> None:
    """Write the whitened gain to `G[:, c]` and update `F`."""
    inverse, shrink = 1.0 / root, 1.0 / (root + math.sqrt(noise))
    for i in range(n):
        total = 0.0
        for j in range(n):
            total += F[i, j] * f[j]
        total *= inverse
        G[i, c] = total
        total *= shrink
        for j in range(n):
            F[i, j] -= total * f[j]


@njit(**INLINE)
def chol_row(
    n: int, i: int, c: int, M: np.ndarray, H: np.ndarray, G: np.ndarray, chol: np.ndarray,
    place: np.ndarray,
) -> None:  # fmt: skip
    """Row `c` of the lower factor of `S` in the user's components."""
    for j in range(c):
        total = 0.0
        for r in range(n):
            total += H[i, r] * G[r, j]
        for r in range(i - 1, -1, -1):
            if place[r] == j:
                total += M[i, r] * chol[j, j]
                break
            if M[i, r] != 0.0:
                for m in range(n):
                    total += M[i, r] * H[r, m] * G[m, j]
        chol[c, j] = total


@njit(**INLINE)
def smallest_part(n: int, L: np.ndarray, F: np.ndarray) -> float:
    """Smallest fraction of a state's variance that an update leaves, above zero."""
    least = 1.0
    for i in range(n):
        before, after = 0.0, 0.0
        for j in range(n):
            before += L[i, j] * L[i, j]
            after += F[i, j] * F[i, j]
        if after < least * before:
            least = after / before
    return max(least, 1e-300)


@njit(**SPLICE)
def condition(
    n: int, p: int, k: int, C: Matrix, d: Vector, R: Matrix, y: Vector, a: Matrix, L: Matrix,
    m: Matrix, F: Matrix, G: Matrix, chol: Matrix, E: Matrix, rows: Whole, U: Matrix, work: Arrays,
) -> tuple[int, float, float]:  # fmt: skip
    """Condition on one observation; return pivots, log-density and what is left of deviations.

    The last is the smallest fraction that conditioning leaves of a state's deviation, or of a
    component's given the earlier ones; zero where a component is redundant.
    """
    order, place, M, H, f = work
    o = observed(p, y, order)
    copy_matrix(n, 1 + k, a, m)
    copy_matrix(n, n, L, F)
    decorrelate(R, order, o, M)
    c, ll, worst, volume = 0, 0.0, 1.0, 1.0
    for i in range(o):
        row, noise, v = int(order[i]), M[i, i], E[c]
        load_row(n, C, d, y, row, i, M, H)
        s = noise
        for j in range(n):
            f[j] = 0.0
            for r in range(n):
                f[j] += F[r, j] * H[i, r]
            s += f[j] * f[j]
        for col in range(1 + k):
            v[col] = H[i, n] if col == 0 else 0.0
            for j in range(n):
                v[col] -= H[i, j] * m[j, col]
        scale = scale_of_row(n, C, R, L, row) if i > 0 else s
        worst = min(worst, s / scale) if scale > 0.0 else 0.0
        place[i] = -1
        if noise == 0.0:
            size, limit = size_of_parts(n, H[i], m, y[row]), 8.0 * EPS * (n + o)
            if s <= limit * limit * max(scale, size * size):
                worst = 0.0
                if abs(v[0]) > 1e6 * EPS * size:
                    ll = -np.inf
                continue
        root = math.sqrt(s)
        chol_row(n, i, c, M, H, G, chol, place)
        chol[c, c], rows[c], place[i] = root, row, c
        gain_and_factor(n, F, f, root, noise, G, c)
        for col in range(1 + k):
            v[col] /= root
            for j in range(n):
                m[j, col] += G[j, c] * v[col]
        volume *= s
        if not 1e-200 < volume < 1e200:
            ll -= 0.5 * math.log(volume)
            volume = 1.0
        ll += (absorb(U, k, v) if k > 0 else -0.5 * v[0] * v[0]) - HALF_LOG_2PI
        c += 1
    worst = min(worst, smallest_part(n, L, F)) if c > 0 else worst
    return c, ll - 0.5 * math.log(volume), math.sqrt(worst)
