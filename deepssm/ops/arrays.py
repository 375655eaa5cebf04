"""Names for what compiled loops take: arrays of float64 by rank, whole numbers, scratch memory."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

SIMD_WIDTH = 8
"""Float64 numbers of one SIMD vector, and of a cache line."""

Vector: TypeAlias = NDArray[np.float64]
"""One axis."""

Matrix: TypeAlias = NDArray[np.float64]
"""Two axes, row by row."""

Matrices: TypeAlias = NDArray[np.float64]
"""A matrix a step, `(time, row, col)`, or any stack of matrices."""

Batch: TypeAlias = NDArray[np.float64]
"""Four axes or more, the first of them the series."""

Whole: TypeAlias = NDArray[np.int64]
"""Whole numbers: indices, counts, slots."""

Marks: TypeAlias = NDArray[np.bool_]
"""True or false for each entry."""

Space: TypeAlias = tuple[NDArray[np.float64], ...]
"""Scratch memory of one thread, made by the loop's own `..._space` function."""

Spaces: TypeAlias = tuple[Any, ...]
"""Scratch memory in parts: arrays, and `Space`s of the functions that the loop calls."""

Arrays: TypeAlias = tuple[NDArray[Any], ...]
"""Several arrays of numbers and whole numbers, such as all that a filter leaves behind."""

SimdArray: TypeAlias = NDArray[np.float64]
"""SIMD vectors, `(entries, 8)`, made by `simd.simd_array`."""

SimdValue: TypeAlias = Any
"""A SIMD vector in a register: it lives in compiled loops only."""
