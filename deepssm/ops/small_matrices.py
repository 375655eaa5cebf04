"""Small matrices in compiled loops, and the options that loops are compiled with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

# Not the whole of fastmath: `nnan` and `ninf` would remove the tests for missing data.
FASTMATH = {"contract", "reassoc", "nsz", "arcp"}
INLINE: dict[str, Any] = {"forceinline": True, "fastmath": FASTMATH, "error_model": "numpy"}
# For functions that call others, which are inlined before sizes are lost: LLVM inlines one that is
# optimised already, with all that it calls, for sizes unknown to it.
SPLICE: dict[str, Any] = {"inline": "always"}
# Drivers allocate nothing, so that numba need not count references to every view of an array.
DRIVER: dict[str, Any] = {
    "nogil": True, "fastmath": FASTMATH, "error_model": "numpy", "_nrt": False,
}  # fmt: skip
EPS = 2.220446049250313e-16
UNDERFLOW = 1e-280  # squares whose reciprocal is not a number


HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


@njit(inline="always")
def pick(t: int, size: int) -> int:
    """Index of entry `t` along an axis that has one entry a step, or a single one."""
    return t if size > 1 else 0


@njit(**INLINE)
def clear(rows: int, cols: int, X: np.ndarray) -> None:
    """`X[:rows, :cols] = 0`."""
    for i in range(rows):
        for j in range(cols):
            X[i, j] = 0.0


@njit(**INLINE)
def copy_matrix(rows: int, cols: int, source: np.ndarray, target: np.ndarray) -> None:
    """`target[:rows, :cols] = source[:rows, :cols]`."""
    for i in range(rows):
        for j in range(cols):
            target[i, j] = source[i, j]


@njit(**INLINE)
def copy_row(size: int, source: np.ndarray, target: np.ndarray) -> None:
    """`target[:size] = source[:size]`."""
    for i in range(size):
        target[i] = source[i]


@njit(**INLINE)
def reflect(W: np.ndarray, i: int, c: int, rows: int, cols: int) -> float:
    """Zero `W[i, c+1:cols]` by a Householder reflection of the columns; return `W[i, c] >= 0`."""
    square = 0.0
    for j in range(c, cols):
        square += W[i, j] * W[i, j]
    if square < UNDERFLOW:
        for j in range(c, cols):
            W[i, j] = 0.0
        return 0.0
    norm = math.sqrt(square)
    head = W[i, c] + math.copysign(norm, W[i, c])
    beta = 1.0 / (norm * abs(head))
    flip = -1.0 if head > 0.0 else 1.0
    W[i, c] = head
    for r in range(i + 1, rows):
        dot = 0.0
        for j in range(c, cols):
            dot += W[i, j] * W[r, j]
        dot *= beta
        for j in range(c, cols):
            W[r, j] -= dot * W[i, j]
        W[r, c] *= flip
    W[i, c] = norm
    for j in range(c + 1, cols):
        W[i, j] = 0.0
    return norm
