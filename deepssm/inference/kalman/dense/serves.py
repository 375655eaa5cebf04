"""From which size on the loops of larger states are the faster ones."""

from __future__ import annotations

from ..cpu.problem import Problem
from .model import is_regular

# Measured with one thread, complete and with gaps; README of `dense`.
_STATES, _SIZE = 12, 22
_SMOOTHER_STATES, _SMOOTHER_SIZE = 9, 18


def dense_serves(problem: Problem, *, smoother: bool = False) -> bool:
    """True for larger states, or many observations, with noise in each observation.

    Args:
        problem: A model and its data.
        smoother: Whether moments given all data are wanted.
    """
    size = problem.sizes
    if size.series == 0 or size.time == 0 or size.n == 0 or size.p == 0:
        return False
    states, total = (_SMOOTHER_STATES, _SMOOTHER_SIZE) if smoother else (_STATES, _SIZE)
    return (size.n >= states or size.n + size.p >= total) and is_regular(problem)
