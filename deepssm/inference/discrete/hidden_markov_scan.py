"""The same recursions in `O(log T)` parallel steps: products of matrices, in the log domain."""

from __future__ import annotations

import torch
from torch import Tensor


def forward(pi: Tensor, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log predicted, log filtered, `(N, T, K)`, and log-likelihood, `(N, T)`.

    An observation that no state can emit has likelihood 0; what follows takes it as missing, so
    there is one more scan for each of them.

    Args:
        pi: Log-probabilities of the first state, `(K,)`.
        A: Log transition matrices, `(N or 1, T or 1, K, K)`.
        B: Log-likelihoods of the states, `(N, T, K)`.
    """
    impossible = torch.zeros_like(B[..., 0], dtype=torch.bool)
    while True:
        predicted, filtered, score = _forward(pi, A, possible(B, impossible))
        failed = ~torch.isfinite(score)
        first = failed & (failed.cumsum(1) == 1) & ~impossible
        if not bool(first.any()):
            return predicted, filtered, torch.where(impossible & ~failed, -torch.inf, score)
        impossible = impossible | first


def possible(B: Tensor, impossible: Tensor) -> Tensor:
    """Return `B` with impossible observations, `(N, T)`, made missing."""
    return torch.where(impossible[..., None], torch.zeros_like(B[..., :1]), B)


def _forward(pi: Tensor, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `forward` does, if every observation is possible.

    Only directions travel through the scan; the likelihood is one vectorised pass afterwards, so
    it has no large numbers to cancel.

    Source: Särkkä & García-Fernández (2021), IEEE Transactions on Automatic Control 66(1);
        Hassan, Särkkä & García-Fernández (2021), IEEE Transactions on Signal Processing 69.
    """
    shape = *B.shape, B.shape[-1]
    gates = A.mT.expand(shape) + B[..., :, None]
    first = (pi + B[:, :1])[..., None]
    filtered = _normalise(_prefix(gates, first)[..., 0])
    moved = _log_product(A.mT.expand(shape)[:, 1:], filtered[:, :-1, :, None])[..., 0]
    predicted = torch.cat((pi.expand(B[:, :1].shape), moved), 1)
    return predicted, filtered, torch.logsumexp(predicted + B, -1)


def backward(A: Tensor, B: Tensor, filtered: Tensor) -> tuple[Tensor, Tensor]:
    """Return log smoothed, `(N, T, K)`, and pair probabilities, `(N, T, K, K)`.

    Args:
        A: Log transition matrices, `(N or 1, T or 1, K, K)`.
        B: Log-likelihoods of the states, `(N, T, K)`.
        filtered: Log filtered probabilities.
    """
    shape = *B.shape, B.shape[-1]
    gates = (A + B[..., None, :]).expand(shape)
    last = torch.zeros_like(B[:, :1, :, None])
    ahead = _prefix(gates.roll(-1, 1).flip(1), last)[..., 0].flip(1)
    smoothed = _normalise(filtered + ahead)
    both = filtered[:, :-1, :, None] + gates[:, 1:] + ahead[:, 1:, None, :]
    pairs = torch.softmax(both.flatten(-2), -1).unflatten(-1, both.shape[-2:])
    return smoothed, torch.cat((torch.zeros_like(gates[:, :1]), pairs), 1)


def _prefix(gates: Tensor, first: Tensor) -> Tensor:
    """Return `x_0 = first`, `x_t = gates_t x_{t-1}` by pairing neighbours, `(N, T, K, 1)`.

    The log domain has no zero to add, so the driver of linear recurrences does not serve here.
    """
    time = gates.shape[1]
    if time == 1:
        return first
    if time % 2:
        head = _prefix(gates[:, :-1], first)
        return torch.cat((head, _product(gates[:, -1:], head[:, -1:])), 1)
    even, odd = gates[:, 2::2], gates[:, 3::2]
    at_odd = _prefix(
        torch.cat((gates[:, :1], _product(odd, even)), 1), _product(gates[:, 1:2], first)
    )
    at_even = torch.cat((first, _product(even, at_odd[:, :-1])), 1)
    return torch.stack((at_even, at_odd), 2).flatten(1, 2)


def _product(left: Tensor, right: Tensor) -> Tensor:
    product = _log_product(left, right)
    # The scale of a product is not needed, and would grow with time.
    return product - product.amax((-2, -1), keepdim=True).clamp_min(torch.finfo(product.dtype).min)


def _log_product(left: Tensor, right: Tensor) -> Tensor:
    return torch.logsumexp(left[..., :, :, None] + right[..., None, :, :], -2)


def _normalise(log_weight: Tensor) -> Tensor:
    return log_weight - torch.logsumexp(log_weight, -1, keepdim=True)
