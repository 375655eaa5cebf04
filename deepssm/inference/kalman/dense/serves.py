"""From which size on the loops of larger states are the faster ones."""

from __future__ import annotations

from ..cpu.problem import Problem
from .model import is_regular

_STATES = 9
_ROWS = 16


def dense_serves(problem: Problem) -> bool:
    """True for larger states, or many observations, with noise in each observation.

    Args:
        problem: A model and its data.
    """
    size = problem.sizes
    if size.series == 0 or size.time == 0 or size.n == 0 or size.p == 0:
        return False
    return (size.n >= _STATES or size.n + size.p >= _ROWS) and is_regular(problem)
