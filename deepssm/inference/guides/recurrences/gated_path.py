"""The recursion of `GateCombiner` over a whole path, with a backward pass of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ....ops.products import arrays, compiled, packed, summed_outer, times_turned
from .cuda_graph import direct


def gated_path(
    drive: Tensor,
    start: Tensor,
    state: tuple[Tensor, Tensor],
    output: Tensor,
    noise: Tensor,
    min_scale: float,
    run: Callable[..., None] = direct,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a path `z_t = m_t + s_t e_t`, its means and its standard deviations.

    `(m_t, r_t) = drive_t + V tanh(W z_{t-1} + b)`, `s_t = softplus(r_t) + min_scale`. Only this
    is a loop; the gradient of each weight is one matrix product over all steps.

    Args:
        drive: `(time, batch, 2 state)`.
        start: `z_0`, `(state,)`.
        state: `W`, `(hidden, state)`, and `b`, `(hidden,)`.
        output: `V`, `(2 state, hidden)`.
        noise: `e`, `(time, particles, batch, state)`, without a gradient.
        min_scale: Floor of the standard deviations.
        run: Runs the loops; a `Replay` where each is to be one launch on a GPU.

    Returns:
        Three of `(time, particles, batch, state)`.
    """
    drive, (weight, bias) = drive.to(output.dtype), state
    z, pre = _GatedPath.apply(drive, start, weight, bias, output, noise, min_scale, run)  # type: ignore[misc]
    mean, raw = pre.chunk(2, dim=-1)
    return z, mean, F.softplus(raw) + min_scale


class _GatedPath(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        drive: Tensor,
        start: Tensor,
        weight: Tensor,
        bias: Tensor,
        output: Tensor,
        noise: Tensor,
        min_scale: float,
        run: Callable[..., None],
    ) -> tuple[Tensor, Tensor]:
        time, particles, batch, n = noise.shape
        rows = particles * batch
        path = noise.new_empty(time + 1, rows, n)
        path[0] = start
        hidden = noise.new_empty(time, rows, len(weight))
        pre = drive[:, None].repeat(1, particles, 1, 1).view(time, rows, 2 * n)
        shocks = noise.view(time, rows, n)
        fill = _forward_compiled if compiled(hidden) else _forward_loop
        run(fill, (weight, bias, output, shocks, min_scale, path, hidden, pre), 3)
        ctx.run = run
        ctx.save_for_backward(path, hidden, pre, weight, output, noise)
        return path[1:].view(noise.shape), pre.view(*noise.shape[:-1], 2 * n)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_z: Tensor, grad_pre: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        path, hidden, pre, weight, output, noise = ctx.saved_tensors
        time, rows, n = path[1:].shape
        pull = noise.view(time, rows, n) * torch.sigmoid(pre[..., n:])  # d z_t / d r_t
        grad_z, error = grad_z.reshape(pull.shape), grad_pre.reshape(pre.shape).clone()
        error[..., :n].add_(grad_z)
        error[..., n:].addcmul_(grad_z, pull)
        inner, start = torch.empty_like(hidden), torch.zeros_like(path[0])
        complete = _backward_compiled if compiled(hidden) else _backward_loop
        ctx.run(complete, (weight, output, pull, hidden, error, inner, start), 3)
        return (
            error.view(grad_pre.shape).sum(1),
            start.sum(0),
            summed_outer(inner, path[:-1]),
            inner.sum((0, 1)),
            summed_outer(error, hidden),
            None,
            None,
            None,
        )


def _forward_loop(
    weight: Tensor,
    bias: Tensor,
    output: Tensor,
    shocks: Tensor,
    floor: float,
    path: Tensor,
    hidden: Tensor,
    pre: Tensor,
) -> None:
    n, rows = shocks.shape[-1], path.shape[1]
    inwards, outwards = packed(weight, rows), packed(output, rows)
    for t, shock in enumerate(shocks):
        torch.add(times_turned(path[t], inwards), bias, out=hidden[t]).tanh_()
        mean, raw = pre[t].add_(times_turned(hidden[t], outwards)).split(n, dim=-1)
        torch.addcmul(mean, F.softplus(raw).add_(floor), shock, out=path[t + 1])


def _forward_compiled(
    weight: Tensor, bias: Tensor, output: Tensor, shocks: Tensor, floor: float, *filled: Tensor
) -> None:
    from .kernels import gated_forward

    inwards, biases, outwards, noise = arrays(weight.t(), bias, output.t(), shocks)
    path, hidden, pre = arrays(*filled)
    gated_forward(inwards, biases, outwards, noise, floor, path, hidden, pre)


def _backward_loop(
    weight: Tensor,
    output: Tensor,
    pull: Tensor,
    hidden: Tensor,
    error: Tensor,
    inner: Tensor,
    start: Tensor,
) -> None:
    n, carry = pull.shape[-1], start
    outwards, inwards = output.t(), weight.t()
    slope = torch.ops.aten.tanh_backward.grad_input
    for t in range(len(pull) - 1, -1, -1):
        error[t, :, :n].add_(carry)
        error[t, :, n:].addcmul_(carry, pull[t])
        slope(times_turned(error[t], outwards), hidden[t], grad_input=inner[t])
        carry = times_turned(inner[t], inwards)
    start.copy_(carry)


def _backward_compiled(
    weight: Tensor, output: Tensor, pull: Tensor, hidden: Tensor, *filled: Tensor
) -> None:
    from .kernels import gated_backward

    error, inner, start = filled
    torch.sub(1, hidden.square(), out=inner)
    gated_backward(*arrays(weight, output, pull, error, inner, start))
