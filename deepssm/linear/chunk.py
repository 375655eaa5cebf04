"""Blocked matrix products with a carried state: exact, cache friendly, bounded memory."""

from __future__ import annotations

import functools
from typing import cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .recurrence import Recurrence, View, scanned

_STEPS_IN_CHUNK = 64


def chunked(
    recurrence: Recurrence, u: Tensor, z0: Tensor | None, *, block: int = _STEPS_IN_CHUNK
) -> tuple[Tensor, Tensor]:
    """Solve block by block: a Toeplitz matrix product inside, a carried state between.

    A time-varying recurrence is scanned inside a block, and the blocks are recomputed in the
    backward pass, so that states are never stored for all times.

    Args:
        recurrence: What to solve.
        u: Inputs, `(*batch, time, m)`.
        z0: State before the first step, `(*batch, n)`; zero when `None`.
        block: Steps in a block.

    Returns:
        Outputs `(*batch, time, p)` and the last state `(*batch, n)`.
    """
    z0 = recurrence.start(u, z0)
    if recurrence.varying:
        return _scan_blocks(recurrence, u, z0, block)
    rest = u.shape[-2] % block
    if rest == 0:
        return _equal_blocks(recurrence, u, z0, block)
    head, z0 = _equal_blocks(recurrence, u[..., :rest, :], z0, rest)
    if rest == u.shape[-2]:
        return head, z0
    tail, z0 = _equal_blocks(recurrence, u[..., rest:, :], z0, block)
    return torch.cat([head, tail], -2), z0


def chunked_by(block: int) -> View:
    """Return the view `chunked` with a given block length."""
    return functools.partial(chunked, block=block)


def advance(
    recurrence: Recurrence, u: Tensor, z0: Tensor | None, *, block: int = _STEPS_IN_CHUNK
) -> Tensor:
    """Return the last state `(*batch, n)` alone, without storing those before it."""
    z0 = recurrence.start(u, z0)
    rest = u.shape[-2] % block
    for piece, size in ((u[..., :rest, :], rest), (u[..., rest:, :], block)):
        if piece.shape[-2]:
            z0 = _carry(recurrence, _blocks(piece, size), z0, size)[..., -1, :]
    return z0


def _equal_blocks(
    recurrence: Recurrence, u: Tensor, z0: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    transition, C = recurrence.transition, recurrence.C
    blocks = _blocks(u, size)
    states = _carry(recurrence, blocks, z0, size)
    starts = torch.cat([z0.expand_as(states[..., 0, :])[..., None, :], states[..., :-1, :]], -2)
    kernel = transition.kernel(recurrence.B, C, size)
    local = blocks.flatten(-2) @ _toeplitz(kernel).flatten(-4, -3).flatten(-2)
    free = transition.observe(C, size + 1)[..., 1:, :, :].flatten(-3, -2)
    y = local + transition.read(free, starts)
    y = y.unflatten(-1, (size, C.shape[-2])).flatten(-3, -2)
    return recurrence.feed_through(y, u), states[..., -1, :]


def _blocks(u: Tensor, size: int) -> Tensor:
    """Return `(*batch, blocks, size, m)`."""
    return u.unflatten(-2, (-1, size))


def _carry(recurrence: Recurrence, blocks: Tensor, z0: Tensor, size: int) -> Tensor:
    """Return the states at the end of each block, `(*batch, blocks, n)`."""
    transition = recurrence.transition
    columns = transition.reach(recurrence.B, size).flip(-3).transpose(-1, -2).flatten(-3, -2)
    flat = blocks.flatten(-2)
    if columns.is_complex():
        drive = flat @ torch.cat([columns.real, columns.imag], -1)
        drive = torch.complex(*drive.chunk(2, -1))
    else:
        drive = flat @ columns
    return transition.power(size).scan(drive, z0, False)


def _toeplitz(kernel: Tensor) -> Tensor:
    """Return the block matrix of a causal kernel, `(*batch, j, m, s, p)`: `K[s - j]`."""
    size = kernel.shape[-1]
    lag = torch.arange(size, device=kernel.device)
    lag = lag - lag[:, None]
    table = torch.where(lag >= 0, kernel[..., lag.clamp(min=0)], 0)
    return table.movedim((-4, -3, -2, -1), (-1, -3, -4, -2))


def _scan_blocks(
    recurrence: Recurrence, u: Tensor, z0: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    outputs, z = [], z0
    for start in range(0, u.shape[-2], size):
        time = slice(start, start + size)
        piece = recurrence.at(time)
        result = checkpoint(scanned, piece, u[..., time, :], z, use_reentrant=False)
        y, z = cast("tuple[Tensor, Tensor]", result)
        outputs.append(y)
    return torch.cat(outputs, -2), z
