"""The compiled selective scan as a differentiable function."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Below this many states threads cost more than they save.
_THREADED = 1_000_000


def compiled_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, z0: Tensor
) -> tuple[Tensor, Tensor]:
    """Solve `z_t = exp(delta_t A) z_{t-1} + delta_t B_t u_t`, `y_t = C_t z_t` on the CPU.

    Args:
        u: `(*batch, time, d)`, real, of one number type with all others.
        delta: `(*batch, time, d)`.
        A: `(d, n)`.
        B: Broadcastable to `(*batch, time, n)`.
        C: As `B`.
        z0: `(*batch, d, n)`.

    Returns:
        Outputs `(*batch, time, d)` and the last state `(*batch, d, n)`.
    """
    shape = *u.shape[:-1], A.shape[-1]
    B, C = (x.expand(shape).reshape(-1, *shape[-2:]) for x in (B, C))
    flat = u.reshape(-1, *u.shape[-2:]), delta.expand_as(u).reshape(-1, *u.shape[-2:])
    start = z0.expand(*u.shape[:-2], *A.shape).reshape(-1, *A.shape)
    leaves = *flat, A, B, C, start
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in leaves)
    result: Any = _CompiledScan.apply(keep, *leaves)
    return result[0].reshape(u.shape), result[1].reshape(*u.shape[:-2], *A.shape)


class _CompiledScan(torch.autograd.Function):
    """States are stored once in a while and computed again from there in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        keep: bool,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        z0: Tensor,
    ) -> tuple[Tensor, Tensor]:
        from . import selective_kernels as kernels

        batch, time, d = u.shape
        given = [_array(x) for x in (u, delta, A.mT, B, C)]
        z, y = _array(z0.mT).copy(), np.empty_like(given[0])
        blocks = -(-time // kernels.REPLAYED_STEPS) if keep else 0
        stored = np.empty((blocks, *z.shape), z.dtype)
        _spread(kernels.forward, (*given, z, y, stored), kernels.pieces(batch, d), u.numel())
        ctx.save_for_backward(u, delta, A, B, C, torch.from_numpy(stored))
        return torch.from_numpy(y), torch.from_numpy(z).mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        from . import selective_kernels as kernels

        u, delta, A, B, C, stored = ctx.saved_tensors
        given = [_array(x) for x in (u, delta, A.mT, B, C, stored, grads[0])]
        dz, dA = _array(grads[1].mT).copy(), np.empty((len(u), *given[2].shape), given[2].dtype)
        du, d_delta = np.empty_like(given[0]), np.empty_like(given[0])
        parts = kernels.pieces(1, u.shape[-1])
        dB, dC = (np.empty((parts, *B.shape), given[2].dtype) for _ in range(2))
        arrays = (*given, dz, du, d_delta, dA, dB, dC)
        _spread(kernels.backward, arrays, parts * len(u), u.numel())
        sums = dA.sum(0).T, dB.sum(0), dC.sum(0), dz.swapaxes(1, 2)
        return None, *(torch.from_numpy(x) for x in (du, d_delta, *sums))


def _array(x: Tensor) -> np.ndarray:
    return np.ascontiguousarray(x.detach().numpy())


def _spread(
    kernel: Callable[..., None], arrays: tuple[np.ndarray, ...], pieces: int, size: int
) -> None:
    """Call `kernel(*arrays, first, last)` on all pieces, by as many threads as PyTorch uses."""
    threads = min(torch.get_num_threads(), pieces)
    if threads <= 1 or size * arrays[2].shape[0] < _THREADED:
        kernel(*arrays, 0, pieces)
        return
    edges = [pieces * k // threads for k in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda ends: kernel(*arrays, *ends), pairwise(edges)))
