"""Blocks of steps of a filter in its steady state: one matrix for all means of a block.

A block is linear in the mean it starts from and its observations, so that all its innovations,
predicted and filtered means, and the mean it ends with, are one matrix times one vector. The
matrix is stored by columns: the loop over outputs is what the compiler makes vectors of.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .....ops.arrays import Matrix, Space, Vector
from .....ops.small_matrices import INLINE, SPLICE

# Steps in a block: more shorten the chain from block to block, and cost products.
STEPS_AT_ONCE = 4


@njit(**INLINE)
def padded(rows: int) -> int:
    """A number of rows that fills vectors; shorter loops are unrolled before they become any."""
    return max(32, 8 * ((rows + 7) // 8))


def block_space(n: int, p: int) -> tuple[np.ndarray, ...]:
    """Matrices of a block for innovations with the last mean, and for means; input and outputs."""
    columns = 1 + STEPS_AT_ONCE * p + n
    rows = (padded(STEPS_AT_ONCE * p + n), padded(2 * STEPS_AT_ONCE * n))
    matrices = tuple(np.zeros(columns * size) for size in rows)
    return (*matrices, np.zeros(columns), *(np.zeros(size) for size in rows))


@njit(**SPLICE)
def times(rows: int, columns: int, W: Vector, s: Vector, out: Vector) -> None:
    """`out = W s`, `W` stored by columns."""
    for i in range(rows):
        total = 0.0
        for j in range(columns):
            total += W[j * rows + i] * s[j]
        out[i] = total


@njit(**SPLICE)
def block_matrices(
    n: int, p: int, b: Vector, d: Vector, G: Matrix, folded: Space, blocks: Space
) -> None:
    """Run the folded recursion on unit vectors: `1` (the offsets), each observation, each mean."""
    V, H, M, B, x, before, v, e = folded
    We, Wm, _, _, _ = blocks
    E, M_ = padded(STEPS_AT_ONCE * p + n), padded(2 * STEPS_AT_ONCE * n)
    for c in range(1 + STEPS_AT_ONCE * p + n):
        for r in range(n):
            x[r] = 1.0 if c == 1 + STEPS_AT_ONCE * p + r else 0.0
        for k in range(STEPS_AT_ONCE):
            for r in range(p):
                v[r] = 1.0 if c == 1 + k * p + r else 0.0
                if c == 0:
                    v[r] -= d[r]
            for r in range(p):
                e[r] = 0.0
                for j in range(r + 1):
                    e[r] += V[r, j] * v[j]
                for j in range(n):
                    e[r] -= H[r, j] * x[j]
                We[c * E + k * p + r] = e[r]
            for r in range(n):
                before[r] = x[r]
            for r in range(n):
                total = before[r]
                for j in range(p):
                    total += G[r, j] * e[j]
                Wm[c * M_ + (STEPS_AT_ONCE + k) * n + r] = total
                Wm[c * M_ + k * n + r] = before[r]
                total = b[r] if c == 0 else 0.0
                for j in range(p):
                    total += B[r, j] * v[j]
                for j in range(n):
                    total += M[r, j] * before[j]
                x[r] = total
        for r in range(n):
            We[c * E + STEPS_AT_ONCE * p + r] = x[r]


@njit(**SPLICE)
def load(n: int, p: int, t: int, x: Vector, y: Vector, s: Vector) -> None:
    """Input of the block that starts at step `t`: a one, its observations, its first mean."""
    s[0] = 1.0
    for r in range(STEPS_AT_ONCE * p):
        s[1 + r] = y[t * p + r]
    for r in range(n):
        s[1 + STEPS_AT_ONCE * p + r] = x[r]


@njit(**SPLICE)
def run_blocks(
    n: int, p: int, keep: tuple[bool, ...], t: int, steps: int, volume: float, y: Vector,
    ll: Vector, flat: Space, x: Vector, before: Vector, blocks: Space,
) -> int:  # fmt: skip
    """Filter whole blocks from step `t` on while nothing is missing; return the next step.

    `keep` says which of predicted means, filtered means and innovations to write. `x` becomes the
    mean predicted for the next step, and `before` the filtered mean of the last step done.
    """
    We, Wm, s, e, means = blocks
    a, m, E = flat
    few, many, columns, start = (
        padded(STEPS_AT_ONCE * p + n),
        padded(2 * STEPS_AT_ONCE * n),
        1 + STEPS_AT_ONCE * p + n,
        t,
    )
    while t + STEPS_AT_ONCE <= steps:
        load(n, p, t, x, y, s)
        times(few, columns, We, s, e)
        total = 0.0
        for r in range(STEPS_AT_ONCE * p):
            total += e[r]
        if total != total:  # not a number: something is missing
            break
        for k in range(STEPS_AT_ONCE):
            total = 0.0
            for r in range(p):
                total += e[k * p + r] * e[k * p + r]
            ll[t + k] = volume - 0.5 * total
        if keep[0] or keep[1]:
            times(many, columns, Wm, s, means)
            for r in range(STEPS_AT_ONCE * n):
                if keep[0]:
                    a[t * n + r] = means[r]
            for r in range(STEPS_AT_ONCE * n):
                if keep[1]:
                    m[t * n + r] = means[STEPS_AT_ONCE * n + r]
        if keep[2]:
            for r in range(STEPS_AT_ONCE * p):
                E[t * p + r] = e[r]
        for r in range(n):
            before[r], x[r] = x[r], e[STEPS_AT_ONCE * p + r]
        t += STEPS_AT_ONCE
    if t > start:
        load(n, p, t - STEPS_AT_ONCE, before, y, s)
        times(many, columns, Wm, s, means)
        for r in range(n):
            before[r] = means[(2 * STEPS_AT_ONCE - 1) * n + r]
    return t
