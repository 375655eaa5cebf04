"""Matrices of a block of is_steady steps: the recursions, run on unit vectors.

Columns are what a block is given: its observations, step by step; the mean it begins with; a one,
for the offsets; and, on the way back, what later blocks say.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .problem import Pass, Problem
from .vector.sizes import BLOCK_STEPS, slots

Array = np.ndarray


class Step(NamedTuple):
    """A step in the steady state: `e = V (y - d) - H a`, `m = a + G e`, next `a = A m + b`.

    Attributes:
        A: Transition. b: Its offset. d: Offset of the emission. G: Whitened gain.
        V: Whitens innovations. H: Whitened emission.
    """

    A: Array
    b: Array
    d: Array
    G: Array
    V: Array
    H: Array


class Filter(NamedTuple):
    """What a block does on the way forward, over `columns` of what it is given.

    Attributes:
        e: Innovations, `(8, obs, columns)`. a: Predicted means. m: Filtered means.
        x: Mean predicted for the step after the block, and a one.
    """

    e: Array
    a: Array
    m: Array
    x: Array


def last_step(problem: Problem, pattern: Pass) -> Step:
    """Return the step that steady blocks consist of."""
    A, b, _, C, d, _ = (x[0, 0] for x in problem.params)
    i = pattern.slot[0, -1]
    V = np.linalg.inv(np.tril(pattern.chol[0, i]))
    return Step(A, b, d, pattern.G[0, i], V, V @ C)


def filter_maps(step: Step) -> Filter:
    """Run a block forward."""
    p, n = step.H.shape
    given, own, offset = _one_step(step)
    x = unit(BLOCK_STEPS * p, n + 1, BLOCK_STEPS * p + n + 1)
    found = np.empty((BLOCK_STEPS, p + 2 * n, x.shape[1]))
    before = np.empty((BLOCK_STEPS, n, x.shape[1]))
    for k in range(BLOCK_STEPS):
        before[k] = x[:n]
        np.matmul(own, x[:n], out=found[k])
        found[k, :, k * p : k * p + p] += given
        found[k, :, -1] += offset
        x[:n] = found[k, p + n :]
    return Filter(found[:, :p], before, found[:, p : p + n], x)


def _one_step(step: Step) -> tuple[Array, Array, Array]:
    """Innovation, filtered and next predicted mean by the observation, the mean and the offset."""
    GV, left = step.G @ step.V, np.eye(len(step.A)) - step.G @ step.H
    Vd, GVd = step.V @ step.d, GV @ step.d
    return (
        np.concatenate((step.V, GV, step.A @ GV)),
        np.concatenate((-step.H, left, step.A @ left)),
        np.concatenate((-Vd, -GVd, step.b - step.A @ GVd)),
    )


def smoother_maps(filtered: Filter, Z: Array, Ze: Array, B: Array) -> tuple[Array, Array]:
    """Run a block backward: its smoothed means, and what it tells the block before.

    Args:
        filtered: The way forward; here are further columns, one for each number of `zeta`.
        Z: `zeta` of a step is `Z zeta + Ze e` of the next.
        Ze: See `Z`.
        B: Means move by `B zeta`.
    """
    n, columns = len(Z), filtered.e.shape[2]
    means, from_e = (
        np.zeros((BLOCK_STEPS, n, columns + n)),
        np.zeros((BLOCK_STEPS, n, columns + n)),
    )
    means[..., :columns] = filtered.m
    from_e[..., :columns] = Ze @ filtered.e
    zeta = unit(columns, n, columns + n)
    for k in reversed(range(BLOCK_STEPS)):
        means[k] += B @ zeta
        zeta = Z @ zeta + from_e[k]
    return means, zeta


class Score(NamedTuple):
    """What a block does on the way back, over `(e, r, x, 1)`, in stretches that fill vectors.

    Attributes:
        after: Adjoint of the step after each step, `(8, n, columns)`. r: Of each step itself.
        z: Smoothed means. w: Smoothing errors, `(8, obs, columns)`.
    """

    after: Array
    r: Array
    z: Array
    w: Array


def score_maps(step: Step, P: Array) -> Score:
    """Run a block back from the adjoint `r`, its innovations `e` and the mean `x` it begins with.

    `e` goes component by component.

    Args:
        step: In the steady state.
        P: Predicted covariance.
    """
    p, n = step.H.shape
    at = BLOCK_STEPS * p + slots(n)
    columns = at + slots(n + 1)
    a, one, r = unit(at, n, columns), unit(at + n, 1, columns), unit(BLOCK_STEPS * p, n, columns)
    e = unit(0, BLOCK_STEPS * p, columns).reshape(p, BLOCK_STEPS, columns).swapaxes(0, 1)
    predicted = []
    for k in range(BLOCK_STEPS):
        predicted.append(a)
        a = step.A @ (a + step.G @ e[k]) + step.b[:, None] * one
    found = []
    for k in reversed(range(BLOCK_STEPS)):
        q = step.A.T @ r
        w = e[k] - step.G.T @ q
        q = q + step.H.T @ w
        found.append((r, q, predicted[k] + P @ q, step.V.T @ w))
        r = q
    return Score(*(np.stack(x[::-1]) for x in zip(*found, strict=True)))


def register_blocks(rows: Array) -> Array:
    """Cut `(..., columns)` into blocks of eight rows, `(blocks, columns, 8)`, zeros at the end."""
    flat = rows.reshape(-1, rows.shape[-1])
    out = np.zeros((slots(len(flat)), flat.shape[1]))
    out[: len(flat)] = flat
    return np.ascontiguousarray(out.reshape(-1, BLOCK_STEPS, flat.shape[1]).swapaxes(1, 2))


def needed(W: Array, p: int) -> Array:
    """Return how many of a block's observations each block depends on, the first ones."""
    used = (W[:, : BLOCK_STEPS * p] != 0).any(-1)
    return np.where(used, 1 + np.arange(BLOCK_STEPS * p), 0).max(-1)


def unit(first: int, rows: int, columns: int) -> Array:
    """Return rows of the identity, from `first` on."""
    return np.eye(columns)[first : first + rows]
