"""How many steps the kernels for steady and for complete steps take at a time."""

from __future__ import annotations

from .....ops.arrays import SIMD_WIDTH

BLOCK_STEPS = SIMD_WIDTH  # one row of a register block each


def slots(rows: int) -> int:
    """Return a number of rows that fills SIMD vectors."""
    return -(-rows // SIMD_WIDTH) * SIMD_WIDTH
