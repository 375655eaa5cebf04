"""The filter of larger states: compiled steps, and runs in the steady state as a few products."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ....ops.small_matrices import HALF_LOG_2PI
from ....ops.threads import in_threads
from ..cpu.problem import Pass, Problem, allocate
from .filter_kernels import advance, recur
from .model import is_constant, model_of, right_factor
from .state_kernels import ALL_GAINS, NO_GAINS, SOME_GAINS, Model, State
from .step_kernels import step_space

Array = np.ndarray
_CHUNK = 12  # steps between two looks at what is known


class Filtering(NamedTuple):
    """A run of the filter.

    Attributes:
        model: As the loops take it. result: What it left.
        kinds: What each slot holds, `(series, slots)`.
        same: Whether no matrix varies in time.
    """

    model: Model
    result: Pass
    kinds: Array
    same: bool


class Steady(NamedTuple):
    """One gain: `e = V (y - d - C a)`, `m = a + G e`.

    Attributes:
        V: `S^-1/2`. G: Whitened gain. H: `V C`. chol: `S^1/2`.
    """

    V: Array
    G: Array
    H: Array
    chol: Array


class Keep(NamedTuple):
    """What a run writes.

    Attributes:
        moments: Means and second moments of every step.
        covs: Covariances in place of their factors.
        gains: Which gains; see `state_kernels.py`.
    """

    moments: bool
    covs: bool
    gains: int


LIKELIHOOD, MOMENTS = Keep(False, False, NO_GAINS), Keep(True, True, NO_GAINS)
SMOOTHER, PATTERN = Keep(True, False, SOME_GAINS), Keep(True, False, ALL_GAINS)


def run(problem: Problem, keep: Keep) -> Filtering:
    """Filter all series.

    Args:
        problem: With a regular `R`.
        keep: What is wanted.
    """
    size, model = problem.sizes, model_of(problem)
    time = size.time if keep.moments else min(size.time, 2)
    out = _room(problem, time, gains=keep.moments and keep.gains > NO_GAINS)
    kinds = np.zeros((size.series, time), np.int64)
    same = is_constant(problem)
    runs = complete_runs(problem.y) if same and not size.k else np.zeros(problem.y.shape[:2], int)

    def some(first: int, last: int, space: tuple[Array, ...]) -> None:
        for s in range(first, last):
            state = _begin(problem, s)
            _series(problem, model, runs, state, (out, kinds), keep, s, space)

    in_threads(some, size, space=lambda: step_space(size.n, size.p, size.k))
    return Filtering(model, out, kinds, same)


def run_head(problem: Problem, enough: Callable[[Pass, int], bool]) -> tuple[Pass, int] | None:
    """Filter until all series have enough data; return the run and how many steps that took.

    Args:
        problem: With a diffuse start.
        enough: Tells whether the run may end with a step.
    """
    size, model = problem.sizes, model_of(problem)
    out, kinds = (
        _room(problem, size.time, gains=True),
        np.zeros((size.series, size.time), np.int64),
    )
    runs = np.zeros((size.series, size.time), int)
    states = [_begin(problem, s) for s in range(size.series)]
    space, t = step_space(size.n, size.p, size.k), 0
    given = (kinds, tuple(SMOOTHER), space)
    while t < size.time:
        until = min(size.time, max(t + _CHUNK, -(-size.k // size.p)))
        for s, state in enumerate(states):
            advance(s, t, until, model, problem.y, runs, state, tuple(out), *given)
        t = until
        if enough(out, t - 1):
            return out, t
    return None


def spread_slots(slot: Array, held: Array) -> Array:
    """Give each step what its slot holds, `(series, time, ...)`; without a copy where it can be.

    Args:
        slot: `(series, time)`.
        held: `(series, slots, ...)`.
    """
    if (slot[:, -1] == slot.shape[1] - 1).all():
        return held
    out = np.empty((*slot.shape, *held.shape[2:]))
    for s, steps in enumerate(slot):
        edges = [0, *(np.flatnonzero(np.diff(steps)) + 1).tolist(), len(steps)]
        for first, until in pairwise(edges):
            out[s, first:until] = held[s, steps[first]]
    return out


def complete_runs(y: Array) -> Array:
    """Number of complete steps from each step on, `(series, time)`."""
    complete = ~np.isnan(y.sum(-1))
    time = np.arange(y.shape[1])
    gap = np.where(complete, y.shape[1], time)
    following = np.minimum.accumulate(gap[:, ::-1], 1)[:, ::-1]
    return np.ascontiguousarray(following - time)


def _room(problem: Problem, time: int, *, gains: bool) -> Pass:
    size = problem.sizes
    out = allocate(size._replace(time=size.time), time, time)
    if gains:
        return out
    S, (p, k) = size.series, (size.p, size.k)
    return out._replace(
        G=np.empty((S, 0, size.n, p)), chol=np.empty((S, 0, p, p)), E=np.empty((S, 0, p, 1 + k))
    )


def _begin(problem: Problem, s: int) -> State:
    n, p, k = problem.sizes.n, problem.sizes.p, problem.sizes.k
    mean, factor = (x[min(s, len(x) - 1)] for x in problem.start)
    L = factor.copy()
    if np.triu(L, 1).any():
        L = np.ascontiguousarray(right_factor(L.T).T)
    zeros = np.zeros
    return State(
        mean.copy(), mean.copy(), L, L.copy(), L.copy(), zeros((k + 1, k + 1)),
        zeros(p, np.int64), zeros(p, np.int64), zeros((p, n)), zeros((p, p)), zeros((p, 1 + k)),
        zeros((p, p)), zeros((n, p)), np.abs(mean[:, 1:]), np.array([0, -1, 0, 0]),
    )  # fmt: skip


def _series(
    problem: Problem,
    model: Model,
    runs: Array,
    state: State,
    outputs: tuple[Pass, Array],
    keep: Keep,
    s: int,
    space: Any,  # noqa: ANN401
) -> None:
    out, kinds = outputs
    t, time = 0, problem.sizes.time
    while t < time:
        given = (model, problem.y, runs, state, tuple(out), kinds, tuple(keep), space)
        t = advance(s, t, time, *given)
        if t < time:
            until = t + int(runs[s, t])
            _steady_run(problem, model, state, out, keep.moments, s, (t, until))
            t = until


def steady_gain(L: Array, C: Array, R: Array) -> Steady:
    """Return the gain of a predicted factor.

    Args:
        L: Predicted factor.
        C: Emission.
        R: Its covariance, regular.
    """
    p = len(C)
    V = C @ L
    chol = right_factor(np.concatenate((np.linalg.cholesky(R), V), 1).T).T
    chol = chol * np.where(np.diagonal(chol) < 0, -1.0, 1.0)
    inverse = np.linalg.solve(chol, np.eye(p))
    return Steady(inverse, L @ V.T @ inverse.T, inverse @ C, np.ascontiguousarray(chol))


def _steady_run(
    problem: Problem,
    model: Model,
    state: State,
    out: Pass,
    store: bool,
    s: int,
    steps: tuple[int, int],
) -> None:
    """Filter complete steps with one gain."""
    A, C, R = (x[min(s, len(x) - 1), 0] for x in (model.A, model.C, model.R))
    gain = steady_gain(state.before, C, R)
    own = slice(*steps)
    b, d = (_steps(x[min(s, len(x) - 1)], own) for x in (model.b, model.d))
    v = problem.y[s, own] - d
    AG = A @ gain.G
    x = np.empty((len(v), len(A)))
    x[0] = A @ state.m[:, 0]
    np.matmul(v[:-1], (AG @ gain.V).T, out=x[1:])
    x += b
    recur(np.ascontiguousarray(A - AG @ gain.H), x)
    e = v @ gain.V.T - x @ gain.H.T
    m = x + e @ gain.G.T
    volume = -len(C) * HALF_LOG_2PI - np.log(np.diagonal(gain.chol)).sum()
    out.log_likelihood[s, own] = volume - 0.5 * np.square(e).sum(1)
    state.m[:, 0] = m[-1]
    if store:
        out.slot[s, own] = state.counts[0] - 1
        out.a[s, own, :, 0], out.m[s, own, :, 0] = x, m
        if out.E.shape[1]:
            out.E[s, own, :, 0] = e


def _steps(x: Array, own: slice) -> Array:
    return x if len(x) == 1 else x[own]
