"""Mamba: a state space whose step, input and output depend on the input."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.arguments import checked
from ...linear import scalar_decay_scan, selective_scan
from .base import SequenceLayer, State, Step, clean, entering, first_step_is_nominal


@checked
class Mamba(SequenceLayer):
    """Gated selective state space with a short causal convolution.

    Args:
        features: Size of input and output.
        state_dim: States of each inner channel, `N`.
        expand: Inner channels for each feature.
        width: Length of the convolution.
        heads: With a number of heads the decay is one scalar for each head and step (Mamba-2) and
            the recurrence runs as matrix products; `None` gives each state its own decay (Mamba).
        smallest_dt: Of the time steps, drawn log-uniformly.
        largest_dt: Of the time steps.

    Raises:
        ValueError: `heads` does not divide the number of inner channels.

    Source: Gu & Dao (2023), Mamba; Dao & Gu (2024), Transformers are SSMs.
    """

    slow_parameters: ClassVar[tuple[str, ...]] = ("log_decay", "D")

    def __init__(
        self,
        features: int,
        state_dim: int = 16,
        *,
        expand: int = 2,
        width: int = 4,
        heads: int | None = None,
        smallest_dt: float = 1e-3,
        largest_dt: float = 1e-1,
    ) -> None:
        super().__init__(features)
        inner = expand * features
        if heads is not None and inner % heads:
            raise ValueError(f"`heads` must divide {inner} (the inner channels), got {heads}.")
        self.inner, self.state_dim, self.width, self.heads = inner, state_dim, width, heads
        steps = heads or inner
        rank = steps if heads else math.ceil(features / 16)
        self.rank = rank
        self.enter = nn.Linear(features, 2 * inner, bias=False)
        self.convolution = nn.Conv1d(inner, inner, width, groups=inner)
        self.select = nn.Linear(inner, rank + 2 * state_dim, bias=False)
        self.step = nn.Identity() if heads else nn.Linear(rank, inner, bias=False)
        dt = torch.exp(torch.rand(steps) * math.log(largest_dt / smallest_dt)) * smallest_dt
        self.step_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))
        decay = torch.arange(1, state_dim + 1).to(dt).expand(inner, -1)
        self.log_decay = nn.Parameter((1 + 15 * torch.rand(steps) if heads else decay).log())
        self.D = nn.Parameter(torch.ones(inner))
        self.leave = nn.Linear(inner, features, bias=False)

    def run(
        self,
        u: Tensor,
        state: State | None = None,
        *,
        dt: Tensor | float | None = None,
        rate: float = 1.0,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Return the outputs and the state after them; arguments as in `SequenceLayer`."""
        tail, z = _pair(state)
        dt = first_step_is_nominal(dt) if state is None else dt
        x, gate = self.enter(entering(self, u, mask)).chunk(2, -1)
        tail = x.new_zeros(*x.shape[:-2], self.width - 1, self.inner) if tail is None else tail
        inputs = torch.cat([tail, x], -2)
        mixed = self.convolution(inputs.reshape(-1, *inputs.shape[-2:]).mT).mT
        x = F.silu(mixed.reshape(x.shape))
        raw, B, C = self.select(x).split([self.rank, self.state_dim, self.state_dim], -1)
        delta = F.softplus(self.step(raw) + self.step_bias) * rate
        if dt is not None:
            delta = delta * (dt[..., None] if isinstance(dt, Tensor) and dt.ndim else dt)
        y, z = self._scan(clean(x, mask), delta, B, C, z)
        y = (y + self.D * x) * F.silu(gate)
        return self.leave(y), (inputs[..., inputs.shape[-2] - self.width + 1 :, :], z)

    def stepper(self, dt: Tensor | float | None = None, rate: float = 1.0) -> Step:
        """Return a function that takes one input at a time, with equal steps."""
        scale = rate if dt is None else rate * dt
        decay = -self.log_decay.exp()
        taps, bias = self.convolution.weight[:, 0].mT, self.convolution.bias
        assert bias is not None
        sizes = [self.rank, self.state_dim, self.state_dim]

        def step(u: Tensor, state: State | None) -> tuple[Tensor, State]:
            tail, z = _pair(state)
            x, gate = self.enter(u).chunk(2, -1)
            if tail is None:
                tail = x.new_zeros(*x.shape[:-1], self.width - 1, self.inner)
            window = torch.cat([tail, x[..., None, :]], -2)
            x = F.silu(torch.einsum("...wi,wi->...i", window, taps) + bias)
            raw, B, C = self.select(x).split(sizes, -1)
            delta = F.softplus(self.step(raw) + self.step_bias) * scale
            y, z = self._advance(x, delta, decay, B, C, z)
            y = torch.addcmul(y, self.D, x) * F.silu(gate)
            return self.leave(y), (window[..., 1:, :], z)

        return step

    def _advance(
        self, x: Tensor, delta: Tensor, decay: Tensor, B: Tensor, C: Tensor, z: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """One step of `_scan`."""
        if self.heads is None:
            drive = (delta * x)[..., None] * B[..., None, :]
            z = drive if z is None else torch.addcmul(drive, (delta[..., None] * decay).exp(), z)
            return (z @ C[..., None])[..., 0], z
        heads = x.unflatten(-1, (self.heads, -1)) * delta[..., None]
        drive = heads[..., None] * B[..., None, None, :]
        z = drive if z is None else torch.addcmul(drive, (delta * decay).exp()[..., None, None], z)
        return (z @ C[..., None, :, None])[..., 0].flatten(-2), z

    def _scan(
        self, x: Tensor, delta: Tensor, B: Tensor, C: Tensor, z: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        decay = -self.log_decay.exp()
        B, C = B[..., None, :], C[..., None, :]
        if self.heads is None:
            return selective_scan(x, delta, decay, B, C, z)
        heads = x.unflatten(-1, (self.heads, -1)) * delta[..., None]
        y, z = scalar_decay_scan(heads, delta * decay, B, C, z)
        return y.flatten(-2), z


def _pair(state: State | None) -> tuple[Tensor | None, Tensor | None]:
    if state is None:
        return None, None
    tail, z = state
    if isinstance(tail, tuple) or isinstance(z, tuple):
        raise ValueError("`state` must be what this layer returned, got nested tuples.")
    return tail, z
