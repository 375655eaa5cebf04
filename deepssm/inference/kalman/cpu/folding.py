"""Diffuse starts: once the data have determined the coefficients, the rest is a proper start.

The first steps, the head, carry a slope in each coefficient. When these are known well enough for
a covariance to hold them beside everything else, they become part of it, and what follows, the
tail, is a problem of its own, for whichever loops are the fastest. What the tail says of the head
is one more observation at the end of the head, `zeta = U (z - a) + noise`.

Source: de Jong (1991), Annals of Statistics 19, 1073-1083 (the collapse of the diffuse filter).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from ..dense.model import part_of, right_factor
from ..diffuse import hardly_determined, posterior_mix
from .problem import Pass, Problem

Array = np.ndarray

# Steps of a head beyond those that could be enough, at first; work of a tail that pays for it.
_MORE, _WORTH = 8, 20_000
# Largest deviation of a determined coefficient's share in units of the rest, and the smallest
# singular value of both together in units of each state, with either of which they may be mixed.
_RATIO, _SINGULAR = 1e4, 1e-5


class Folded(NamedTuple):
    """A problem in two parts.

    Attributes:
        whole: The problem. length: Steps of the head.
        head: Its first steps. tail: The others, with a proper start.
        result: The filter's run of the head.
    """

    whole: Problem
    length: int
    head: Problem
    tail: Problem
    result: Pass


def worth_folding(problem: Problem) -> bool:
    """True where the steps after a head are worth a run of their own.

    Args:
        problem: Any.
    """
    size = problem.sizes
    if not size.k or not size.series or not size.p:
        return False
    rest = size.time - _first_length(problem)
    return rest > 0 and size.work * rest // size.time >= _WORTH


def _first_length(problem: Problem) -> int:
    size = problem.sizes
    return -(-size.k // size.p) + _MORE


def lengths(problem: Problem) -> list[int]:
    """Lengths of heads to try, each at least twice that before."""
    length, found = _first_length(problem), []
    while 2 * length <= problem.sizes.time:
        found.append(length)
        length *= 2
    return found or [_first_length(problem)]


def first_known(result: Pass, last: int) -> int:
    """Return the length of the shortest head, by bisection.

    Args:
        result: A run of a head, with moments.
        last: A step at which its coefficients are known.
    """
    first = -1
    while last - first > 1:
        middle = (first + last) // 2
        first, last = (first, middle) if is_known(result, middle) else (middle, last)
    return last + 1


def is_known(result: Pass, t: int) -> bool:
    """Tell whether the coefficients of all series can be mixed into covariances at a step.

    Args:
        result: A run with moments.
        t: The step.
    """
    mix, open_ = posterior_mix(torch.from_numpy(result.info[:, t]))
    if bool(open_.any()) or bool(
        hardly_determined(torch.from_numpy(result.info[:, t, :, :-1])).any()
    ):
        return False
    rest, share = _factors(result, t, mix.numpy())
    deviation = np.sqrt(np.square(rest).sum(-1))
    size = np.sqrt(np.square(share).sum(-1))
    total = np.hypot(deviation, size)
    if not np.isfinite(total).all():
        return False
    plain = (size <= _RATIO * deviation).all(-1)
    if plain.all():
        return True
    both = np.concatenate((rest, share), -1)[~plain]
    both /= np.where(total > 0, total, 1.0)[~plain][..., None]
    return bool((np.linalg.svd(both, compute_uv=False)[..., -1] >= _SINGULAR).all())


def _factors(result: Pass, t: int, mix: Array) -> tuple[Array, Array]:
    """Factor given the coefficients, and what their posterior adds to it."""
    S = np.arange(len(result.slot))
    return result.F[S, result.slot[:, t]], result.m[:, t, :, 1:] @ mix[:, 1:, 1:]


def fold(problem: Problem, result: Pass, length: int) -> Folded:
    """Split a problem after `length` steps.

    Args:
        problem: With a diffuse start.
        result: A run of its head, as long at least.
        length: Steps of the head, at the last of which the coefficients are known.
    """
    t = length - 1
    mix = posterior_mix(torch.from_numpy(result.info[:, t]))[0].numpy()
    rest, share = _factors(result, t, mix)
    A, b, LQ = (x[:, min(length, x.shape[1] - 1)] for x in problem.params[:3])
    mean = (A @ (result.m[:, t] @ mix[:, :, :1])) + b[..., None]
    moved = A @ np.concatenate((rest, share), -1)
    noise = np.broadcast_to(LQ, (len(moved), *LQ.shape[1:]))
    factor = _lower(np.concatenate((moved, noise), -1))
    if (factor == factor[:1]).all():
        factor = factor[:1].copy()
    sizes = problem.sizes._replace(time=problem.sizes.time - length, k=0)
    tail = part_of(problem, length, problem.sizes.time)
    start = (np.ascontiguousarray(mean), np.ascontiguousarray(factor))
    tail = tail._replace(start=start, sizes=sizes)
    return Folded(problem, length, part_of(problem, 0, length), tail, _cut(result, length))


def _lower(W: Array) -> Array:
    L = right_factor(W.swapaxes(-1, -2)).swapaxes(-1, -2)
    n = W.shape[-2]
    if L.shape[-1] < n:
        L = np.concatenate((L, np.zeros((*L.shape[:-1], n - L.shape[-1]))), -1)
    signs = np.where(np.diagonal(L, axis1=-2, axis2=-1) < 0, -1.0, 1.0)
    return L * signs[..., None, :]


def _cut(result: Pass, length: int) -> Pass:
    """The first steps of a run."""
    by_step = ("log_likelihood", "slot", "a", "m", "E", "info")
    parts = {name: getattr(result, name)[:, :length] for name in by_step}
    return result._replace(**parts)


def with_later(problem: Problem, length: int, U: Array, zeta: Array, mean: Array) -> Problem:
    """Append what later data say of the state after a head as one more observation of the head.

    Args:
        problem: With a diffuse start.
        length: Steps of the head.
        U: `(series, n, n)`.
        zeta: `(series, n)`: `zeta = U (z - mean) + noise`.
        mean: `(series, n)`.
    """
    longer, head = part_of(problem, 0, length + 1), part_of(problem, 0, length)
    C, d, R = head.params[3:]
    (S, T, n, p), rows = head.sizes[:4], max(head.sizes.n, head.sizes.p)
    y = np.full((S, T + 1, rows), np.nan)
    y[:, :T, :p], y[:, T, :n] = head.y, zeta + (U @ mean[..., None])[..., 0]
    emission = np.zeros((S, T + 1, rows, n))
    emission[:, :T, :p], emission[:, T, :n] = C, U
    offset = np.zeros((len(d), T + 1, rows))
    offset[:, :T, :p] = d
    noise = np.zeros((len(R), T + 1, rows, rows)) + np.eye(rows)
    noise[:, :T, :p, :p] = R
    params = (*longer.params[:3], emission, offset, noise)
    return longer._replace(params=params, y=y, sizes=longer.sizes._replace(p=rows))


def of_head(problem: Problem, length: int, grads: tuple[Array, ...]) -> tuple[Array, ...]:
    """Derivatives `y, m0, P0, A, b, Q, C, d, R` of a head without its last observation.

    Args:
        problem: The whole.
        length: Steps of the head.
        grads: By what `with_later` made.
    """
    p = problem.sizes.p
    gy, gm0, gP0, *transition, gC, gd, gR = grads
    emission = [gC[:, :length, :p], gd[:, :length, :p], gR[:, :length, :p, :p]]
    constant = (x.shape[1] == 1 for x in problem.params[3:])
    emission = [
        x.sum(1, keepdims=True) if one else x for x, one in zip(emission, constant, strict=True)
    ]
    return gy[:, :length, :p], gm0, gP0, *transition, *emission


def joined(head: Array, tail: Array, *, transition: bool) -> Array:
    """A derivative of the whole from those of its parts.

    Args:
        head: `(series, steps, ...)`.
        tail: The same, of all later steps.
        transition: Whether it is one of `A, b, Q`.
    """
    if head.shape[1] == 1 and tail.shape[1] == 1:
        return head + tail
    if not transition:
        return np.concatenate((head, tail), 1)
    # The step into the tail is the last of the head's, and the tail's own first one is unused.
    return np.concatenate((head, tail[:, 1:]), 1)
