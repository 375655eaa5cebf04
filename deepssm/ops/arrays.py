"""Names for what compiled loops take: arrays of float64 by rank, whole numbers, scratch space."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

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
