"""A posterior whose steps are linear in the state before."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from ...core.model import Series, StateSpaceModel
from .conditionals import Path
from .posterior import StepwisePosterior
from .recurrences.chain_path import chain_path


class ChainPosterior(StepwisePosterior):
    """`q(z_t | z_{t-1}) = N(A_t z_{t-1} + b_t, L_t L_t')`; `A_1` is unused.

    Args:
        model: The model whose states these are.
        series: Data; NaN in `y` is missing.
        gates: `A`, `(*batch, time, state, state)`.
        drive: `b`, `(*batch, time, state)`.
        chol: `L`, lower with a positive diagonal, `(*batch, time, state, state)`.
        steps: `(*batch, time)`, true up to the last observation.
        batch_shape: Shape of independent paths, by default that of the series.
    """

    def __init__(
        self,
        model: StateSpaceModel,
        series: Series,
        gates: Tensor,
        drive: Tensor,
        chol: Tensor,
        steps: Tensor,
        batch_shape: torch.Size | None = None,
    ) -> None:
        self.gates, self.drive, self.chol = gates, drive, chol
        super().__init__(model, series, steps, batch_shape)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> ChainPosterior:
        """Return the same distribution for more independent paths; it draws its own."""
        parts = (self.model, self.series, self.gates, self.drive, self.chol, self.steps)
        return ChainPosterior(*parts, torch.Size(batch_shape))

    def draw(
        self, sample_shape: torch.Size | tuple[int, ...] = (), *, beyond: bool = True
    ) -> Tensor:
        """Draw paths of the recursion; see `StepwisePosterior.draw`."""
        shape = torch.Size(sample_shape) + self.batch_shape
        noise = torch.randn(
            *shape, *self.event_shape, dtype=self.drive.dtype, device=self.drive.device
        )
        shock = (self.chol @ noise[..., None])[..., 0]
        z = chain_path(self.gates, self.drive + shock)
        z = self._continued(z) if beyond else z
        self.path = Path(z, z - shock, self._diagonal(z), self.chol, noise)
        return z

    def conditionals(self, value: Tensor) -> Path:
        """Return the conditionals along any path, all steps at once."""
        before = value[..., :-1, :, None]
        rest = (self.gates[..., 1:, :, :] @ before)[..., 0] + self.drive[..., 1:, :]
        first = self.drive[..., :1, :].expand_as(value[..., :1, :])
        return Path(value, torch.cat([first, rest], -2), self._diagonal(value), self.chol)

    def proposal(self, z: Tensor, prior: Distribution, t: int) -> Path:
        """Return `q(z_t | z_{t-1} = z)`; see `StepwisePosterior.proposal`."""
        mean = self.drive[..., t, :].expand_as(z)
        if t:
            mean = mean + (self.gates[..., t, :, :] @ z[..., None])[..., 0]
        chol = self.chol[..., t, :, :]
        return Path(z, mean, chol.diagonal(dim1=-2, dim2=-1).expand_as(z), chol)

    def _diagonal(self, z: Tensor) -> Tensor:
        return self.chol.diagonal(dim1=-2, dim2=-1).expand_as(z)
