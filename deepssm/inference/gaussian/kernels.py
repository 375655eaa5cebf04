"""Prediction and conditioning of many small whitened Gaussians, compiled: see `steps.py`.

Arrays have the leading axis `series`, or 1 for what all series share. What is written to is laid
out by the caller, scratch rows included, as the loops allocate nothing. Scratch is float64
whatever the data are.
"""

from __future__ import annotations

import math

from numba import njit

from ...ops.arrays import Marks, Matrices, Matrix, Space, Vector
from ...ops.cache import cached
from ...ops.small_matrices import DRIVER, HALF_LOG_2PI, INLINE, pick, reflect


@njit(**INLINE)
def lay_row(slope: Vector, spread: Vector, W: Vector) -> None:
    """`W = [slope, spread]`, one row."""
    n = slope.shape[0]
    for j in range(n):
        W[j] = slope[j]
    for j in range(spread.shape[0]):
        W[n + j] = spread[j]


@njit(**INLINE)
def lay_identity(first: int, n: int, cols: int, W: Matrix) -> None:
    """`W[first : first + n] = [I, 0]`."""
    for i in range(n):
        for j in range(cols):
            W[first + i, j] = 0.0
        W[first + i, i] = 1.0


@njit(**INLINE)
def triangle(first: int, c: int, n: int, cols: int, W: Matrix, out: Matrix) -> None:
    """Triangularise the last `n` rows from column `c` on and write what is left of them."""
    for i in range(n):
        if c + i < cols:
            reflect(W, first + i, c + i, first + n, cols)
    for i in range(n):
        for j in range(n):
            out[i, j] = W[first + i, c + j] if j <= i and c + j < cols else 0.0


@cached(**DRIVER)
def predict_all(
    slope: Matrices,
    spread: Matrices,
    joint: bool,
    W: Matrix,
    factor: Matrices,
    gain: Matrices,
    rest: Matrices,
) -> None:
    """`[slope, spread]` to its factor; with `joint`, also `e_{t-1} = gain e_t + rest n`."""
    count, n, before = slope.shape
    cols = before + spread.shape[2]
    rows = n + before if joint else n
    for s in range(count):
        for i in range(n):
            lay_row(slope[s, i], spread[pick(s, spread.shape[0]), i], W[i])
        if joint:
            lay_identity(n, before, cols, W)
        for i in range(n):
            if i < cols:
                reflect(W, i, i, rows, cols)
        for i in range(n):
            for j in range(n):
                factor[s, i, j] = W[i, j] if j <= i and j < cols else 0.0
        if joint:
            for i in range(before):
                for j in range(n):
                    gain[s, i, j] = W[n + i, j] if j < cols else 0.0
            triangle(n, n, before, cols, W, rest[s])


@njit(**INLINE)
def absorb_rows(
    o: int,
    n: int,
    cols: int,
    tiny: float,
    W: Matrix,
    target: Vector,
    size: Vector,
    white: Vector,
) -> tuple[int, float, bool, bool]:
    """Condition on `o` rows in turn; return columns used, log-density, exact and contradiction.

    A row without a pivot is known from the past already: it uses no column and adds nothing.
    """
    c, score, exact, wrong = 0, 0.0, False, False
    for i in range(o):
        square, left = 0.0, target[i]
        for j in range(cols):
            square += W[i, j] * W[i, j]
        for j in range(c):
            left -= W[i, j] * white[j]
        pivot = reflect(W, i, c, o + n, cols) if c < cols else 0.0
        if pivot <= tiny * math.sqrt(square):
            exact = True
            wrong = wrong or abs(left) > 1e3 * tiny * size[i]
            continue
        white[c] = left / pivot
        score -= 0.5 * white[c] * white[c] + math.log(pivot) + HALF_LOG_2PI
        c += 1
    return c, score, exact, wrong


@cached(**DRIVER)
def condition_all(
    slope: Matrices,
    spread: Matrices,
    residual: Matrix,
    mean: Matrix,
    observed: Marks,
    eps: float,
    work: Space,
    out: tuple[Matrix, Matrices, Vector, Marks],
) -> None:
    """Condition `e` on the observed rows of `residual = slope e + spread n`."""
    W, target, size, white = work
    shift, gain, score, exact = out
    count, p, n = slope.shape
    cols, tiny = n + spread.shape[2], 10.0 * (p + n) * eps
    for s in range(count):
        o = 0
        for i in range(p):
            if observed[s, i]:
                lay_row(slope[s, i], spread[pick(s, spread.shape[0]), i], W[o])
                target[o] = residual[s, i]
                size[o] = 1.0 + abs(residual[s, i]) + abs(mean[s, i])
                o += 1
        lay_identity(o, n, cols, W)
        c, total, known, wrong = absorb_rows(o, n, cols, tiny, W, target, size, white)
        score[s], exact[s] = -math.inf if wrong else total, known
        for i in range(n):
            moved = 0.0
            for j in range(c):
                moved += W[o + i, j] * white[j]
            shift[s, i] = moved
        triangle(o, c, n, cols, W, gain[s])


@cached(**DRIVER)
def move_all(
    mean: Matrix,
    factor: Matrices,
    shift: Matrix,
    gain: Matrices,
    new_mean: Matrix,
    new_factor: Matrices,
) -> None:
    """`mean + factor shift` and `factor gain`, both factors lower triangular."""
    count, n = mean.shape
    for s in range(count):
        for i in range(n):
            moved = mean[s, i]
            for j in range(i + 1):
                moved += factor[s, i, j] * shift[s, j]
            new_mean[s, i] = moved
            for j in range(n):
                total = 0.0
                for m in range(j, i + 1):
                    total += factor[s, i, m] * gain[s, m, j]
                new_factor[s, i, j] = total


@cached(**DRIVER)
def multiply_all(left: Matrices, right: Matrices, out: Matrices) -> None:
    """`out = left right`, matrix by matrix."""
    for s in range(left.shape[0]):
        for i in range(left.shape[1]):
            for j in range(right.shape[2]):
                total = 0.0
                for m in range(right.shape[1]):
                    total += left[s, i, m] * right[s, m, j]
                out[s, i, j] = total
