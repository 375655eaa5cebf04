"""An encoder of exponentials: every step reads the whole series in O(log time) depth."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from ....core.arguments import checked
from ....linear import diagonal_scan


@checked
class DiagonalEncoder(nn.Module):
    """`h_t = lambda h_{t-1} + g B x_t` and the same backwards, then a residual layer.

    The `lambda` are decaying exponentials, half of them real and half complex, with time scales
    from one step to `longest`; `g` keeps the states of size one. Being linear in what is read,
    it does not saturate on a trend, and it holds the weights of every stationary smoother.

    Args:
        features: Size of what is read at a step.
        hidden: Number of modes and size of the context.
        reads: `"future"` reads `t..T`, `"past"` reads `1..t`, `"both"` does both.
        longest: Longest time scale at the start, in steps.

    Source: Gu, Gupta, Goel, Re (2022), On the parameterization and initialization of diagonal
    state space models; Smith, Warrington, Linderman (2023), Simplified state space layers.
    """

    def __init__(
        self,
        features: int,
        hidden: int,
        *,
        reads: Literal["future", "past", "both"] = "both",
        longest: float = 100.0,
    ) -> None:
        super().__init__()
        self.features, self.hidden, self.reads = features, hidden, reads
        sides = 2 if reads == "both" else 1
        scales = torch.logspace(0.0, math.log10(longest), hidden)
        self.log_rate = nn.Parameter(-scales.log().repeat(sides, 1))
        # Real and oscillating modes take turns; a period is a few of the mode's time scales.
        waves = (torch.arange(hidden) % 2) * 2 / scales
        self.frequency = nn.Parameter(waves.repeat(sides, 1))
        self.drive = nn.Linear(features, sides * hidden)
        self.linear = nn.Linear(2 * sides * hidden, hidden)
        self.layer = nn.Linear(2 * sides * hidden, hidden)
        self.correction = nn.Linear(hidden, hidden)

    def forward(self, features: Tensor, last: Tensor) -> Tensor:
        """Return contexts for smoothing, `(*batch, time, hidden)`.

        Args:
            features: `(*batch, time, features)`, without NaN.
            last: Index of each series' last observation, `(*batch,)`; -1 when it has none.
        """
        t = torch.arange(features.shape[-2], device=features.device)
        counted = (t <= last[..., None])[..., None]
        drives = torch.where(counted, self.drive(features), torch.zeros((), dtype=features.dtype))
        return self._context(drives, alone=False)

    def filtering(self, features: Tensor) -> Tensor:
        """Return the contexts of series that end at each step, `(*batch, time, hidden)`.

        Args:
            features: `(*batch, time, features)`, without NaN.
        """
        return self._context(self.drive(features), alone=True)

    def _context(self, drives: Tensor, *, alone: bool) -> Tensor:
        rate = self.log_rate.exp()
        gates = torch.exp(torch.complex(-rate, self.frequency))
        size = (-torch.expm1(-2 * rate)).sqrt()
        states = []
        for side, drive in enumerate(drives.chunk(len(rate), dim=-1)):
            backward = self.reads == "future" or side == 1
            scaled = (drive * size[side]).to(gates.dtype)
            if not (alone and backward):
                scaled = diagonal_scan(gates[side][None], scaled, reverse=backward)
            states += [scaled.real, scaled.imag]
        joined = torch.cat(states, dim=-1)
        return self.linear(joined) + self.correction(torch.tanh(self.layer(joined)))
