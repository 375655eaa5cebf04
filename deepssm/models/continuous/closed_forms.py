r"""Transition and noise of a step in closed form, for chains of integrators and of equal decays.

With `F = N - rate I` and `N` nilpotent, `exp(F h) = e^{-rate h} sum_i N^i h^i / i!`, and noise on
the last state accumulates to products of the integrals of `s^m e^{-2 rate s}` from 0 to `h`. Those
are computed without a subtraction of like numbers for any `h`.

Source: Särkkä & Solin (2019), Applied Stochastic Differential Equations, sections 6.2 and 12.3.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

# Where the power series gives way to the finite sum, and its number of terms there.
_SMALL, _TERMS = 2.0, 22


class _DecayIntegral(torch.autograd.Function):
    """`int_0^h s^m e^{-2 rate s} ds`, with its derivatives."""

    @staticmethod
    def forward(ctx: Any, rate: Tensor, h: Tensor, m: int) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(rate, h)
        ctx.m = m
        x = 2 * rate * h
        near = x.clamp(max=_SMALL)
        series = torch.ones_like(near)
        for j in range(_TERMS, 0, -1):
            series = torch.addcmul(torch.ones_like(near), near / (m + 1 + j), series)
        small = h ** (m + 1) * torch.exp(-near) * series / (m + 1)
        if bool((x <= _SMALL).all()):
            return small
        sums = sum(x**k / math.factorial(k) for k in range(m + 1))
        large = math.factorial(m) / (2 * rate) ** (m + 1) * (1 - torch.exp(-x) * sums)
        return torch.where(x <= _SMALL, small, large)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (rate, h), grad = ctx.saved_tensors, grads[0]
        by_rate = by_h = None
        if ctx.needs_input_grad[0]:
            by_rate = (-2 * grad * decay_integral(rate, h, ctx.m + 1)).sum_to_size(rate.shape)
        if ctx.needs_input_grad[1]:
            by_h = (grad * h**ctx.m * torch.exp(-2 * rate * h)).sum_to_size(h.shape)
        return by_rate, by_h, None


def decay_integral(rate: Tensor, h: Tensor, m: int) -> Tensor:
    r"""Return `\int_0^h s^m e^{-2 rate s} ds`, of the shape of `h`.

    Args:
        rate: Per time unit, positive, one number.
        h: Times, not negative.
        m: Power, a whole number.
    """
    found: Tensor = _DecayIntegral.apply(rate, h, m)  # type: ignore[assignment]
    return found


def decay_integrals(rate: Tensor, h: Tensor, count: int) -> list[Tensor]:
    """Return `decay_integral` for `m = 0, ..., count - 1`.

    All but the last follow downwards, by sums of positive numbers.
    """
    found, decay = [decay_integral(rate, h, count - 1)], torch.exp(-2 * rate * h)
    for m in range(count - 1, 0, -1):
        found.append((2 * rate * found[-1] + h**m * decay) / m)
    return found[::-1]


def equal_decays(shift: Tensor, rate: Tensor, density: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Return transition and noise of steps of `dz = (N - rate I) z ds + noise on the last state`.

    Args:
        shift: `N`, nilpotent, `(n, n)`, per time unit.
        rate: Per time unit, positive.
        density: Spectral density of the noise.
        h: Steps, `(k,)`.

    Returns:
        `(k, n, n)` each.
    """
    n = len(shift)
    powers = [torch.eye(n, dtype=shift.dtype, device=shift.device)]
    for i in range(1, n):
        powers.append(powers[-1] @ shift / i)
    times = torch.stack([h**i for i in range(n)], -1)
    decay = torch.exp(-rate * h)[:, None]
    stacked = torch.stack(powers)
    transition = ((times * decay) @ stacked.flatten(1)).reshape(-1, n, n)
    last = stacked[:, :, -1]
    # Entry (i, j) is a sum over pairs of powers, each with its integral.
    pairs = density * last[:, None, :, None] * last[None, :, None, :]
    weights = torch.stack([_diagonal_sum(pairs, m) for m in range(2 * n - 1)])
    integrals = torch.stack(decay_integrals(rate, h, 2 * n - 1), -1)
    noise = (integrals @ weights.flatten(1)).reshape(-1, n, n)
    return transition, noise


def integrators(n: int, density: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Return transition and noise of a chain of `n` integrators, noise on the last one.

    Args:
        n: States.
        density: Spectral density of the noise.
        h: Steps, `(k,)`.

    Returns:
        `(k, n, n)` each.
    """
    powers = [h**i for i in range(2 * n)]
    zero = torch.zeros_like(h)
    transition = [
        [powers[j - i] / math.factorial(j - i) if j >= i else zero for j in range(n)]
        for i in range(n)
    ]
    noise = [
        [_accumulated(powers, n - 1 - i, n - 1 - j) * density for j in range(n)] for i in range(n)
    ]
    return tuple(torch.stack([torch.stack(row, -1) for row in x], -2) for x in (transition, noise))  # type: ignore[return-value]


def _accumulated(powers: list[Tensor], i: int, j: int) -> Tensor:
    return powers[i + j + 1] / ((i + j + 1) * math.factorial(i) * math.factorial(j))


def _diagonal_sum(pairs: Tensor, m: int) -> Tensor:
    n = len(pairs)
    return torch.stack([pairs[i, m - i] for i in range(max(0, m - n + 1), min(n, m + 1))]).sum(0)
