"""The linear state space layer: a full state matrix, the ancestor of S4."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch

from ...core.arguments import checked
from ...linear import Bilinear, Dense, Discretization, Hippo, LinearSystem, legs
from .base import StructuredLayer, draw_log_dt, own_parameter


@checked
class LSSL(StructuredLayer):
    """`A` is a full matrix shared by the channels, which differ in time step and output.

    Args:
        features: Number of channels `H`.
        state_dim: State size `N`.
        measure: Maps `N` to a HiPPO matrix.
        learn: Whether `A` and `B` are learnt; LSSL-f keeps them.
        smallest_dt: Of the time steps, drawn log-uniformly.
        largest_dt: Of the time steps.
        rule: How to discretize.
        generator: Source of randomness.

    Source: Gu et al. (2021), Combining Recurrent, Convolutional, and Continuous-time Models with
        Linear State-Space Layers.
    """

    slow_parameters: ClassVar[tuple[str, ...]] = ("log_dt", "A", "B")

    def __init__(
        self,
        features: int,
        state_dim: int = 64,
        *,
        measure: Callable[[int], Hippo] = legs,
        learn: bool = False,
        smallest_dt: float = 1e-3,
        largest_dt: float = 1e-1,
        rule: Discretization | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(features)
        hippo = measure(state_dim)
        self.rule = rule or Bilinear()
        self.log_dt = own_parameter(draw_log_dt((features,), smallest_dt, largest_dt, generator))
        self.A = own_parameter(hippo.A, requires_grad=learn)
        self.B = own_parameter(hippo.B, requires_grad=learn)
        self.C = own_parameter(
            torch.randn(features, state_dim, generator=generator) / state_dim**0.5
        )

    def system(self) -> LinearSystem:
        """Return the system, one for each channel."""
        dt = self.log_dt.exp()[:, None, None]
        return LinearSystem(
            Dense(self.A * dt), self.B[:, None] * dt, self.C[:, None], None, self.rule
        )
