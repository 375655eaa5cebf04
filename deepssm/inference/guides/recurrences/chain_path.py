"""A path of a linear recursion: a compiled loop on a CPU, a parallel scan elsewhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ....linear import matrix_scan
from ....ops.products import arrays


def chain_path(gates: Tensor, drive: Tensor) -> Tensor:
    """Return `z_t = A_t z_{t-1} + d_t` from `z_1 = d_1`.

    Args:
        gates: `A`, `(*batch, time, state, state)`; entry 0 is unused.
        drive: `d`, `(*particles, *batch, time, state)`.

    Returns:
        `(*particles, *batch, time, state)`.
    """
    if drive.device.type != "cpu":
        return matrix_scan(gates, drive)
    time, n = drive.shape[-2:]
    rows = drive.reshape(-1, gates.shape[:-3].numel(), time, n)
    path: Any = _Chain.apply(gates.reshape(-1, time, n, n), rows)
    return path.view(drive.shape)


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: Tensor, drive: Tensor) -> Tensor:  # noqa: ANN401
        from .kernels import chain_forward

        path = drive.clone(memory_format=torch.contiguous_format)
        chain_forward(*arrays(gates, path))
        ctx.save_for_backward(gates, path)
        return path

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor]:  # noqa: ANN401
        from .kernels import chain_backward

        gates, path = ctx.saved_tensors
        error = grad.clone(memory_format=torch.contiguous_format)
        chain_backward(*arrays(gates, error))
        if not ctx.needs_input_grad[0]:
            return None, error
        outer = torch.zeros_like(gates)
        later, before = error[:, :, 1:, :, None], path[:, :, :-1, None, :]
        torch.sum(later * before, 0, out=outer[:, 1:])
        return outer, error
