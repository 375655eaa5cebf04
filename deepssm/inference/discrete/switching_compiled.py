"""The compiled route of the filters of one Gaussian a mode, without gradients."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...core.model import LinearParameters
from .switching_mixtures import Mixture

LARGEST = 32
"""State and observations together from which LAPACK is faster than plain loops."""


class Stacked(NamedTuple):
    """A forward pass with a time axis.

    Attributes:
        predicted: Mixtures, `(*batch, time, modes)`.
        filtered: The same given the present.
        score: Log-likelihoods, `(*batch, time)`.
        spoilt: Whether merging spoilt the score of a far observation, `(*batch,)`.
    """

    predicted: Mixture
    filtered: Mixture
    score: Tensor
    spoilt: Tensor


def compilable(parameters: LinearParameters, y: Tensor, *others: Tensor) -> bool:
    """Tell whether nobody will ask for derivatives, and matrices are small and on a CPU."""
    tensors = *parameters.transition, *parameters.emission, *parameters.initial[:2], y, *others
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        return False
    small = parameters.emission.matrix.shape[-1] + y.shape[-1] <= LARGEST
    return small and all(x.device.type == "cpu" for x in tensors)


def run(
    order: int,
    log_pi: Tensor,
    log_A: Tensor,
    parameters: LinearParameters,
    noise: tuple[Tensor, Tensor, Tensor],
    y: Tensor,
) -> Stacked:
    """Filter.

    Args:
        order: 1 for IMM, 2 for GPB2.
        log_pi: Log-probabilities of the first mode, `(modes,)`.
        log_A: Of the changes of mode, `(modes, modes)`.
        parameters: Of the modes.
        noise: Factors of `P0`, `Q` and `R`.
        y: `(*batch, time, obs)`, NaN where missing.
    """
    from . import switching_kernels as kernels

    batch, (T, p) = y.shape[:-2], y.shape[-2:]
    (A, b, _), (C, d, _) = parameters.transition, parameters.emission
    K, n, N = len(log_pi), A.shape[-1], math.prod(batch)
    ranks = (2, 1, 2, 2, 1, 2)
    fields = zip((A, b, noise[1], C, d, noise[2]), ranks, strict=True)
    matrices = tuple(_series(x, batch, rank + 2) for x, rank in fields)
    start = _series(parameters.initial.mean, batch, 2), _series(noise[0], batch, 3)
    flat = _array(y).reshape(N, T, p)
    seen = ~np.isnan(flat)
    out = [tuple(np.empty((N, T, K, *(n,) * rank)) for rank in range(3)) for _ in range(2)]
    score, spoilt = np.empty((N, T)), np.empty(N, np.bool_)
    eps = torch.finfo(y.dtype).eps
    chain = _array(log_pi), _array(log_A)
    given = np.where(seen, flat, 0.0), seen, eps
    kernels.run(order, *chain, start, matrices, *given, *out, score, spoilt)
    mixtures = [Mixture(*(_tensor(x, batch, y) for x in each)) for each in out]
    flags = torch.from_numpy(spoilt).reshape(batch)
    return Stacked(mixtures[0], mixtures[1], _tensor(score, batch, y), flags)


def _series(x: Tensor, batch: torch.Size, rank: int) -> np.ndarray:
    """Return an array with one leading axis, of size one where all series share it."""
    lead = x.shape[: x.ndim - rank]
    if math.prod(lead) == 1:
        return _array(x).reshape(1, *x.shape[x.ndim - rank :])
    wide = x.expand(*batch, *x.shape[x.ndim - rank :])
    return _array(wide).reshape(-1, *x.shape[x.ndim - rank :])


def _array(x: Tensor) -> np.ndarray:
    return x.detach().double().contiguous().numpy()


def _tensor(x: np.ndarray, batch: torch.Size, like: Tensor) -> Tensor:
    return torch.from_numpy(x).reshape(*batch, *x.shape[1:]).to(like.dtype)
