"""Parallel prefix solution of `x_t = a_t x_{t-1} + b_t`: one Blelloch driver for every product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Monoid(NamedTuple):
    """How affine maps compose.

    Attributes:
        compose: `(a2, a1) -> a2 a1`.
        act: `(b2, a2, b1) -> a2 b1 + b2`.
        adjoint: `a -> a*`.
        outer: `(g, a, x) -> g x*`, the gradient of `a x` with respect to what represents `a`.
        axis: The time axis of `a` and `b`, counted from the end.
    """

    compose: Callable[[Tensor, Tensor], Tensor]
    act: Callable[[Tensor, Tensor, Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]
    outer: Callable[[Tensor, Tensor, Tensor], Tensor]
    axis: int


def diagonal_scan(
    gates: Tensor, drive: Tensor, initial: Tensor | None = None, *, reverse: bool = False
) -> Tensor:
    """Solve `x_t = gates_t * x_{t-1} + drive_t` in `O(log time)` steps, real or complex.

    Args:
        gates: `(*batch, time, n)`, or `(*batch, 1, n)` when they are the same at all times.
        drive: `(*batch, time, n)`.
        initial: State before the first step, `(*batch, n)`; zero when `None`.
        reverse: Run backwards in time, `x_t = gates_t * x_{t+1} + drive_t`.

    Returns:
        `x`, `(*batch, time, n)`.

    Source: Blelloch (1990), Prefix Sums and Their Applications, section 1.4.
    """
    monoid = Monoid(torch.mul, torch.addcmul, torch.conj, _diagonal_outer, -2)
    return _solve(gates, drive, initial, reverse, monoid)


def matrix_scan(
    gates: Tensor, drive: Tensor, initial: Tensor | None = None, *, reverse: bool = False
) -> Tensor:
    """Solve `x_t = gates_t @ x_{t-1} + drive_t` in `O(log time)` steps, real or complex.

    Args:
        gates: `(*batch, time, n, n)`, or `(*batch, 1, n, n)` when constant.
        drive: `(*batch, time, n)`.
        initial: State before the first step, `(*batch, n)`; zero when `None`.
        reverse: Run backwards in time.

    Returns:
        `x`, `(*batch, time, n)`.
    """
    monoid = Monoid(torch.matmul, _matrix_act, torch.adjoint, _matrix_outer, -3)
    start = None if initial is None else initial[..., None]
    return _solve(gates, drive[..., None], start, reverse, monoid)[..., 0]


def logarithmic_scan(logarithms: Tensor, drive: Tensor, initial: Tensor | None = None) -> Tensor:
    """Solve `x_t = exp(logarithms_t) * x_{t-1} + drive_t`, with precise products of gates.

    A gate near 1 that is rounded to float32 is wrong in phase by one unit each step; its powers
    taken as `exp(2^k log)` are not.

    Args:
        logarithms: `(*batch, time, n)`, or `(*batch, 1, n)` when they are the same at all times.
        drive: `(*batch, time, n)`.
        initial: State before the first step, `(*batch, n)`; zero when `None`.

    Returns:
        `x`, `(*batch, time, n)`.
    """
    monoid = Monoid(torch.add, _logarithmic_act, torch.conj, _logarithmic_outer, -2)
    return _solve(logarithms, drive, initial, False, monoid)


def _diagonal_outer(gradient: Tensor, gate: Tensor, state: Tensor) -> Tensor:
    return gradient * state.conj()


def _logarithmic_act(b2: Tensor, a2: Tensor, b1: Tensor) -> Tensor:
    return torch.addcmul(b2, a2.exp(), b1)


def _logarithmic_outer(gradient: Tensor, gate: Tensor, state: Tensor) -> Tensor:
    return gradient * (gate.exp() * state).conj()


def _matrix_act(b2: Tensor, a2: Tensor, b1: Tensor) -> Tensor:
    return b2 + a2 @ b1


def _matrix_outer(gradient: Tensor, gate: Tensor, state: Tensor) -> Tensor:
    return gradient @ state.adjoint()


def _solve(
    gates: Tensor, drive: Tensor, initial: Tensor | None, reverse: bool, monoid: Monoid
) -> Tensor:
    axis = monoid.axis
    if reverse:
        gates, drive = gates.flip(axis), drive.flip(axis)
    batch = torch.broadcast_shapes(gates.shape[:axis], drive.shape[:axis])
    dtype = torch.promote_types(gates.dtype, drive.dtype)
    drive = drive.expand(*batch, *drive.shape[axis:]).to(dtype)
    if initial is not None:
        first = monoid.act(
            _cut(drive, axis, 0, 1), _cut(gates, axis, 0, 1), initial.unsqueeze(axis)
        )
        drive = torch.cat([first, _cut(drive, axis, 1)], axis)
    states: Any = _Scan.apply(gates.to(dtype), drive, monoid)
    return states.flip(axis) if reverse else states


class _Scan(torch.autograd.Function):
    """The gradient of a scan is the same scan, backwards, with adjoint gates."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, drive: Tensor, monoid: Monoid) -> Tensor:  # noqa: ANN401
        states = _blelloch(gates, drive, monoid)
        ctx.save_for_backward(gates, states)
        ctx.monoid = monoid
        return states

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, None]:  # noqa: ANN401
        gates, states = ctx.saved_tensors
        monoid, axis = ctx.monoid, ctx.monoid.axis
        adjoint = monoid.adjoint(gates).roll(-1, axis).flip(axis)
        result: Any = _Scan.apply(adjoint, grads[0].flip(axis), monoid)
        drive = result.flip(axis)
        if not ctx.needs_input_grad[0]:
            return None, drive, None
        later, before = _cut(drive, axis, 1), _cut(states, axis, 0, -1)
        gate = monoid.outer(later, _cut_gates(gates, axis, 1), before)
        if gates.shape[axis] > 1:
            gate = torch.cat([torch.zeros_like(_cut(gate, axis, 0, 1)), gate], axis)
        elif gate.shape[axis] != 1:
            gate = gate.sum(axis, keepdim=True)
        return gate.sum_to_size(gates.shape), drive, None


def _blelloch(a: Tensor, b: Tensor, monoid: Monoid) -> Tensor:
    axis = monoid.axis
    size = b.shape[axis]
    if size == 1:
        return b
    if size % 2:
        head = _blelloch(_cut_gates(a, axis, 0, -1), _cut(b, axis, 0, -1), monoid)
        last = monoid.act(_cut(b, axis, -1), _cut_gates(a, axis, -1), _cut(head, axis, -1))
        return torch.cat([head, last], axis)
    a_even, a_odd = _cut_gates(a, axis, 0, None, 2), _cut_gates(a, axis, 1, None, 2)
    b_even, b_odd = _cut(b, axis, 0, None, 2), _cut(b, axis, 1, None, 2)
    odd = _blelloch(monoid.compose(a_odd, a_even), monoid.act(b_odd, a_odd, b_even), monoid)
    rest = monoid.act(_cut(b_even, axis, 1), _cut_gates(a_even, axis, 1), _cut(odd, axis, 0, -1))
    even = torch.cat([_cut(b, axis, 0, 1), rest], axis)
    return torch.stack([even, odd], b.ndim + axis + 1).flatten(axis - 1, axis)


def _cut(x: Tensor, axis: int, start: int, stop: int | None = None, step: int = 1) -> Tensor:
    index = [slice(None)] * x.ndim
    index[axis] = slice(start, stop, step)
    return x[tuple(index)]


def _cut_gates(a: Tensor, axis: int, start: int, stop: int | None = None, step: int = 1) -> Tensor:
    """Slice the gates in time; gates that are the same at all times (size 1) stay as they are."""
    return a if a.shape[axis] == 1 else _cut(a, axis, start, stop, step)
