"""Runs of the filter that can be differentiated, and their scores, by whichever loops ran."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import torch

from ....ops.threads import in_threads
from ..dense.serves import dense_serves
from ..diffuse import posterior_mix
from .folding import Folded, joined, of_head, with_later
from .problem import Pass, Problem
from .run import SCORE, folded, run_alone, shared_pattern
from .shared import SharedRun, filter_for_score
from .shared_gradient import constant, score_shared, shapes

if TYPE_CHECKING:
    from ..dense.filtering import Filtering

Array = np.ndarray
Arrays = tuple[Array, ...]


class WantedScores(NamedTuple):
    """Which derivatives are wanted of those that take time: by `y, A, C, R`."""

    y: bool
    A: bool
    C: bool
    R: bool


class FoldedRun(NamedTuple):
    """A run in two parts.

    Attributes:
        parts: Head and tail. tail: A run of the tail. log_likelihood: `(series, time)`.
    """

    parts: Folded
    tail: Alone
    log_likelihood: Array


class DenseRun(NamedTuple):
    """A run of larger states. log_likelihood: `(series, time)`."""

    run: Filtering
    log_likelihood: Array


Alone: TypeAlias = "Pass | DenseRun"
Run: TypeAlias = "Alone | FoldedRun | SharedRun"


def differentiable_run(problem: Problem) -> Run:
    """Filter all series and keep what the score needs.

    Args:
        problem: Any.
    """
    parts = folded(problem)
    if parts is not None:
        tail = _alone(parts.tail)
        both = (parts.result.log_likelihood, tail.log_likelihood)
        return FoldedRun(parts, tail, np.concatenate(both, 1))
    pattern = shared_pattern(problem) if len(problem.start[0]) == 1 else None
    return _alone(problem) if pattern is None else filter_for_score(problem, pattern)


def score(problem: Problem, run: Run, scale: Array, wants: WantedScores) -> Arrays:
    """Weighted gradient of each series' log-likelihood: `y, m0, P0, A, b, Q, C, d, R`.

    Args:
        problem: As it ran.
        run: From `differentiable_run`.
        scale: Weight of each series.
        wants: What is wanted.
    """
    if isinstance(run, SharedRun):
        return score_shared(problem, run, scale, wants.y)
    grads = (
        _folded_score(problem, run, wants)
        if isinstance(run, FoldedRun)
        else _alone_score(problem, run, wants)
    )
    return tuple(x * scale.reshape(-1, *(1,) * (x.ndim - 1)) for x in grads)


def _alone(problem: Problem) -> Alone:
    if not dense_serves(problem):
        return run_alone(problem, SCORE)
    from ..dense.filtering import SMOOTHER, run

    found = run(problem, SMOOTHER)
    return DenseRun(found, found.result.log_likelihood)


def _alone_score(problem: Problem, run: Alone, wants: WantedScores) -> Arrays:
    size, S = problem.sizes, problem.sizes.series
    g = [np.zeros((S, *shape)) for shape in shapes(problem)]
    start = (np.zeros((S, size.n)), np.zeros((S, size.n, size.n)))
    gy = np.zeros((S, size.time, size.p))
    if S and size.time:
        by_loops = _scalar_score if isinstance(run, Pass) else _dense_score
        by_loops(problem, run, wants, (*g, gy, *start))  # type: ignore[arg-type]
    return (gy, *start, *g)


def _mix(result: Pass) -> Array:
    return np.ascontiguousarray(posterior_mix(torch.from_numpy(result.info[:, -1]))[0].numpy())


def _dense_score(problem: Problem, run: DenseRun, wants: WantedScores, grads: Arrays) -> None:
    from ..dense.backward import score

    score(problem, run.run, _mix(run.run.result), grads, (wants.A, wants.C, wants.R))


def _scalar_score(problem: Problem, r: Pass, wants: WantedScores, grads: Arrays) -> None:
    from .scalar.score import score_kernel, score_space

    size, S = problem.sizes, problem.sizes.series
    stored = (r.slot, r.a, r.L, r.F, r.G, r.chol, r.E, r.rows, r.count)
    A, _, _, C, _, _ = problem.params
    flat = (r.a.reshape(S, -1), r.E.reshape(S, -1))
    arguments = (A, C, constant(problem), stored, _mix(r), flat, wants.y)
    kernel = score_kernel(size.constants[:3] if size.constants else None)
    in_threads(kernel, size, *arguments, grads, space=partial(score_space, size.n, size.p, size.k))


def _folded_score(problem: Problem, run: FoldedRun, wants: WantedScores) -> Arrays:
    """The tail's score by its start is what the head is told as one more observation."""
    from ..dense.backward import equations_of

    parts = run.parts
    tail = _alone_score(parts.tail, run.tail, wants)
    means, factors = parts.tail.start
    said = []
    for s, (r, by_cov) in enumerate(zip(tail[1], tail[2], strict=True)):
        N = np.outer(r, r) - by_cov - by_cov.T
        found = equations_of(r, N, factors[min(s, len(factors) - 1)])
        if found is None:
            return _alone_score(problem, _alone(problem), wants)
        said.append(found)
    U, zeta = (np.stack(x) for x in zip(*said, strict=True))
    longer = with_later(problem, parts.length, U, zeta, means[..., 0])
    head = of_head(problem, parts.length, _alone_score(longer, _alone(longer), wants))
    by_step = [joined(head[0], tail[0], transition=False)]
    transition = [joined(x, y, transition=True) for x, y in zip(head[3:6], tail[3:6], strict=True)]
    emission = [joined(x, y, transition=False) for x, y in zip(head[6:], tail[6:], strict=True)]
    return (*by_step, head[1], head[2], *transition, *emission)
