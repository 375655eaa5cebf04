"""S4, its diagonal form S4D, and DSS: one system for each feature, started from HiPPO."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from ...core.arguments import checked
from ...linear import (
    Bilinear,
    Diagonal,
    Discretization,
    Hippo,
    LinearSystem,
    LowRankPlusDiagonal,
    ZeroOrderHold,
    legs,
    s4d_legs,
)
from .base import StructuredLayer, draw_log_dt, own_parameter


@checked
class S4D(StructuredLayer):
    """Diagonal structured state space: modes `-exp(log_decay) + i frequency`, step `exp(log_dt)`.

    Args:
        features: Number of channels `H`.
        modes: Complex modes of each channel, half of the state size that papers call `N`.
        initial: Maps the number of modes to their eigenvalues: `s4d_legs`, `s4d_lin`, `s4d_inv`
            or `s4d_real`.
        smallest_dt: Of the time steps, drawn log-uniformly; the longest memory.
        largest_dt: Of the time steps.
        rule: How to discretize.
        generator: Source of randomness.

    Source: Gu, Gupta, Goel & Re (2022), On the Parameterization and Initialization of Diagonal
        State Space Models.
    """

    slow_parameters: ClassVar[tuple[str, ...]] = ("log_dt", "log_decay", "frequency")

    def __init__(
        self,
        features: int,
        modes: int = 32,
        *,
        initial: Callable[[int], Tensor] = s4d_legs,
        smallest_dt: float = 1e-3,
        largest_dt: float = 1e-1,
        rule: Discretization | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(features)
        poles = initial(modes).expand(features, -1)
        self.rule = rule or ZeroOrderHold()
        self.log_dt = own_parameter(draw_log_dt((features,), smallest_dt, largest_dt, generator))
        self.log_decay = own_parameter((-poles.real).log())
        parts = (2,) if poles.is_complex() else ()
        self.frequency = own_parameter(poles.imag) if parts else None
        self.C = own_parameter(torch.randn(features, modes, *parts, generator=generator))

    def poles(self) -> Tensor:
        """Return the eigenvalues, `(features, modes)`, per unit of the channel's own time."""
        decay = -self.log_decay.exp()
        return decay if self.frequency is None else torch.complex(decay, self.frequency)

    def system(self) -> LinearSystem:
        """Return the system with `B = 1`, which `C` absorbs."""
        dt, poles = self.log_dt.exp()[:, None], self.poles()
        C = self.C if self.frequency is None else torch.view_as_complex(self.C)
        B = dt.to(poles.dtype).expand_as(poles)
        return LinearSystem(Diagonal(poles * dt), B[..., None], C[:, None], None, self.rule)


@checked
class DSS(S4D):
    """Diagonal state space with row-normalized modes, `K_l = sum_n C_n softmax_l(lambda_n dt l)`.

    The normalization over `length` steps is an input weight, so that, unlike in the original code,
    the layer also runs step by step, at other rates and on irregular steps.

    Args:
        features: Number of channels.
        length: Length over which modes are normalized, that of the training sequences.
        modes: Complex modes of each channel.
        smallest_dt: Of the time steps.
        largest_dt: Of the time steps.
        generator: Source of randomness.

    Source: Gupta, Gu & Berant (2022), Diagonal State Spaces are as Effective as Structured State
        Spaces, proposition 1(b).
    """

    def __init__(
        self,
        features: int,
        length: int,
        modes: int = 32,
        *,
        smallest_dt: float = 1e-3,
        largest_dt: float = 1e-1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            features,
            modes,
            smallest_dt=smallest_dt,
            largest_dt=largest_dt,
            generator=generator,
        )
        self.length = length

    def system(self) -> LinearSystem:
        """Return the system whose impulse response over `length` steps has normalized modes."""
        system = super().system()
        span = self.log_dt.exp()[:, None] * self.length
        weight = 1 / torch.expm1(self.poles() * span)
        return system._replace(B=system.B * weight[..., None])


@checked
class S4(StructuredLayer):
    """Structured state space: HiPPO as normal plus low rank, by the bilinear rule.

    State matrix and `B` are shared by the channels, which differ in their time steps and outputs.

    Args:
        features: Number of channels `H`.
        modes: Complex modes, half of the state size `N`.
        measure: Maps `N` to a HiPPO matrix: `legs`, `legt`, `lagt` or `fourier`.
        clip: Largest absolute value of the real and imaginary parts of `B` at the start, 2 in the
            authors' code; `None` leaves HiPPO's.
        smallest_dt: Of the time steps, drawn log-uniformly.
        largest_dt: Of the time steps.
        rule: How to discretize; any but `Bilinear` costs matrix powers.
        generator: Source of randomness.

    Source: Gu, Goel & Re (2022), Efficiently Modeling Long Sequences with Structured State Spaces.
    """

    slow_parameters: ClassVar[tuple[str, ...]] = (
        "log_dt",
        "log_decay",
        "frequency",
        "low_rank",
        "B",
    )

    def __init__(
        self,
        features: int,
        modes: int = 32,
        *,
        measure: Callable[[int], Hippo] = legs,
        clip: float | None = 2.0,
        smallest_dt: float = 1e-3,
        largest_dt: float = 1e-1,
        rule: Discretization | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(features)
        start = measure(2 * modes).modes()
        self.rule = rule or Bilinear()
        self.log_dt = own_parameter(draw_log_dt((features,), smallest_dt, largest_dt, generator))
        # A floor: Fourier and Laguerre modes are not damped before the low-rank term.
        self.log_decay = own_parameter((-start.eigenvalues.real).clamp(min=1e-4).log())
        self.frequency = own_parameter(start.eigenvalues.imag)
        self.low_rank = own_parameter(torch.view_as_real(start.low_rank))
        B = torch.view_as_real(start.B)
        self.B = own_parameter(B if clip is None else B.clamp(-clip, clip))
        self.C = own_parameter(torch.randn(features, modes, 2, generator=generator))

    def system(self) -> LinearSystem:
        """Return the system, one for each channel."""
        dt = self.log_dt.exp()[:, None]
        poles = torch.complex(-self.log_decay.exp(), self.frequency)
        low_rank = torch.view_as_complex(self.low_rank)
        structure = LowRankPlusDiagonal(poles * dt, low_rank * dt[..., None].sqrt())
        B = (torch.view_as_complex(self.B) * dt)[..., None]
        C = torch.view_as_complex(self.C)[:, None]
        return LinearSystem(structure, B, C, None, self.rule)
