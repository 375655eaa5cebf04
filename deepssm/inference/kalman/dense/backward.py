"""Backward passes of larger states: scores, smoothed moments, and what they become when steady."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ....ops.threads import in_threads
from ..cpu.problem import Problem
from .adjoint_kernels import retreat
from .adjoint_step_kernels import Adjoint, Wants, adjoint_space
from .filter_kernels import recur
from .filtering import Filtering
from .smoother_kernels import smooth_carefully, smoother_space
from .state_kernels import MANY

Array = np.ndarray
Arrays = tuple[Array, ...]
# Smallest pivot of `I - K' P K` for which a score says precisely what the future says.
_PRECISE = 1e-6
# Shares of what is said, in units of its diagonal, that count, and that are round-off.
_SAID, _ROUNDING = 1e-9, 1e-13


class Equations(NamedTuple):
    """What data say of a state: `U (z - a) = zeta + noise`, in terms of its predicted mean."""

    U: Array
    zeta: Array


def smooth(
    problem: Problem, filtering: Filtering, *, cross: bool
) -> tuple[Arrays, list[Equations | None]]:
    """Return smoothed means `(series, time, n, 1)`, covariances and lag-one covariances.

    Args:
        problem: With a proper start.
        filtering: A run with moments and gains.
        cross: Whether lag-one covariances are wanted.

    Returns:
        These, and for each series what its data say of the first state.
    """
    (S, T, n), size = problem.sizes[:3], problem.sizes
    smoothed = (np.empty((S, T, n, 1)), np.empty((S, T, n, n)), np.empty((S, T, n, n)))
    smoothed[2][:, :1] = 0.0
    wants = Wants(False, False, False, False, True, cross)
    none = tuple(np.empty((0,) * axes) for axes in (4, 3, 4, 4, 3, 4, 3, 2, 3))
    mix = np.ones((S, 1, 1))
    said: list[Equations | None] = [None] * S

    def some(first: int, last: int, own: Adjoint) -> None:
        for s in range(first, last):
            said[s] = _series(problem, filtering, s, mix, wants, own, none, smoothed)

    in_threads(some, size, space=lambda: adjoint_space(n, size.p, 0))
    return smoothed, said


def score(
    problem: Problem,
    filtering: Filtering,
    mix: Array,
    grads: Arrays,
    wanted: tuple[bool, bool, bool],
) -> None:
    """Add the derivatives `A, b, Q, C, d, R, y, m0, P0` of each series' log-likelihood.

    Args:
        problem: The series.
        filtering: A run with moments and gains.
        mix: Posterior of the diffuse coefficients.
        grads: To add to.
        wanted: Whether `A, C, R` are wanted.
    """
    size = problem.sizes
    wants = Wants(True, *wanted, False, False)
    none = (np.empty((0, 0, 0, 0)), np.empty((0, 0, 0, 0)), np.empty((0, 0, 0, 0)))

    def some(first: int, last: int, own: Adjoint) -> None:
        for s in range(first, last):
            _series(problem, filtering, s, mix, wants, own, grads, none)

    in_threads(some, size, space=lambda: adjoint_space(size.n, size.p, size.k))


def _series(
    problem: Problem,
    filtering: Filtering,
    s: int,
    mix: Array,
    wants: Wants,
    own: Adjoint,
    grads: Arrays,
    smoothed: Arrays,
) -> Equations | None:
    r = filtering.result
    stored = (r.slot, r.L, r.m, r.F, r.G, r.chol, r.E, r.rows, r.count)
    own.r[:], own.N[:] = 0.0, 0.0
    t = problem.sizes.time - 1
    rest = (
        filtering.model,
        problem.y,
        stored,
        filtering.kinds,
        mix[s],
        wants,
        own,
        grads,
        smoothed,
    )
    while t >= 0:
        t, steady = retreat(s, t, *rest, filtering.same)
        if t < -1:
            return _carefully(problem, filtering, s, -2 - t, own, smoothed)
        if steady:
            first = t + 1 - _shared(r.slot[s], t)
            _steady_run(problem, filtering, s, (first, t + 1), wants, own, grads, smoothed)
            t = first - 1
    return equations_of(own.r[:, 0], own.N, r.L[s, r.slot[s, 0]]) if wants.moments else None


def _shared(slot: Array, t: int) -> int:
    """Number of steps up to `t`, after the very first, that share its slot."""
    other = np.flatnonzero(slot[:t] != slot[t])
    return t - max(int(other[-1]) if other.size else 0, 0)


def _steady_run(
    problem: Problem,
    filtering: Filtering,
    s: int,
    steps: tuple[int, int],
    wants: Wants,
    own: Adjoint,
    grads: Arrays,
    smoothed: Arrays,
) -> None:
    """Do all steps whose `N` is that of the step after them."""
    out, span = filtering.result, slice(*steps)
    A = filtering.model.A[min(s, len(filtering.model.A) - 1), 0]
    G, noise, e = _steady_gain(problem, filtering, s, span, own)
    m = out.m[s, span, :, 0]
    later = np.empty((len(e) + 1, len(A)))
    later[0] = own.r[:, 0]
    np.matmul(e[::-1], own.H, out=later[1:])
    recur(np.ascontiguousarray((A - (A @ G) @ own.H).T), later)
    r, after = later[:0:-1], later[-2::-1]
    q = after @ A
    z = m + q @ own.P
    if wants.moments:
        mean, cov, cross = smoothed
        mean[s, span, :, 0] = z
        cov[s, span] = cov[s, steps[1]]
        if wants.cross:
            cross[s, steps[0] + 1 : steps[1] + 1] = cross[s, steps[1] + 1]
    if wants.scores:
        w = np.linalg.solve(noise.T, (e - q @ G).T).T
        _add_scores(own, grads, s, span, (r, after, z, w))
    own.r[:, 0] = later[-1]


def _steady_gain(
    problem: Problem, filtering: Filtering, s: int, span: slice, own: Adjoint
) -> Arrays:
    """Gain, factor that residuals are whitened by, and whitened residuals."""
    out = filtering.result
    i = out.slot[s, span.start]
    if filtering.kinds[s, i] != MANY:
        return out.G[s, i], out.chol[s, i], out.E[s, span, :, 0]
    C, d = (x[min(s, len(x) - 1)] for x in (filtering.model.C, filtering.model.d))
    noise = np.tril(own.noise)
    offset = d if len(d) == 1 else d[span]
    residual = problem.y[s, span] - offset - out.m[s, span, :, 0] @ C[0].T
    return own.G, noise, np.linalg.solve(noise, residual.T).T


def _add_scores(own: Adjoint, grads: Arrays, s: int, span: slice, means: Arrays) -> None:
    gA, gb, gQ, gC, gd, gR, gy, _, _ = grads
    r, after, z, w = means
    count = len(r)
    gy[s, span] -= w
    gA[s, 0] += after.T @ z - count * own.NAP
    gC[s, 0] += w.T @ z - count * own.Z
    gR[s, 0] += 0.5 * (w.T @ w - count * own.D)
    gQ[s, 0] += 0.5 * (r.T @ r - count * own.N)
    for by, values in ((gb, r), (gd, w)):
        if by.shape[1] == 1:
            by[s, 0] += values.sum(0)
        else:
            by[s, span] += values


def equations_of(r: Array, N: Array, L: Array) -> Equations | None:
    """Turn a score by the predicted mean and its variance into equations; `None` if too rough.

    With `N = K K'` and `I - K' P K = Y Y'` these are `U = Y^-1 K'`, `zeta = Y^-1 K^+ r`.

    Args:
        r: `(n,)`.
        N: `(n, n)`.
        L: Factor of the predicted covariance.
    """
    scale = np.sqrt(np.diagonal(N)).clip(1e-300)
    shares, axes = np.linalg.eigh(N / scale[:, None] / scale)
    kept = shares > _SAID * max(shares[-1], 0.0)
    if (np.abs(shares[~kept]) > _ROUNDING * max(shares[-1], 0.0)).any():
        return None
    root, axes = np.sqrt(shares[kept]), axes[:, kept]
    K, inverse = scale[:, None] * axes * root, (axes / root).T / scale
    V = L.T @ K
    left = np.eye(K.shape[1]) - V.T @ V
    if K.shape[1] and not np.linalg.eigvalsh(left)[0] > _PRECISE:
        return None
    Y = np.linalg.cholesky(left)
    U, zeta = np.zeros_like(N), np.zeros_like(r)
    U[: len(Y)] = np.linalg.solve(Y, K.T)
    zeta[: len(Y)] = np.linalg.solve(Y, inverse @ r)
    return Equations(U, zeta)


def _carefully(
    problem: Problem, filtering: Filtering, s: int, t: int, own: Adjoint, smoothed: Arrays
) -> Equations:
    """Smooth steps from `t` down by reflections; from the last one where that is not precise."""
    out, (T, n, p) = filtering.result, problem.sizes[1:4]
    found = Equations(np.zeros((n, n)), np.zeros(n))
    if t < T - 1:
        later = equations_of(own.r[:, 0], own.N, out.L[s, out.slot[s, t + 1]])
        t, found = (T - 1, found) if later is None else (t, later)
    room = (np.zeros((n, n)), np.zeros((n, n)))
    stored = (out.slot, out.a, out.m, out.F)
    given = (s, t, filtering.model, problem.y, stored, *found, smoothed, np.zeros(p, np.int64))
    smooth_carefully(*given, room, smoother_space(n, p))
    return found
