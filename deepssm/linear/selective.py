"""Recurrences whose matrices depend on the input: selective scan and its scalar-decay form."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .scan import diagonal_scan
from .selective_compiled import compiled_scan


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    z0: Tensor | None = None,
    *,
    block: int = 64,
) -> tuple[Tensor, Tensor]:
    """Solve `z_t = exp(delta_t A) z_{t-1} + delta_t B_t u_t`, `y_t = C_t z_t` for each channel.

    States, `n` times larger than the input, are not stored for all times but computed again in the
    backward pass. A compiled loop where it applies (CPU, real, `B` and `C` shared by the channels;
    differentiable once), else a scan in blocks. Gradients flow through the returned state too.

    Args:
        u: `(*batch, time, d)`.
        delta: Positive step of each channel, `(*batch, time, d)`.
        A: `(d, n)`, real or complex (one of each conjugate pair), negative real part.
        B: Broadcastable to `(*batch, time, d, n)`, with four axes or more in the batched case.
        C: As `B`.
        z0: State before the first step, `(*batch, d, n)`; zero when `None`.
        block: Steps in a block of the scan.

    Returns:
        Outputs `(*batch, time, d)` and the last state `(*batch, d, n)`.

    Source: Gu & Dao (2023), Mamba, algorithm 2.
    """
    with torch.autocast(u.device.type, enabled=False):
        u, delta, B, C = u.to(A.real.dtype), delta.to(A.real.dtype), B.to(A.dtype), C.to(A.dtype)
        shared = B.shape[-2] == 1 and C.shape[-2] == 1
        if shared and u.device.type == "cpu" and A.dtype in (torch.float32, torch.float64):
            z = A.new_zeros(*u.shape[:-2], *A.shape) if z0 is None else z0.to(A.dtype)
            return compiled_scan(u, delta, A, B.squeeze(-2), C.squeeze(-2), z)
        return _selective_scan(u, delta, A, B, C, z0, block)


def _selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, z0: Tensor | None, block: int
) -> tuple[Tensor, Tensor]:
    time = u.shape[-2]
    z = A.new_zeros(*u.shape[:-2], *A.shape) if z0 is None else z0
    outputs = []
    for start in range(0, time, block):
        piece = slice(start, start + block)
        pieces = (x if x.shape[-3] == 1 else x[..., piece, :, :] for x in (B, C))
        arguments = (u[..., piece, :], delta[..., piece, :], A, *pieces, z)
        result = checkpoint(_selective_block, *arguments, use_reentrant=False)
        y, z = cast("tuple[Tensor, Tensor]", result)
        outputs.append(y)
    return torch.cat(outputs, -2), z


def _selective_block(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, z: Tensor
) -> tuple[Tensor, Tensor]:
    gates = (delta[..., None] * A).exp()
    drive = (delta * u)[..., None] * B
    states = diagonal_scan(gates.flatten(-2), drive.flatten(-2), z.flatten(-2))
    states = states.unflatten(-1, A.shape)
    y = (states * C).sum(-1)
    return (2 * y.real if y.is_complex() else y), states[..., -1, :, :]


def scalar_decay_scan(
    u: Tensor,
    log_decay: Tensor,
    B: Tensor,
    C: Tensor,
    z0: Tensor | None = None,
    *,
    block: int = 64,
) -> tuple[Tensor, Tensor]:
    """Solve `Z_t = exp(log_decay_t) Z_{t-1} + u_t B_t'`, `y_t = Z_t C_t` for each head.

    One decay for each head makes a block a masked matrix product, `(C B' * decays) u`, as in
    linear attention: matrix products instead of a scan.

    Args:
        u: `(*batch, time, heads, p)`, the step size already in it.
        log_decay: Non-positive, `(*batch, time, heads)`.
        B: `(*batch, time, heads or 1, n)`.
        C: `(*batch, time, heads or 1, n)`.
        z0: State before the first step, `(*batch, heads, p, n)`; zero when `None`.
        block: Steps in a block.

    Returns:
        Outputs `(*batch, time, heads, p)` and the last state `(*batch, heads, p, n)`.

    Source: Dao & Gu (2024), Transformers are SSMs, listing 1.
    """
    time, heads, p = u.shape[-3:]
    pad = -time % block
    u, B, C = (_blocks(x, pad, block) for x in (u, B, C))
    total = _blocks(log_decay[..., None], pad, block)[..., 0].cumsum(-1)
    inside = _decay_between(total)
    y = ((C @ B.mT) * inside) @ u
    enter = (total[..., -1:] - total).exp()[..., None]
    states = ((enter * u).mT @ B).transpose(-4, -3).flatten(-3)
    gates = total[..., -1].mT.exp()
    gates = gates.repeat_interleave(p * B.shape[-1], -1)
    start = u.new_zeros(states[..., 0, :].shape) if z0 is None else z0.flatten(-3)
    states = diagonal_scan(gates, states, start)
    before = torch.cat([start[..., None, :], states[..., :-1, :]], -2)
    before = before.unflatten(-1, (heads, p, -1)).transpose(-4, -3)
    y = y + total.exp()[..., None] * (C @ before.mT)
    y = y.movedim(-4, -2).flatten(-4, -3)[..., :time, :, :]
    return y, states[..., -1, :].unflatten(-1, (heads, p, -1))


def _blocks(x: Tensor, pad: int, block: int) -> Tensor:
    """Pad the end, where nothing decays or enters; return `(*batch, heads, blocks, block, k)`."""
    x = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, pad))
    return x.unflatten(-3, (-1, block)).movedim(-2, -4)


def _decay_between(total: Tensor) -> Tensor:
    """Return `exp(total_t - total_s)` for `s <= t`, else 0, `(..., block, block)`."""
    difference = total[..., :, None] - total[..., None, :]
    later = torch.ones(difference.shape[-2:], dtype=torch.bool, device=total.device).triu(1)
    return difference.masked_fill(later, -math.inf).exp()
