"""Memory that begins with a cache line."""

from __future__ import annotations

import math

import numpy as np

_LINE = 8  # numbers in a cache line


def lines(*shape: int) -> np.ndarray:
    """Make room that begins with a cache line, which takes a vector in one piece."""
    size = math.prod(shape)
    room = np.empty(size + _LINE)
    first = -room.ctypes.data % (8 * _LINE) // 8
    return room[first : first + size].reshape(shape)
