"""The gradient of the log-likelihood as a CUDA kernel of one thread a series.

The steps of `cpu/scalar/score.py`, compiled for the other target. As in the smoother's kernel the
filter leaves predicted moments alone, and each step is conditioned again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from ....ops import small_matrices
from ....ops.arrays import Batch, Matrix, Space, Vector, Whole
from ..cpu.scalar import score, update
from .filter import loading_step
from .steps import Kernel, cuda, device, float64, int64, loading, loading_vectors, ported


@cache
def conditioning_for_score(n: int, p: int) -> Callable[..., int]:
    """Return `condition(C, d, R, y, a, L, F, G, chol, E, rows)`; it returns how many pivots."""
    condition = ported(update.condition)
    width = n + 1

    @device
    def run(
        C: Matrix, d: Vector, R: Matrix, y: Vector, a: Matrix, L: Matrix, F: Matrix, G: Matrix,
        chol: Matrix, E: Matrix, rows: Whole,
    ) -> int:  # fmt: skip
        m, U = cuda.local.array((n, 1), float64), cuda.local.array((1, 1), float64)
        order, place = cuda.local.array(p, int64), cuda.local.array(p, int64)
        M, H = cuda.local.array((p, p), float64), cuda.local.array((p, width), float64)
        f = cuda.local.array(n, float64)
        work = (order, place, M, H, f)
        count, _, _ = condition(n, p, 0, C, d, R, y, a, L, m, F, G, chol, E, rows, U, work)
        return count

    return run


@cache
def stepping(n: int, p: int) -> Callable[..., None]:
    """Return `step(later, c, A, C, rows, chol, G, E, a, L, F, r, N, gy, gC, gd, gR, gA)`.

    It takes `r` and `N` one step back and adds the derivatives that belong to the step.
    """
    second, first = ported(score.second_moments), ported(score.first_moments)
    emission, cross = ported(score.emission_scores), ported(score.cross_scores)
    copy = ported(small_matrices.copy_matrix)
    square = max(n, p)

    @device
    def step(
        later: bool, c: int, A: Matrix, C: Matrix, rows: Whole, chol: Matrix, G: Matrix, E: Matrix,
        a: Matrix, L: Matrix, F: Matrix, r: Matrix, N: Matrix, gy: Vector, gC: Matrix, gd: Vector,
        gR: Matrix, gA: Matrix,
    ) -> None:  # fmt: skip
        q, z = cuda.local.array((n, 1), float64), cuda.local.array((n, 1), float64)
        r2, w = cuda.local.array((n, 1), float64), cuda.local.array((p, 1), float64)
        M, P = cuda.local.array((n, n), float64), cuda.local.array((n, n), float64)
        N2, NAP = cuda.local.array((n, n), float64), cuda.local.array((n, n), float64)
        X, Y = cuda.local.array((n, square), float64), cuda.local.array((n, square), float64)
        H, HP = cuda.local.array((p, n), float64), cuda.local.array((p, n), float64)
        D, mix = cuda.local.array((p, p), float64), cuda.local.array((1, 1), float64)
        mix[0, 0] = 1.0
        second(n, c, later, A, C, rows, chol, G, L, F, N, M, N2, H, P, D, HP, NAP, X, Y)
        first(n, 1, c, later, A, a, E, mix, H, G, chol, P, r, q, r2, w, z)
        emission(n, c, 1, rows, w, z, D, HP, gy, gd, gR, gC)
        if later:
            cross(n, 1, r, z, NAP, gA)
        copy(n, 1, r2, r)
        copy(n, n, N2, N)

    return step


@cache
def adding() -> Callable[..., None]:
    """Return `add(rows, cols, own, t, s, total)`: add a step's own derivatives, and clear them."""

    @device
    def add(rows: int, cols: int, own: Matrix, t: int, s: int, total: Batch) -> None:
        u = t if total.shape[0] > 1 else 0
        for i in range(rows):
            for j in range(cols):
                total[u, i, j, s] += own[i, j]
                own[i, j] = 0.0

    return add


@cache
def score_kernel(n: int, p: int) -> Kernel:
    """Compile the gradient.

    The kernel takes `params`, `y`, and predicted means and factors, as the filter's kernel takes
    and leaves them, and adds to `gy` `(time, p, 1, series)`, to the gradients by `A, b, Q, C, d,
    R`, each `(time or 1, row, col, series)`, and to those by `m0, P0`.
    """
    (load, _), vector, add = loading(), loading_vectors(), adding()
    (arrive, observe, shift), fresh = loading_step(n, p), _zeros(n, p)
    condition, step, moments = conditioning_for_score(n, p), stepping(n, p), _moments(n)

    @cuda.jit(fastmath=False)
    def run(
        params: Space, y: Vector, a_in: Batch, L_in: Batch, gy: Batch, grads: Space, first: Space
    ) -> None:
        s = cuda.grid(1)
        if s >= y.shape[3]:
            return
        A, LQ = cuda.local.array((n, n), float64), cuda.local.array((n, n), float64)
        C, R = cuda.local.array((p, n), float64), cuda.local.array((p, p), float64)
        b, d = cuda.local.array(n, float64), cuda.local.array(p, float64)
        a, r = cuda.local.array((n, 1), float64), cuda.local.array((n, 1), float64)
        L, F = cuda.local.array((n, n), float64), cuda.local.array((n, n), float64)
        N, G = cuda.local.array((n, n), float64), cuda.local.array((n, p), float64)
        chol, E = cuda.local.array((p, p), float64), cuda.local.array((p, 1), float64)
        row, rows = cuda.local.array(p, float64), cuda.local.array(p, int64)
        dA, dC = cuda.local.array((n, n), float64), cuda.local.array((p, n), float64)
        dR, dd = cuda.local.array((p, p), float64), cuda.local.array((p, 1), float64)
        dy = cuda.local.array((p, 1), float64)
        fresh(r, N, dA, dC, dR, dd, dy)
        last = y.shape[0] - 1
        for t in range(last, -1, -1):
            later = t < last
            arrive(params, min(t + 1, last), s, A, LQ)
            observe(params, t, s, C, R)
            shift(params, t, s, b, d)
            vector(p, y, t, s, row)
            load(n, 1, a_in, t, s, a)
            load(n, n, L_in, t, s, L)
            c = condition(C, d, R, row, a, L, F, G, chol, E, rows)
            step(
                later, c, A, C, rows, chol, G, E, a, L, F, r, N, dy[:, 0], dC, dd[:, 0], dR, dA
            )  # fmt: skip
            add(p, 1, dy, t, s, gy)
            add(p, n, dC, t, s, grads[3])
            add(p, 1, dd, t, s, grads[4])
            add(p, p, dR, t, s, grads[5])
            if later:
                add(n, n, dA, t + 1, s, grads[0])
            if t > 0:
                moments(r, N, t, s, grads[1], grads[2])
        moments(r, N, 0, s, first[0], first[1])

    return run


@cache
def _moments(n: int) -> Callable[..., None]:
    """Add the derivatives by a mean, `r`, and by a covariance, `(r r' - N) / 2`."""

    @device
    def moments(r: Matrix, N: Matrix, t: int, s: int, by_mean: Batch, by_cov: Batch) -> None:
        u = t if by_mean.shape[0] > 1 else 0
        v = t if by_cov.shape[0] > 1 else 0
        for i in range(n):
            by_mean[u, i, 0, s] += r[i, 0]
            for j in range(n):
                by_cov[v, i, j, s] += 0.5 * (r[i, 0] * r[j, 0] - N[i, j])

    return moments


@cache
def _zeros(n: int, p: int) -> Callable[..., None]:
    clear = ported(small_matrices.clear)

    @device
    def fresh(
        r: Matrix, N: Matrix, dA: Matrix, dC: Matrix, dR: Matrix, dd: Matrix, dy: Matrix
    ) -> None:
        clear(n, 1, r)
        clear(n, n, N)
        clear(n, n, dA)
        clear(p, n, dC)
        clear(p, p, dR)
        clear(p, 1, dd)
        clear(p, 1, dy)

    return fresh
