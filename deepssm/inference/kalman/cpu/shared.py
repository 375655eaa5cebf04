"""Many series with one model and one pattern of gaps: second moments once, means of all.

Such a shared-covariance batch moves through steps with gaps, and those of a model that varies, as
columns of one matrix (`shared_kernels.py`), through others as SIMD vectors of eight series
(`shared_simd.py`); smoother and gradient in the steady state take eight steps as one matrix
(`block_kernels.py`).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ....ops.memory import lines
from ....ops.threads import in_threads
from .problem import Pass, Problem

if TYPE_CHECKING:
    from .block_matrices import Filter

Array = np.ndarray
Arrays = tuple[Array, ...]


_SMOOTHER, _SCORE = (False, True, True), (True, False, True)


class SteadyBlocks(NamedTuple):
    """Steps whose gain is that of the last step, in whole blocks up to the end.

    Attributes:
        start: First of them, or the number of steps; the step before it has the same gain.
        blocks: Number of blocks.
    """

    start: int
    blocks: int


class SharedRun(NamedTuple):
    """What the score needs of a run of all series.

    Attributes:
        pattern: Run of the first series. steady: Its steady blocks.
        log_likelihood: `(series, time)`.
        means: Predicted means and innovations before these, `(series, time, size, 1)`.
        x: Mean that each of these begins with, and a one. maps: What a block does.
    """

    pattern: Pass
    steady: SteadyBlocks
    log_likelihood: Array
    means: Arrays
    x: Array
    maps: Filter | None


def find_steady_blocks(problem: Problem, pattern: Pass) -> SteadyBlocks:
    """Return the steady blocks of a run, none where too few pay for the matrices."""
    from .vector.sizes import BLOCK_STEPS

    (S, T, n, p), slot = problem.sizes[:4], pattern.slot[0]
    if any(x.shape[1] > 1 for x in problem.params) or pattern.count[0, slot[-1]] < p:
        return SteadyBlocks(T, 0)
    other = np.flatnonzero(slot != slot[-1])
    is_steady = int(other[-1]) + 1 if other.size else 0
    blocks = max(T - is_steady - 1, 0) // BLOCK_STEPS
    if S * blocks < 2 * (BLOCK_STEPS * p + 2 * n):
        return SteadyBlocks(T, 0)
    return SteadyBlocks(T - BLOCK_STEPS * blocks, blocks)


def run_shared(problem: Problem, pattern: Pass, keep: tuple[bool, bool, bool]) -> Pass:
    """Filter all series; `keep` says which means of every step are wanted."""
    S, T, n, p = problem.sizes[:4]
    # One block for both, since a fresh page of memory costs as much as hundreds of numbers.
    means = lines(2, S, T, n, 1) if keep[0] and keep[1] else None
    a, m = means if means is not None else (np.empty((S, T if k else 1, n, 1)) for k in keep[:2])
    E = np.empty((S, T if keep[2] else 1, p, 1))
    ll, _ = forward(problem, pattern, SteadyBlocks(T, 0), (a, m, E), keep)
    info = np.empty((S, T, 0, 1))
    return pattern._replace(log_likelihood=ll, a=a, m=m, E=E, info=info)


def forward(
    problem: Problem,
    pattern: Pass,
    steady: SteadyBlocks,
    out: Arrays,
    keep: tuple[bool, bool, bool],
) -> tuple[Array, Array]:
    """Filter; write means before the steady blocks, and the mean that each of these begins with.

    Args:
        problem: The series.
        pattern: A run of the first.
        steady: Its steady blocks.
        out: Predicted and filtered means and innovations.
        keep: Which of them to write.

    Returns:
        Log-likelihoods, `(series, time)`, and means with a one, `(series, blocks, size)`.
    """
    from .vector.shared_kernels import shared_forward, shared_forward_space
    from .vector.shared_simd import SKIP, WRITE, shared_simd_kernel, shared_simd_space, way_of
    from .vector.sizes import BLOCK_STEPS, slots

    size = problem.sizes
    S, T, n, p = size[:4]
    ll, state = np.empty((S, T)), np.zeros((S, slots(n + 1)))
    state[:, :n], state[:, n] = problem.start[0][..., 0], 1.0
    first = min(_first_complete(problem, pattern), steady.start)
    if first:
        moments = (pattern.slot, pattern.G, pattern.chol, pattern.rows, pattern.count)
        arguments = (problem.params, problem.start[0], moments, problem.y, (ll, *out), state)
        space = partial(shared_forward_space, n, p)
        in_threads(shared_forward, size, *arguments, keep, first, space=space)
    x = np.empty((S, steady.blocks, slots(n + 1)))
    if first < T:
        kernel = shared_simd_kernel(size.constants[:2] if size.constants else None)
        model, space = _folded(problem, pattern), partial(shared_simd_space, n, p, slots(n + 1))
        written = tuple(way_of(x, first, wish) for x, wish in zip(out, keep, strict=True))
        ways = (
            ((first, (steady.start - first) // BLOCK_STEPS), (*written, SKIP)),
            ((steady.start, steady.blocks), (SKIP, SKIP, SKIP, WRITE)),
        )
        for steps, wanted in ways:
            if steps[1]:
                arguments = (problem.y, state, steps, model, (ll, *out, x), wanted)
                in_threads(kernel, size, *arguments, space=space)
    return ll, x


def _first_complete(problem: Problem, pattern: Pass) -> int:
    """First step from which whole blocks of complete steps of a constant model reach the end."""
    from .vector.sizes import BLOCK_STEPS

    T, p = problem.sizes.time, problem.sizes.p
    if any(x.shape[1] > 1 for x in problem.params):
        return T
    short = np.flatnonzero(pattern.count[0, pattern.slot[0]] < p)
    return T - (T - int(short[-1]) - 1 if short.size else T) // BLOCK_STEPS * BLOCK_STEPS


def _folded(problem: Problem, pattern: Pass) -> Arrays:
    """What complete steps do: matrices, which a step uses, log-volumes and both offsets."""
    from .scalar.steady import fold_space
    from .vector.shared_simd import fold_steps

    n, p, slot = problem.sizes.n, problem.sizes.p, pattern.slot[0]
    A, b, _, C, d, _ = (x[0, 0] for x in problem.params)
    used = int(slot.max()) + 1
    W, volume = np.empty((used, (n + p) ** 2 + n * p)), np.empty(used)
    stored = (pattern.G, pattern.chol, pattern.count)
    fold_steps(used, A, C, stored, W, volume, fold_space(n, p))
    return W, slot, volume, b, d


def filter_for_score(problem: Problem, pattern: Pass) -> SharedRun:
    """Filter all series; keep what the score needs."""
    steady, (S, _, n, p) = find_steady_blocks(problem, pattern), problem.sizes[:4]
    a, E = np.empty((S, steady.start, n, 1)), np.empty((S, steady.start, p, 1))
    ll, x = forward(problem, pattern, steady, (a, np.empty((S, 1, n, 1)), E), _SCORE)
    return SharedRun(pattern, steady, ll, (a, E), x, _maps(problem, pattern, steady))


def _maps(problem: Problem, pattern: Pass, steady: SteadyBlocks) -> Filter | None:
    """What a steady block does."""
    from .block_matrices import filter_maps, last_step

    return filter_maps(last_step(problem, pattern)) if steady.blocks else None


def smooth_shared(problem: Problem, pattern: Pass) -> tuple[Pass, tuple[Array, ...]]:
    """Filter and smooth all series; innovations and filtered means are written where needed.

    Returns:
        The run of the first series with the log-likelihoods of all; smoothed means, and of the
        first series factors, gains and which of them each step uses.
    """
    from .block_matrices import needed, register_blocks, smoother_maps
    from .vector.block_kernels import sweep, write
    from .vector.shared_kernels import shared_backward, shared_backward_space
    from .vector.sizes import slots

    steady, size = find_steady_blocks(problem, pattern), problem.sizes
    S, T, n, p = size[:4]
    maps, factor, gain, shared = _backward_maps(problem, pattern)
    end = _steady_blocks(steady, shared[0])
    mean, E, y, start = np.empty((S, T, n, 1)), np.empty((S, T, p, 1)), problem.y, steady.start
    ll, x = forward(problem, pattern, steady, (np.empty((S, 1, n, 1)), mean, E), _SMOOTHER)
    way = _maps(problem, pattern, steady)
    if way is not None:
        for rows, out in ((way.m, mean), (way.e, E)):
            W, blocks = register_blocks(rows), (end, steady.blocks)
            arguments = (y, x, x, W, needed(W, p), start, blocks, (n + 1, 0), out)
            in_threads(write, size, *arguments)
    z = np.zeros((S, 1 + end, slots(n)))
    stored, both = (shared, pattern.slot, pattern.count, E[..., 0]), (mean[..., 0], mean)

    def by_simd(places: tuple[int, int], steps: tuple[int, int]) -> None:
        arguments = (maps, stored, both, z, places, steps)
        in_threads(shared_backward, size, *arguments, space=partial(shared_backward_space, n, p))

    middle = start + 8 * end if end else T
    by_simd((end, end), (T, middle if end else 0))
    if way is not None and end:
        i = shared[0, start]
        means, zeta = smoother_maps(way, *(x[i] for x in maps))
        arguments = (y, x, z, register_blocks(zeta), start, (end - 1, -1, -1), (n + 1, n))
        in_threads(sweep, size, *arguments)
        W = register_blocks(means)
        arguments = (y, x, z, W, needed(W, p), start, (0, end), (n + 1, n), mean)
        in_threads(write, size, *arguments)
        by_simd((0, 0), (start, 0))
    info = np.empty((S, T, 0, 1))
    result = pattern._replace(log_likelihood=ll, info=info)
    return result, (mean, factor, gain, shared)


def _backward_maps(problem: Problem, pattern: Pass) -> tuple[Arrays, Array, Array, Array]:
    """The smoother of the first series without its data; see `vector.shared_kernels`."""
    from .scalar.smoother import backward_space
    from .vector.shared_kernels import backward_maps

    size, r = problem.sizes, pattern
    T, n, p = size.time, size.n, size.p
    factor, gain = np.empty((2, 1, T, n, n))
    shared = np.zeros_like(r.slot)
    maps = tuple(np.empty((T, *shape)) for shape in ((n, n), (n, p), (n, n)))
    stored, outputs = (r.slot, r.L, r.F, r.G, r.chol, r.count), (*maps, factor, gain, shared)
    one, space = size._replace(series=1), partial(backward_space, *size[2:])
    arguments = (problem.params, problem.y[:1], stored, outputs)
    in_threads(backward_maps, one, *arguments, space=space)
    return maps, factor, gain, shared


def _steady_blocks(steady: SteadyBlocks, shared: Array) -> int:
    """Number of steady blocks, from the first, where the smoother is steady as well."""
    if not steady.blocks:
        return 0
    other = np.flatnonzero(shared[steady.start - 1 :] != shared[steady.start - 1])
    return (int(other[0]) - 1) // 8 if other.size else steady.blocks
