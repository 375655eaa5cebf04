"""Recurrent layers of few units, whose loops over time are compiled; time runs forwards."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ....ops.products import arrays, summed_outer


class CompiledRelu(torch.autograd.Function):
    """`relu_recurrence` with `ended` given."""

    @staticmethod
    def forward(ctx: Any, drive: Tensor, weight: Tensor, ended: Tensor) -> Tensor:  # noqa: ANN401
        """Return the states; arguments as in `relu_recurrence`."""
        from .kernels import relu_forward

        states = drive.new_zeros(len(drive) + 1, *drive.shape[1:])
        relu_forward(*arrays(drive, weight.t(), ended, states))
        ctx.save_for_backward(states, weight)
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # noqa: ANN401
        """Return the gradients of the arguments."""
        from .kernels import relu_backward

        states, weight = ctx.saved_tensors
        error = torch.empty_like(states[1:])
        relu_backward(*arrays(grad.clone(), weight, states, error))
        return error, summed_outer(error, states[:-1]), None


class CompiledGru(torch.autograd.Function):
    """`gru_recurrence` with `ended` given."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        drive: Tensor,
        weight: Tensor,
        bias: Tensor,
        ended: Tensor,
    ) -> Tensor:
        """Return the states; arguments as in `gru_recurrence`."""
        from .kernels import gru_forward

        (time, batch, _), n = drive.shape, weight.shape[-1]
        states = drive.new_zeros(time + 1, batch, n)
        gates, new, recalled = (drive.new_empty(time, batch, k * n) for k in (2, 1, 1))
        gru_forward(*arrays(drive, weight.t(), bias, ended, states, gates, new, recalled))
        ctx.save_for_backward(states, gates, new, recalled, weight, ended)
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # noqa: ANN401
        """Return the gradients of the arguments."""
        from .kernels import gru_backward

        states, gates, new, recalled, weight, ended = ctx.saved_tensors
        slopes, to_new = gru_slopes(states[:-1], gates, new, recalled)
        errors, n = grad.clone(memory_format=torch.contiguous_format), new.shape[-1]
        error = grad.new_zeros(*grad.shape[:2], 3 * n)
        gru_backward(*arrays(errors, weight, gates[..., n:], slopes, ended, error))
        drive = torch.cat([error[..., : 2 * n], errors * to_new], dim=-1)
        return drive, summed_outer(error, states[:-1]), error.sum((0, 1)), None


def gru_slopes(
    before: Tensor, gates: Tensor, new: Tensor, recalled: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what multiplies the error of `h_t` in those of the gates, for all steps at once.

    Args:
        before: `h_{t-1}`, `(time, batch, hidden)`.
        gates: Reset and keep, `(time, batch, 2 hidden)`.
        new: `n`, `(time, batch, hidden)`.
        recalled: `W_n h + b_n`, `(time, batch, hidden)`.

    Returns:
        Of reset, keep and recalled, `(time, batch, 3, hidden)`, and of the new state's drive.
    """
    reset, keep = gates.chunk(2, dim=-1)
    to_new = (1 - keep) * (1 - new * new)
    to_keep = (before - new) * keep * (1 - keep)
    to_reset = to_new * recalled * reset * (1 - reset)
    return torch.stack([to_reset, to_keep, to_new * reset], dim=-2), to_new
