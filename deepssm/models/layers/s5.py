"""Layers with one system for all features: S5 and the linear recurrent unit."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from ...core.arguments import checked
from ...linear import Diagonal, Dirac, Discretization, LinearSystem, ZeroOrderHold, legs, lru_ring
from .base import StructuredLayer, draw_log_dt, own_parameter, working_dtype


@checked
class S5(StructuredLayer):
    """One diagonal system with many inputs and outputs, run by a parallel scan.

    Args:
        features: Size of input and output `H`.
        modes: Complex modes, half of the state size `P`.
        blocks: HiPPO blocks the modes start from; divides `modes`.
        smallest_dt: Of the time steps, one for each mode, drawn log-uniformly.
        largest_dt: Of the time steps.
        rule: How to discretize.
        generator: Source of randomness.

    Raises:
        ValueError: `blocks` does not divide `modes`.

    Source: Smith, Warrington & Linderman (2023), Simplified State Space Layers for Sequence
        Modeling.
    """

    channels: ClassVar[bool] = False
    slow_parameters: ClassVar[tuple[str, ...]] = ("log_dt", "log_decay", "frequency", "B")

    def __init__(
        self,
        features: int,
        modes: int = 32,
        *,
        blocks: int = 1,
        smallest_dt: float = 1e-3,
        largest_dt: float = 1e-1,
        rule: Discretization | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(features)
        if modes % blocks:
            raise ValueError(f"`blocks` must divide `modes` = {modes}, got {blocks}.")
        start = legs(2 * modes // blocks).modes()
        poles = start.eigenvalues.repeat(blocks)
        blocked: Tensor = torch.block_diag(*[start.basis] * blocks)
        basis = blocked.to(torch.promote_types(working_dtype(), torch.complex64))
        size = 2 * modes
        B = torch.randn(size, features, generator=generator) / math.sqrt(features)
        C = torch.randn(features, size, generator=generator) / math.sqrt(size)
        self.rule = rule or ZeroOrderHold()
        self.log_dt = own_parameter(draw_log_dt((modes,), smallest_dt, largest_dt, generator))
        self.log_decay = own_parameter((-poles.real).log())
        self.frequency = own_parameter(poles.imag)
        self.B = own_parameter(torch.view_as_real(basis.mH @ B.to(basis.dtype)))
        self.C = own_parameter(torch.view_as_real(C.to(basis.dtype) @ basis))

    def system(self) -> LinearSystem:
        """Return the system of all features."""
        dt = self.log_dt.exp()
        poles = torch.complex(-self.log_decay.exp(), self.frequency)
        B, C = torch.view_as_complex(self.B), torch.view_as_complex(self.C)
        return LinearSystem(Diagonal(poles * dt), B * dt[:, None], C, None, self.rule)


@checked
class LRU(StructuredLayer):
    """Linear recurrent unit: modes in discrete time, `exp(-exp(nu) + i exp(theta))`, on a ring.

    A time step raises the modes to its power; inputs are impulses.

    Args:
        features: Size of input and output.
        modes: Complex modes.
        smallest: Inner radius of the ring.
        largest: Outer radius of the ring, below 1.
        max_phase: Largest phase in radians; a small one for very long memory.
        generator: Source of randomness.

    Source: Orvieto et al. (2023), Resurrecting Recurrent Neural Networks for Long Sequences.
    """

    channels: ClassVar[bool] = False
    slow_parameters: ClassVar[tuple[str, ...]] = ("log_decay", "log_phase", "log_gain", "B")

    def __init__(
        self,
        features: int,
        modes: int = 32,
        *,
        smallest: float = 0.4,
        largest: float = 0.99,
        max_phase: float = 2 * math.pi,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(features)
        ring = lru_ring(modes, smallest, largest, max_phase, generator=generator)
        phase = ring.angle() % (2 * math.pi)
        self.log_decay = own_parameter((-ring.abs().log()).log())
        self.log_phase = own_parameter(phase.log())
        self.log_gain = own_parameter((1 - ring.abs().square()).log().float() / 2)
        B = torch.randn(modes, features, 2, generator=generator) / math.sqrt(2 * features)
        C = torch.randn(features, modes, 2, generator=generator) / math.sqrt(modes)
        self.B, self.C = own_parameter(B), own_parameter(C)

    def logarithms(self) -> Tensor:
        """Return the logarithms of the modes, `(modes,)` complex."""
        return torch.complex(-self.log_decay.exp(), self.log_phase.exp())

    def system(self) -> LinearSystem:
        """Return the system of all features; `Re(C z)` is half of what conjugate pairs give."""
        B = torch.view_as_complex(self.B) * self.log_gain.exp()[:, None]
        C = torch.view_as_complex(self.C) / 2
        return LinearSystem(Diagonal(self.logarithms()), B, C, None, Dirac())
