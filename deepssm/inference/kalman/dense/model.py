"""A linear-Gaussian model as the compiled loops of larger states take it."""

from __future__ import annotations

import numpy as np

from ..cpu.problem import Problem, Sizes
from .state_kernels import Model

# Part of each row's variance that the rows before must leave for `R` to count as regular.
_REGULAR = 1e-8
# Part of the entries of `A` up to which its products go entry by entry.
_SPARSE = 0.125


def is_regular(problem: Problem) -> bool:
    """True where every `R` can be inverted without losing more than half of the digits.

    What a varying `R` holds for missing components is not looked at.
    """
    R = _seen(problem)
    scale = np.diagonal(R, axis1=-2, axis2=-1)
    if not (scale > 0).all():
        return False
    if is_diagonal(R):
        return True
    root = 1.0 / np.sqrt(scale)
    try:
        pivots = np.linalg.cholesky(R * root[..., :, None] * root[..., None, :])
    except np.linalg.LinAlgError:
        return False
    return bool((np.diagonal(pivots, axis1=-2, axis2=-1) ** 2 > _REGULAR).all())


def _seen(problem: Problem) -> np.ndarray:
    """`R`, where it varies with rows and columns of the identity for missing components."""
    R = problem.params[5]
    missing = np.isnan(problem.y) if R.shape[1] > 1 else np.empty(0, bool)
    if not missing.any():
        return R
    masked = missing[..., :, None] | missing[..., None, :]
    return np.where(masked, np.eye(R.shape[-1]), R)


def is_diagonal(R: np.ndarray) -> bool:
    """True where all matrices are diagonal."""
    off = ~np.eye(R.shape[-1], dtype=bool)
    return not R[..., off].any()


def is_constant(problem: Problem) -> bool:
    """True where no matrix of the model varies in time."""
    A, _, LQ, C, _, R = problem.params
    return all(x.shape[1] == 1 for x in (A, LQ, C, R))


def model_of(problem: Problem) -> Model:
    """Lay out a model for the loops.

    Args:
        problem: With a regular `R`.
    """
    A, b, LQ, C, d, R = problem.params
    n = problem.sizes.n
    square = _square(LQ, n)
    spread = np.sqrt(np.diagonal(R, axis1=-2, axis2=-1))[..., None, :]
    deviation = np.ascontiguousarray(spread if is_diagonal(_seen(problem)) else spread[..., :0])
    Q = np.ascontiguousarray(square @ square.swapaxes(-1, -2))
    return Model(A, b, Q, square, C, d, R, deviation, *_links(A))


def _square(LQ: np.ndarray, n: int) -> np.ndarray:
    """Lower triangular factors, `(n, n)`, of `LQ LQ'`."""
    q = LQ.shape[-1]
    if q == n and not np.triu(LQ, 1).any():
        return LQ
    out = np.zeros((*LQ.shape[:2], n, n))
    if q:
        out[..., : min(q, n)] = right_factor(LQ.swapaxes(-1, -2)).swapaxes(-1, -2)
    return out


def right_factor(W: np.ndarray) -> np.ndarray:
    """Return `R` of `W = Q R`.

    Args:
        W: `(*axes, rows, columns)`.
    """
    return np.asarray(np.linalg.qr(W, mode="r"))


def _links(A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the entries of each row begin, and their columns; empty where these are too many."""
    n = A.shape[-1]
    used = (A != 0).reshape(-1, n, n).any(0) if A.shape[0] * A.shape[1] == 1 else np.ones((n, n))
    if used.sum() > _SPARSE * n * n:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    row, place = np.nonzero(used)
    first = np.searchsorted(row, np.arange(n + 1)).astype(np.int64)
    return first, place.astype(np.int64)


def part_of(problem: Problem, first: int, until: int) -> Problem:
    """Steps `first, ..., until - 1` of the data and of what varies in time."""
    params = tuple(
        x if x.shape[1] == 1 else np.ascontiguousarray(x[:, first:until]) for x in problem.params
    )
    y = np.ascontiguousarray(problem.y[:, first:until])
    sizes: Sizes = problem.sizes._replace(time=until - first)
    return problem._replace(params=params, y=y, sizes=sizes)
