"""The gradient of many series with one model and one pattern of gaps; see `kalman_score.py`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from numba import njit

from ..linear.compiled import kept
from .kalman_score import second_moments
from .kalman_score_run import add_run, score_matrices, score_run
from .kalman_shared import WIDTH, affine, affine_t
from .kalman_steps import DRIVER, INLINE, SPLICE, clear, copy_matrix, copy_row, pick, settled

WORTHWHILE = 8  # steps that pay for the matrices of a run


@kept(**DRIVER)
def score_terms(first, last, A, C, same, stored, out, spaces):  # noqa: ANN001, ANN201
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
            repeats = same and later and slot[s, u] == i
            if steady and repeats:
                place[t] = place[u]
                continue
            place[t] = t
            second_moments(
                n, count[s, i], later, A[0, pick(u, A.shape[1])], C[0, pick(t, C.shape[1])],
                rows[s, i], chol[s, i], G[s, i], L[s, i], F[s, i], old, M, N[t], H[t], P[t], D[t],
                HP[t], NAP[t], X, Y,
            )  # fmt: skip
            steady = repeats and count[s, i] == p and settled(n, N[t], old)
            copy_matrix(n, n, N[t], old)


@njit(**INLINE)
def add_products(rows, cols, x, y, scale, constant, weight, out):  # noqa: ANN001, ANN201
    """`out += sum_lane scale x y' - weight constant`."""
    for i in range(rows):
        for j in range(cols):
            total = -weight * constant[i, j]
            for lane in range(WIDTH):
                total += scale[0, lane] * x[i, lane] * y[j, lane]
            out[i, j] += total


@njit(**INLINE)
def load_block(n, c, a, E, block, last, t, z, w):  # noqa: ANN001, ANN201
    """Predicted means and whitened innovations; lanes past the end have innovation zero."""
    for lane in range(WIDTH):
        inside = block + lane < last
        s = min(block + lane, last - 1)
        for j in range(n):
            z[j, lane] = a[s, t, j, 0]
        for r in range(c):
            w[r, lane] = E[s, t, r, 0] if inside else 0.0


@njit(**SPLICE)
def first_moments(n, c, later, A, H, G, chol, P, r, q, w, z):  # noqa: ANN001, ANN201
    """`q = A' r`, `w = e - G' q`, `q <- q + H' w`, `z <- z + P q`, `w` unwhitened."""
    clear(n, WIDTH, q)
    if later:
        affine_t(n, n, A, r, q, 1.0)
    affine_t(c, n, G, q, w, -1.0)
    affine_t(n, c, H, w, q, 1.0)
    affine(n, n, P, q, z, 1.0)
    for i in range(c - 1, -1, -1):
        for j in range(i + 1, c):
            for lane in range(WIDTH):
                w[i, lane] -= chol[j, i] * w[j, lane]
        inverse = 1.0 / chol[i, i]
        for lane in range(WIDTH):
            w[i, lane] *= inverse


@njit(**INLINE)
def add_means(rows, x, scale, out):  # noqa: ANN001, ANN201
    """`out += sum_lane scale x`."""
    for i in range(rows):
        total = 0.0
        for lane in range(WIDTH):
            total += scale[0, lane] * x[i, lane]
        out[i] += total


@njit(**INLINE)
def run_start(slot, place, t):  # noqa: ANN001, ANN201
    """First step, after the very first, of those up to `t` that are like the one after `t`."""
    if slot[t + 1] != slot[t] or place[t + 1] != place[t]:
        return t
    while t > 1 and slot[t - 1] == slot[t] and place[t - 1] == place[t]:
        t -= 1
    return t


@njit(**INLINE)
def load_weights(block, last, weights, scale):  # noqa: ANN001, ANN201
    """Weights of a block of series, zero past the end; return their sum."""
    total = 0.0
    for lane in range(WIDTH):
        scale[0, lane] = weights[block + lane] if block + lane < last else 0.0
        total += scale[0, lane]
    return total


@njit(**SPLICE)
def run_of_block(n, p, steps, lanes, A, G, chol, moments, flat, scale, want_y, gy, r, out, run):  # noqa: ANN001, ANN201
    """Go back over `steps` for one series of a block after the other."""
    (start, t), (block, last) = steps, lanes
    P, H, D, HP, NAP, N = moments
    work, sums = run
    score_matrices(n, p, A, G, H, chol, work)
    for lane in range(min(WIDTH, last - block)):
        s, x = block + lane, scale[0, lane]
        by_y = x if want_y else 0.0
        copy_row(n, r[:, lane], work[3])
        score_run(n, p, start, t, P, H, flat[0][s], flat[1][s], by_y, gy[s], work, sums)
        copy_row(n, work[3], r[:, lane])
        add_run(n, p, t - start + 1, x, 1.0, sums, (D, HP, NAP, N), out)


@njit(**SPLICE)
def add_emission(n, c, row, w, z, scale, D, HP, weight, v, part, outer, target):  # noqa: ANN001, ANN201
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


@cache
def shared_score(sizes: tuple[int, int] | None = None) -> Callable[..., None]:
    """Compile what adds the weighted gradients of a range of series to the arrays in `spaces`."""
    fixed = sizes is not None
    N_, P_ = sizes if sizes is not None else (0, 0)

    @kept(**DRIVER)
    def score(first, last, A, C, same, pattern, terms, a, E, flat, weights, want_y, gy, spaces):  # noqa: ANN001, ANN202
        slot, G, chol, rows, count = pattern
        H, P, D, HP, NAP, N, place = terms
        (r, q, z, w, v, scale), (gA, gb, gQ, gC, gd, gR, gm0, gP0, part, outer), run = spaces
        n, p = (N_, P_) if fixed else (C.shape[3], C.shape[2])
        T, plain = slot.shape[1], same and gb.shape[0] == 1 and gd.shape[0] == 1
        for block in range(first, last, WIDTH):
            clear(n, WIDTH, r)
            t, weight = T - 1, load_weights(block, last, weights, scale)
            while t >= 0:
                i, k, later, u = slot[0, t], place[t], t < T - 1, min(t + 1, T - 1)
                c, row = count[0, i], rows[0, i]
                start = run_start(slot[0], place, t) if plain and later and t > 0 and c == p else t
                if t - start >= WORTHWHILE:
                    moments = (P[k], H[k], D[k], HP[k], NAP[k], N[k])
                    run_of_block(
                        n, p, (start, t), (block, last), A[0, 0], G[0, i], chol[0, i], moments,
                        flat, scale, want_y, gy, r, (gA[0], gb[0], gQ[0], gC[0], gd[0], gR[0]),
                        run,
                    )  # fmt: skip
                    t = start - 1
                    continue
                load_block(n, c, a, E, block, last, t, z, w)
                At = A[0, pick(u, A.shape[1])]
                first_moments(n, c, later, At, H[k], G[0, i], chol[0, i], P[k], r, q, w, z)
                for j in range(c):
                    for lane in range(min(WIDTH, last - block)):
                        gy[block + lane, t, row[j]] = -scale[0, lane] * w[j, lane]
                target = (
                    gd[pick(t, gd.shape[0])],
                    gR[pick(t, gR.shape[0])],
                    gC[pick(t, gC.shape[0])],
                )
                add_emission(n, c, row, w, z, scale, D[k], HP[k], weight, v, part, outer, target)
                if later:
                    add_products(n, n, r, z, scale, NAP[k], weight, gA[pick(u, gA.shape[0])])
                copy_matrix(n, WIDTH, q, r)
                if t > 0:
                    add_means(n, r, scale, gb[pick(t, gb.shape[0])])
                    add_products(n, n, r, r, scale, N[k], weight, gQ[pick(t, gQ.shape[0])])
                t -= 1
            add_means(n, r, scale, gm0)
            add_products(n, n, r, r, scale, N[place[0]], weight, gP0)

    return score
