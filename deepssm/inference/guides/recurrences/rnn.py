"""Recurrent layers over a whole series with a backward pass of their own.

Autograd through a loop adds a small outer product to every weight's gradient at every step. Here
the steps' errors are kept and each weight's gradient is one matrix product over all of them.
Time is the first axis, so that a step is one block of memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ....ops.products import compiled, packed, summed_outer, times_turned
from .rnn_compiled import CompiledGru, CompiledRelu, gru_slopes


def relu_recurrence(
    drive: Tensor, weight: Tensor, ended: Tensor | None = None, *, reverse: bool = False
) -> Tensor:
    """Return `h_t = relu(drive_t + W h_{t-1})`, from `h_0 = 0`.

    Args:
        drive: `(time, batch, hidden)`.
        weight: `W`, `(hidden, hidden)`.
        ended: `(time, batch)`, true where `h_t` is 0; `None` for nowhere.
        reverse: Whether `t` runs backwards, `h_{t+1}` taking the place of `h_{t-1}`.

    Returns:
        `(time, batch, hidden)`.
    """
    drive = drive.to(weight.dtype)
    if compiled(drive):
        return _forwards(CompiledRelu.apply, (drive, weight), ended, reverse)
    return _Relu.apply(drive, weight, ended, reverse)  # type: ignore[return-value]


def gru_recurrence(
    drive: Tensor,
    weight: Tensor,
    bias: Tensor,
    ended: Tensor | None = None,
    *,
    reverse: bool = False,
) -> Tensor:
    """Return the states of gated recurrent units, from `h_0 = 0`.

    `r, s = sigmoid(d_rs + W_rs h + b_rs)`, `n = tanh(d_n + r (W_n h + b_n))`,
    `h_t = (1 - s) n + s h` with `h = h_{t-1}`: the cell of `torch.nn.GRU`.

    Args:
        drive: `d = (d_r, d_s, d_n)`, `(time, batch, 3 hidden)`.
        weight: `(3 hidden, hidden)`.
        bias: `(3 hidden,)`.
        ended: `(time, batch)`, true where `h_t` is 0; `None` for nowhere.
        reverse: Whether `t` runs backwards.

    Returns:
        `(time, batch, hidden)`.

    Source: Cho et al. (2014), Learning phrase representations using RNN encoder-decoder.
    """
    drive = drive.to(weight.dtype)
    if compiled(drive):
        return _forwards(CompiledGru.apply, (drive, weight, bias), ended, reverse)
    return _Gru.apply(drive, weight, bias, ended, reverse)  # type: ignore[return-value]


def _forwards(
    run: Callable[..., Any], parts: tuple[Tensor, ...], ended: Tensor | None, reverse: bool
) -> Tensor:
    """Run a function that knows one direction of time only."""
    drive, *weights = parts
    ended = drive.new_zeros(drive.shape[:2], dtype=torch.bool) if ended is None else ended
    if not reverse:
        return run(drive, *weights, ended)
    return run(drive.flip(0), *weights, ended.flip(0)).flip(0)


class _Relu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        drive: Tensor,
        weight: Tensor,
        ended: Tensor | None,
        reverse: bool,
    ) -> Tensor:
        states, now, before = _states(drive, weight.shape[-1], reverse)
        clear, inwards = _clear(ended), packed(weight, drive.shape[1])
        for t in _steps(len(drive), reverse):
            torch.add(times_turned(before[t], inwards), drive[t], out=now[t]).relu_()
            clear(now, t)
        ctx.save_for_backward(states, weight)
        ctx.reverse = reverse
        return now

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:  # noqa: ANN401
        states, weight = ctx.saved_tensors
        now, before = _sides(states, ctx.reverse)
        error = torch.empty_like(now)
        carry, turned = grad.new_zeros(grad.shape[1:]), weight.t()
        for t in _steps(len(grad), not ctx.reverse):
            # An ended state is 0, so nothing flows through it.
            into = carry.add_(grad[t])
            torch.ops.aten.threshold_backward.grad_input(into, now[t], 0, grad_input=error[t])
            carry = times_turned(error[t], turned)
        return error, summed_outer(error, before), None, None


class _Gru(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        drive: Tensor,
        weight: Tensor,
        bias: Tensor,
        ended: Tensor | None,
        reverse: bool,
    ) -> Tensor:
        n = weight.shape[-1]
        states, now, before = _states(drive, n, reverse)
        gates, new, recalled = (drive.new_empty(*drive.shape[:2], k * n) for k in (2, 1, 1))
        clear, inwards = _clear(ended), packed(weight, drive.shape[1])
        for t in _steps(len(drive), reverse):
            pre = times_turned(before[t], inwards).add_(bias)
            torch.add(pre[:, : 2 * n], drive[t, :, : 2 * n], out=gates[t]).sigmoid_()
            recalled[t] = pre[:, 2 * n :]
            reset, keep = gates[t].chunk(2, dim=-1)
            torch.addcmul(drive[t, :, 2 * n :], reset, recalled[t], out=new[t]).tanh_()
            torch.lerp(new[t], before[t], keep, out=now[t])
            clear(now, t)
        ctx.save_for_backward(states, gates, new, recalled, weight, ended)
        ctx.reverse = reverse
        return now

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        states, gates, new, recalled, weight, ended = ctx.saved_tensors
        _, before = _sides(states, ctx.reverse)
        slopes, to_new = gru_slopes(before, gates, new, recalled)
        keep = gates[..., grad.shape[-1] :]
        error, errors = torch.empty_like(slopes), grad.new_empty(grad.shape)
        clear, turned = _clear(ended), weight.t()
        carry = grad.new_zeros(grad.shape[1:])
        for t in _steps(len(grad), not ctx.reverse):
            torch.add(carry, grad[t], out=errors[t])
            clear(errors, t)
            torch.mul(slopes[t], errors[t, :, None], out=error[t])
            carry = times_turned(error[t].flatten(1), turned).addcmul_(errors[t], keep[t])
        recurrent = error.flatten(2)
        drive = torch.cat([recurrent[..., : 2 * grad.shape[-1]], errors * to_new], dim=-1)
        return drive, summed_outer(recurrent, before), recurrent.sum((0, 1)), None, None


def _states(drive: Tensor, hidden: int, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return room for all states with the zero start at one end, and its two sides."""
    states = drive.new_empty(len(drive) + 1, drive.shape[1], hidden)
    states[-1 if reverse else 0] = 0.0
    return states, *_sides(states, reverse)


def _sides(states: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    """Return `h_t` and the state before it in the direction of reading, for all `t`."""
    return (states[:-1], states[1:]) if reverse else (states[1:], states[:-1])


def _steps(time: int, reverse: bool) -> range:
    return range(time - 1, -1, -1) if reverse else range(time)


class _clear:  # noqa: N801
    """Zero the rows of a step whose series has ended, asking only once which steps have any."""

    def __init__(self, ended: Tensor | None) -> None:
        self.ended = ended
        self.some = [] if ended is None else ended.any(-1).tolist()

    def __call__(self, rows: Tensor, t: int) -> None:
        if self.ended is not None and self.some[t]:
            rows[t].masked_fill_(self.ended[t, :, None], 0.0)
