"""A chain of discrete states given by its logarithms: drivers of the compiled recursions.

Nothing here keeps numbers of pairs of states for every step unless somebody asks for them, and
with checkpoints not even the filter's: they are kept at every `sqrt(T)`-th step and found again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ...ops.arrays import Batch, Matrices, Matrix, Vector


class Logs(NamedTuple):
    """A chain as arrays: `pi` `(K,)`, `A` and its exponential `P` `(N or 1, T or 1, K, K)`, `B`.

    `B`, `(N, T, K)`, are the log-likelihoods of the states.
    """

    pi: Vector
    A: Batch
    P: Batch
    B: Matrices


class Forward(NamedTuple):
    """The filter over some steps; see `hidden_markov_kernels.forward`.

    `spare`, `(N, steps, K)`, is memory to write to.
    """

    at: int
    B: Matrices
    predicted: Matrices
    filtered: Matrices
    total: Matrix
    top: Matrix
    in_logs: bool
    spare: Matrices

    @property
    def score(self) -> Matrix:
        """Log-likelihoods, `(N, steps)`; `-inf` where an observation is impossible."""
        with np.errstate(divide="ignore"):
            return np.log(self.total) + self.top


class Backward(NamedTuple):
    """The gradient of a weighted log-likelihood, or the smoother, which is that of weights one.

    Attributes:
        first: Gradient in the log-probabilities of the first state, `(N, K)`.
        states: In the log-likelihoods of the states, `(N, T, K)`.
        pairs: In the log transition matrices, of the shape that was asked for.
        score: Log-likelihoods, `(N, T)`.
    """

    first: Matrix
    states: Matrices
    pairs: Batch
    score: Matrix


def as_logs(pi: Tensor, A: Tensor, B: Tensor) -> Logs:
    """Return a chain as arrays of float64.

    Args:
        pi: Log-probabilities of the first state, `(K,)`.
        A: Log transition matrices, `(N or 1, T or 1, K, K)`.
        B: Log-likelihoods of the states, `(N, T, K)`.
    """
    logs = as_array(A)
    return Logs(as_array(pi), logs, np.exp(logs), as_array(B))


def as_array(x: Tensor) -> Batch:
    """Return a tensor as an array of float64, row by row."""
    return x.detach().cpu().double().contiguous().numpy()


def filter_all(logs: Logs) -> Forward:
    """Filter all steps, and keep what the smoother needs."""
    return _forward(logs, 0, logs.B.shape[1], _start(logs))


def score(logs: Logs) -> Matrix:
    """Return log-likelihoods, `(N, T)`, keeping nothing else."""
    return _forward(logs, 0, logs.B.shape[1], _start(logs), keep=False).score


def backward(
    logs: Logs,
    pairs: tuple[int, ...] = (),
    weight: Matrix | None = None,
    forward: Forward | None = None,
) -> Backward:
    """Go backwards over all steps.

    Args:
        logs: The chain.
        pairs: Leading sizes of the array over pairs of states, `(N or 1, T or 1)`: the rest is
            summed. None is made if it is empty.
        weight: Weight of each step's log-likelihood, `(N, T)`; by default smooth.
        forward: Of `filter_all`; by default it is found again from checkpoints.
    """
    from . import hidden_markov_kernels as kernels

    N, T, K = logs.B.shape
    states, carry = np.empty((N, T, K)), np.empty((N, K))
    d_A = np.zeros((*pairs, K, K)) if pairs else np.zeros((0, 0, 0, 0))
    weights = np.ones((N, T)) if weight is None else weight
    scores = np.empty((N, T))
    for part in _reversed(logs) if forward is None else [forward]:
        here = slice(part.at, part.at + part.filtered.shape[1])
        whole = part.filtered.shape[1] == T
        v, ratio = states if whole else np.empty(part.filtered.shape), part.spare
        kernels.backward(
            weight is not None, part.at, logs.A, logs.P, part.B,
            part.predicted, part.filtered, part.total, part.top,
            np.ascontiguousarray(weights[:, here]), carry, here.stop == T, v, ratio, d_A,
        )  # fmt: skip
        if pairs:
            _add_pairs(d_A, logs.P, part, ratio)
        scores[:, here] = part.score
        if not whole:
            states[:, here] = v
    return Backward(carry, states, d_A, scores)


def probabilities(signed: Matrices, in_logs: bool) -> Matrices:
    """Return the probabilities that signed numbers hold."""
    return np.where(signed < 0, np.exp(np.minimum(signed, 0.0)), signed) if in_logs else signed


def _start(logs: Logs) -> Matrix:
    from . import hidden_markov_kernels as kernels

    first = np.array([kernels.signed(x) for x in logs.pi])
    return np.broadcast_to(first, (logs.B.shape[0], len(first)))


def _forward(logs: Logs, first: int, last: int, start: Matrix, *, keep: bool = True) -> Forward:
    from . import hidden_markov_kernels as kernels

    B = np.ascontiguousarray(logs.B[:, first:last])
    N, steps, K = B.shape
    E, top, total = np.empty(B.shape), np.empty((N, steps)), np.empty((N, steps))
    kernels.shift(B.reshape(-1, K), E.reshape(-1, K), top.reshape(-1))
    np.exp(E, out=E)
    predicted = np.empty((N, steps + 1 if keep else 2, K))
    filtered = np.empty((N, steps if keep else 2, K))
    predicted[:, 0] = start
    in_logs = kernels.forward(first, logs.A, logs.P, B, E, predicted, filtered, total, top, keep)
    return Forward(first, B, predicted, filtered, total, top, in_logs, E)


def _reversed(logs: Logs) -> Iterator[Forward]:
    """Filter in stretches of `sqrt(T)` steps, the last first, from predictions kept before."""
    T = logs.B.shape[1]
    size = max(math.isqrt(T), 1)
    edges = [*range(0, T, size), T]
    starts = [_start(logs)]
    for first, last in zip(edges[:-2], edges[1:-1], strict=True):
        found = _forward(logs, first, last, starts[-1], keep=False)
        starts.append(found.predicted[:, (last - first) % 2].copy())
    for first, last, start in zip(edges[-2::-1], edges[:0:-1], starts[::-1], strict=True):
        yield _forward(logs, first, last, start)


def _add_pairs(d_A: Batch, P: Batch, part: Forward, ratio: Matrices) -> None:
    """Add `P` times `filtered ratio'` of the steps that arrive, summed over axes of size one."""
    T, f = d_A.shape[1], part.filtered
    if P.shape[:2] == (1, 1) == d_A.shape[:2]:
        K = f.shape[-1]
        d_A[0, 0] += P[0, 0] * (f.reshape(-1, K).T @ ratio.reshape(-1, K))
        return
    steps = slice(part.at + 1, part.at + 1 + f.shape[1])
    if T > 1:  # entry 0 leads nowhere, and nothing arrives after the last step
        f, ratio = f[:, : T - steps.start], ratio[:, : T - steps.start]
    P = P[:, steps] if P.shape[1] > 1 else P
    into = d_A[:, steps] if T > 1 else d_A
    if len(d_A) == 1 and T > 1:
        into += P * np.matmul(f.transpose(1, 2, 0), ratio.transpose(1, 0, 2))
    elif T == 1 and P.shape[1] == 1:
        into += P * np.matmul(f.transpose(0, 2, 1), ratio)[:, None]
    else:
        into += P * f[..., :, None] * ratio[..., None, :]
