"""The gradient of many series with one model and one pattern of gaps; see `scalar/score.py`."""

from __future__ import annotations

from numba import njit

from .....ops.arrays import Arrays, Batch, Matrices, Matrix, Space, Spaces, Vector, Whole
from .....ops.cache import cached
from .....ops.small_matrices import DRIVER, INLINE, SPLICE, clear, copy_matrix, pick
from ..scalar.predict import is_steady
from ..scalar.score import second_moments
from .shared_kernels import SERIES_AT_ONCE, affine, affine_t


@cached(**DRIVER)
def score_terms(
    first: int, last: int, A: Batch, C: Batch, same: bool, stored: Arrays, out: Arrays,
    spaces: Spaces,
) -> None:  # fmt: skip
    """Everything in the gradient that does not depend on the data, step by step."""
    slot, L, F, G, chol, rows, count = stored
    H, P, D, HP, NAP, N, place = out
    (_, (old, M, _, _, X, Y, _, _, _, _)), _ = spaces
    n, p, T = C.shape[3], C.shape[2], slot.shape[1]
    for s in range(first, last):
        steady = False
        clear(n, n, old)
        for t in range(T - 1, -1, -1):
            i, later, u = slot[s, t], t < T - 1, min(t + 1, T - 1)
            shares = same and later and slot[s, u] == i
            if steady and shares:
                place[t] = place[u]
                continue
            place[t] = t
            second_moments(
                n, count[s, i], later, A[0, pick(u, A.shape[1])], C[0, pick(t, C.shape[1])],
                rows[s, i], chol[s, i], G[s, i], L[s, i], F[s, i], old, M, N[t], H[t], P[t], D[t],
                HP[t], NAP[t], X, Y,
            )  # fmt: skip
            steady = shares and count[s, i] == p and is_steady(n, N[t], old)
            copy_matrix(n, n, N[t], old)


@njit(**INLINE)
def add_products(
    rows: int, cols: int, x: Matrix, y: Matrix, scale: Matrix, constant: Matrix, weight: float,
    out: Matrix,
) -> None:  # fmt: skip
    """`out += sum_lane scale x y' - weight constant`."""
    for i in range(rows):
        for j in range(cols):
            total = -weight * constant[i, j]
            for column in range(SERIES_AT_ONCE):
                total += scale[0, column] * x[i, column] * y[j, column]
            out[i, j] += total


@njit(**INLINE)
def load_block(
    n: int, c: int, a: Batch, E: Batch, block: int, last: int, t: int, z: Matrix, w: Matrix
) -> None:
    """Predicted means and whitened innovations; columns past the end have innovation zero."""
    for column in range(SERIES_AT_ONCE):
        inside = block + column < last
        s = min(block + column, last - 1)
        for j in range(n):
            z[j, column] = a[s, t, j, 0]
        for r in range(c):
            w[r, column] = E[s, t, r, 0] if inside else 0.0


@njit(**SPLICE)
def first_moments(
    n: int, c: int, later: bool, A: Matrix, H: Matrix, G: Matrix, chol: Matrix, P: Matrix,
    r: Matrix, q: Matrix, w: Matrix, z: Matrix,
) -> None:  # fmt: skip
    """`q = A' r`, `w = e - G' q`, `q <- q + H' w`, `z <- z + P q`, `w` unwhitened."""
    clear(n, SERIES_AT_ONCE, q)
    if later:
        affine_t(n, n, A, r, q, 1.0)
    affine_t(c, n, G, q, w, -1.0)
    affine_t(n, c, H, w, q, 1.0)
    affine(n, n, P, q, z, 1.0)
    for i in range(c - 1, -1, -1):
        for j in range(i + 1, c):
            for column in range(SERIES_AT_ONCE):
                w[i, column] -= chol[j, i] * w[j, column]
        inverse = 1.0 / chol[i, i]
        for column in range(SERIES_AT_ONCE):
            w[i, column] *= inverse


@njit(**INLINE)
def add_means(rows: int, x: Matrix, scale: Matrix, out: Vector) -> None:
    """`out += sum_lane scale x`."""
    for i in range(rows):
        total = 0.0
        for column in range(SERIES_AT_ONCE):
            total += scale[0, column] * x[i, column]
        out[i] += total


@njit(**INLINE)
def load_weights(block: int, last: int, weights: Vector, scale: Matrix) -> float:
    """Weights of a block of series, zero past the end; return their sum."""
    total = 0.0
    for column in range(SERIES_AT_ONCE):
        scale[0, column] = weights[block + column] if block + column < last else 0.0
        total += scale[0, column]
    return total


@njit(**SPLICE)
def add_emission(
    n: int, c: int, row: Whole, w: Matrix, z: Matrix, scale: Matrix, D: Matrix, HP: Matrix,
    weight: float, v: Matrix, part: Matrix, outer: Matrix, target: Space,
) -> None:  # fmt: skip
    """Add the derivatives with respect to `d`, `R` and `C` of one step."""
    gd, gR, gC = target
    clear(c, c, part)
    clear(c, n, outer)
    add_products(c, c, w, w, scale, D, weight, part)
    add_products(c, n, w, z, scale, HP, weight, outer)
    add_means(c, w, scale, v[:, 0])
    for j in range(c):
        gd[row[j]] += v[j, 0]
        v[j, 0] = 0.0
        for m in range(c):
            gR[row[j], row[m]] += 0.5 * part[j, m]
        for m in range(n):
            gC[row[j], m] += outer[j, m]


@njit(**INLINE)
def load_adjoint(n: int, block: int, last: int, adjoint: Matrices, r: Matrix) -> None:
    """Adjoints that steady blocks leave, or zeros."""
    for i in range(n):
        for column in range(SERIES_AT_ONCE):
            r[i, column] = adjoint[min(block + column, last - 1), 0, i]


@cached(**DRIVER)
def shared_score(
    first: int, last: int, A: Batch, C: Batch, pattern: Arrays, terms: Arrays, means: Space,
    weights: Vector, gy: Matrices, steps: tuple[int, int], spaces: Spaces,
) -> None:  # fmt: skip
    """Add the weighted gradients of the first of `steps` steps to the arrays in `spaces`."""
    slot, G, chol, rows, count = pattern
    H, P, D, HP, NAP, N, place = terms
    a, E, adjoint = means
    (r, q, z, w, v, scale), (gA, gb, gQ, gC, gd, gR, gm0, gP0, part, outer) = spaces
    n, T = C.shape[3], steps[1]
    for block in range(first, last, SERIES_AT_ONCE):
        weight = load_weights(block, last, weights, scale)
        load_adjoint(n, block, last, adjoint, r)
        for t in range(steps[0] - 1, -1, -1):
            i, k, later, u = slot[0, t], place[t], t < T - 1, min(t + 1, T - 1)
            c, row = count[0, i], rows[0, i]
            load_block(n, c, a, E, block, last, t, z, w)
            At = A[0, pick(u, A.shape[1])]
            first_moments(n, c, later, At, H[k], G[0, i], chol[0, i], P[k], r, q, w, z)
            for j in range(c):
                for column in range(min(SERIES_AT_ONCE, last - block)):
                    gy[block + column, t, row[j]] = -scale[0, column] * w[j, column]
            target = (gd[pick(t, gd.shape[0])], gR[pick(t, gR.shape[0])], gC[pick(t, gC.shape[0])])
            add_emission(n, c, row, w, z, scale, D[k], HP[k], weight, v, part, outer, target)
            if later:
                add_products(n, n, r, z, scale, NAP[k], weight, gA[pick(u, gA.shape[0])])
            copy_matrix(n, SERIES_AT_ONCE, q, r)
            if t > 0:
                add_means(n, r, scale, gb[pick(t, gb.shape[0])])
                add_products(n, n, r, r, scale, N[k], weight, gQ[pick(t, gQ.shape[0])])
        add_means(n, r, scale, gm0)
        add_products(n, n, r, r, scale, N[place[0]], weight, gP0)
