"""What forward-backward returns: probabilities at once, numbers of pairs of states when read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from ...core.lazy import Lazy, LazyTuple
from . import hidden_markov_chain as chains
from . import hidden_markov_scan as scan

Backend = Literal["sequential", "scan"]


class _ChainFields(NamedTuple):
    predicted: Tensor
    filtered: Tensor
    smoothed: Tensor
    pairs: Tensor
    log_likelihood: Tensor


class Chain(LazyTuple, _ChainFields):
    """What forward-backward finds, `(*batch, time, state)`.

    `pairs`, with one state axis more, is made when it is first read.
    """

    @property
    def pairs(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """`p(z_{t-1}, z_t | y)`, `(*batch, time, state, state)`; entry 0 is zero."""
        return self[3]


class Expected(NamedTuple):
    """What an EM step reads; see `ClosedFormEM.maximize`."""

    first: Tensor
    pairs: Tensor
    smoothed: Tensor
    log_likelihood: Tensor


def forward_backward(pi: Tensor, A: Tensor, B: Tensor) -> Chain:
    """Return all probabilities of a chain given by its logarithms, without a gradient.

    Args:
        pi: Log-probabilities of the first state, `(state,)`.
        A: Log transition matrices, `(time or 1, state, state)`, common to all series.
        B: Log-likelihoods of the states, `(*batch, time, state)`.
    """
    with torch.no_grad():
        flat = B.reshape(-1, *B.shape[-2:])
        return chain_of(pi, A[None], flat, B.shape[:-2], "sequential")


def chain_of(pi: Tensor, A: Tensor, B: Tensor, batch: torch.Size, backend: Backend) -> Chain:
    """Return all probabilities; arguments are those of `as_logs`, and the shape of the batch."""

    def shaped(part: Tensor) -> Tensor:
        return part.reshape(*batch, *part.shape[1:])

    if backend == "scan":
        before, after, score = scan.forward(pi, A, B)
        smoothed, pairs = scan.backward(A, scan.possible(B, torch.isinf(score)), after)
        parts = (shaped(x) for x in (before.exp(), after.exp(), smoothed.exp(), pairs, score))
        return Chain(*parts)
    logs = chains.as_logs(pi, A, B)
    forward = chains.filter_all(logs)
    smoothed = torch.from_numpy(chains.backward(logs, forward=forward).states).to(B)
    before, after, score = filtered_of(forward, B)
    pairs = Lazy(partial(pairs_of, logs, B[..., :0], batch))
    return Chain(shaped(before), shaped(after), shaped(smoothed), cast(Any, pairs), shaped(score))


def filtered_of(forward: chains.Forward, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return predicted and filtered probabilities and log-likelihoods, in the dtype of `like`."""
    steps = forward.filtered.shape[1]
    before = chains.probabilities(forward.predicted[:, :steps], forward.in_logs)
    found = (before, forward.filtered, forward.score)
    return cast(Any, tuple(torch.from_numpy(x).to(like) for x in found))


def pairs_of(logs: chains.Logs, like: Tensor, batch: torch.Size) -> Tensor:
    """Return `p(z_{t-1}, z_t | y)`, `(*batch, time, state, state)`."""
    found = chains.backward(logs, logs.B.shape[:2], forward=chains.filter_all(logs)).pairs
    return torch.from_numpy(found).to(like).reshape(*batch, *found.shape[1:])


def cross_cov(p: Tensor, pairs: Callable[[], Tensor]) -> Tensor:
    """Return lag-one covariances from smoothed probabilities and those of pairs."""
    between = pairs()
    cross = torch.zeros_like(between)
    outer = p[..., 1:, :, None] * p[..., :-1, None, :]
    cross[..., 1:, :, :] = between[..., 1:, :, :].mT - outer
    return cross


def draws_of(
    logs: chains.Logs,
    forward: chains.Forward,
    like: Tensor,
    batch: torch.Size,
    first: int,
    count: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw the states from step `first` on, one-hot, `(count, *batch, steps, state)`."""
    from . import hidden_markov_path_kernels as kernels

    N, T, K = logs.B.shape
    uniform = torch.rand(
        count, N, T - first, generator=generator, dtype=torch.float64,
        device="cpu" if generator is None else generator.device,
    )  # fmt: skip
    path = np.empty(uniform.shape, np.int64)
    kernels.draw(first, logs.A, logs.P, *forward[1:-2], uniform.cpu().numpy(), path)
    index = torch.from_numpy(path).to(like.device)
    one_hot = torch.nn.functional.one_hot(index, K).to(like.dtype)
    return one_hot.reshape(count, *batch, T - first, K)


def spread(p: Tensor) -> Tensor:
    """Return `diag(p) - p p'`, the covariance of one-hot states of probabilities `p`."""
    # A variance is `p_i` times the sum of the others: `p_i - p_i^2` may round to below zero.
    between = p[..., :, None] * p[..., None, :]
    between = between - torch.diag_embed(between.diagonal(dim1=-2, dim2=-1))
    return torch.diag_embed(between.sum(-1)) - between
