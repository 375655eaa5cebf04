"""The gradient of many series with one model and one pattern of gaps.

What does not depend on the data is computed once; steps before the steady state move as columns;
others move in blocks of eight steps, of which only sums of products remain (`block_kernels.py`).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from ....ops.arrays import SIMD_WIDTH
from ....ops.threads import in_threads
from .problem import Problem
from .shared import Arrays, SharedRun

Array = np.ndarray


def score_shared(
    problem: Problem, result: SharedRun, scale: Array, want_y: bool
) -> tuple[Array, ...]:
    """Weighted gradient, summed over the series: `y, m0, P0, A, b, Q, C, d, R`; `y` by series."""
    from .vector.shared_kernels import column_blocks
    from .vector.shared_score import shared_score
    from .vector.sizes import slots

    size, r = problem.sizes, result.pattern
    (S, T, n, p), steady = size[:4], result.steady
    terms, y_grad = _terms(problem, result), np.zeros((S, T if want_y else steady.start, p))
    adjoint, sums = np.zeros((S, 2, slots(n))), []
    more = _score_steady_blocks(problem, result, (adjoint, scale, y_grad), terms, want_y)

    def scratch() -> tuple[Any, ...]:
        some = (np.zeros(n), np.zeros((n, n)), np.zeros((p, p)), np.zeros((p, n)))
        own = (*(np.zeros(shape) for shape in shapes(problem)), *some)
        sums.append(own)  # by name: another thread may append before this one returns
        return column_blocks(n, n, n, p, p, 1), own

    pattern = (r.slot, r.G, r.chol, r.rows, r.count)
    A, _, _, C, _, _ = problem.params
    means, steps = (*result.means, adjoint), (steady.start, T)
    arguments = (A, C, pattern, terms, means, scale, y_grad, steps)
    in_threads(shared_score, size, *arguments, space=scratch)
    gA, gb, gQ, gC, gd, gR, gm0, gP0, *_ = (sum(parts) for parts in zip(*sums, strict=True))
    found = [gA, gb, gQ, gC, gd, gR]
    if more is not None:
        found = [x + extra for x, extra in zip(found, more, strict=True)]
    gA, gb, gQ, gC, gd, gR = found
    return y_grad, gm0, 0.5 * gP0, gA, gb, 0.5 * gQ, gC, gd, gR  # type: ignore[return-value]


def shapes(problem: Problem) -> list[tuple[int, ...]]:
    """Shapes of the gradients of `A, b, Q, C, d, R` for one series."""
    A, b, LQ, C, d, R = problem.params
    n = problem.sizes.n
    return [x[1:] for x in (A.shape, b.shape, (1, LQ.shape[1], n, n), C.shape, d.shape, R.shape)]


def constant(problem: Problem) -> bool:
    """True when no matrix of the model varies in time."""
    A, _, LQ, C, _, R = problem.params
    return all(x.shape[1] == 1 for x in (A, LQ, C, R))


def _terms(problem: Problem, result: SharedRun) -> Arrays:
    """`H, P, D, HP, NAP, N` of each step and which entry it uses."""
    from .scalar.score import score_space
    from .vector.shared_score import score_terms

    size, r = problem.sizes, result.pattern
    T, n, p = size.time, size.n, size.p
    A, _, _, C, _, _ = problem.params
    squares = ((p, n), (n, n), (p, p), (p, n), (n, n), (n, n))
    terms = (*(np.empty((T, *shape)) for shape in squares), np.empty(T, np.int64))
    stored = (r.slot, r.L, r.F, r.G, r.chol, r.rows, r.count)
    arguments = (A, C, constant(problem), stored, terms)
    space = partial(score_space, n, p, 0)
    in_threads(score_terms, size._replace(series=1), *arguments, space=space)
    return terms


def _score_steady_blocks(
    problem: Problem, result: SharedRun, state: Arrays, terms: Arrays, want_y: bool
) -> tuple[Array, ...] | None:
    """Derivatives `A, b, Q, C, d, R` of steady blocks; leaves the adjoint of its first step."""
    from .block_matrices import last_step, register_blocks, score_maps
    from .vector.block_kernels import innovation_space, score_steady_blocks
    from .vector.sizes import BLOCK_STEPS, slots

    size, steady = problem.sizes, result.steady
    if result.maps is None:
        return None
    adjoint, scale, y_grad = state
    (n, p), step = size[2:4], last_step(problem, result.pattern)
    *_, place = terms
    maps, used = score_maps(step, terms[1][place[steady.start]]), BLOCK_STEPS * p + n
    W = (
        register_blocks(result.maps.e.swapaxes(0, 1)),
        register_blocks(maps.r[0][:, :used]),
        register_blocks(maps.w[..., :used]),
    )
    rows, columns = BLOCK_STEPS * p + slots(n), maps.r.shape[2]
    sums: list[Array] = []

    def scratch() -> tuple[Array, Array, Array]:
        own = np.zeros((rows, columns))
        sums.append(own)
        return innovation_space(p), np.zeros(BLOCK_STEPS), own

    data = (problem.y, result.x, adjoint, W, steady.start, steady.blocks, n, scale, y_grad, want_y)
    in_threads(score_steady_blocks, size, *data, space=scratch)
    if want_y:
        y_grad[:, steady.start :] *= -scale[:, None, None]
    total = np.zeros((columns, columns))
    total[:rows] = sum(sums)
    _mirror(total, rows)
    one = BLOCK_STEPS * p + slots(n) + n
    _, _, D, HP, NAP, N = (_sum_of(x, place[steady.start :]) * scale.sum() for x in terms[:-1])
    left = [x @ total for x in (maps.after, maps.r, maps.w)]
    by = [
        (x @ z.swapaxes(1, 2)).sum(0) for x, z in zip(left, (maps.z, maps.r, maps.z), strict=True)
    ]
    by_R = (left[2] @ maps.w.swapaxes(1, 2)).sum(0)
    by_b, by_d = left[1][..., one].sum(0), left[2][..., one].sum(0)
    return by[0] - NAP, by_b, by[1] - N, by[2] - HP, by_d, 0.5 * (by_R - D)


def _mirror(total: Array, rows: int) -> None:
    """Fill in the blocks below the diagonal, which are those above it."""
    square = total[:rows, :rows]
    block = np.arange(rows) // SIMD_WIDTH
    below = block[:, None] > block
    square[below] = square.T[below]


def _sum_of(x: Array, place: Array) -> Array:
    entries, counts = np.unique(place, return_counts=True)
    return np.tensordot(counts.astype(float), x[entries], 1)
