"""Memory that begins with a cache line."""

from __future__ import annotations

import math

import numpy as np

from .arrays import SIMD_WIDTH


def lines(*shape: int) -> np.ndarray:
    """Make room that begins with a cache line, which takes a vector in one piece."""
    size = math.prod(shape)
    room = np.empty(size + SIMD_WIDTH)
    first = -room.ctypes.data % (8 * SIMD_WIDTH) // 8
    return room[first : first + size].reshape(shape)
