"""What to read off a stack: a class, a distribution at each time, or the future."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions import Independent
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.arguments import checked
from .stack import SequenceModel


class SequenceClassifier(nn.Module):
    """One class for a sequence, from the mean of the stack's features over the observed steps.

    Args:
        stack: Its `output_dim` is the number of classes.
    """

    def __init__(self, stack: SequenceModel) -> None:
        super().__init__()
        self.stack = stack

    def forward(
        self,
        u: Tensor,
        *,
        dt: Tensor | float | None = None,
        rate: float = 1.0,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return logits, `(*batch, classes)`.

        Args:
            u: Inputs, `(*batch, time, input_dim)`.
            dt: Time steps.
            rate: Factor on every step.
            mask: `(*batch, time)`, false for missing inputs and for padding.
        """
        features = self.stack.features(u, dt=dt, rate=rate, mask=mask)
        if mask is None:
            return self.stack.leave(features.mean(-2))
        seen = torch.where(mask[..., None], features, torch.zeros_like(features[..., :1]))
        return self.stack.leave(seen.sum(-2) / mask.sum(-1, keepdim=True).clamp(min=1))


@checked
class SequenceRegressor(nn.Module):
    """A Gaussian for each time step.

    Args:
        stack: Its `output_dim` is twice the number of targets.
        min_scale: Floor of the standard deviation, in the units of the target.

    Raises:
        ValueError: the stack has an odd number of outputs.
    """

    def __init__(self, stack: SequenceModel, *, min_scale: float = 1e-3) -> None:
        super().__init__()
        if stack.leave.out_features % 2:
            raise ValueError(
                f"`stack` must have an even `output_dim` (a mean and a scale for each target), "
                f"got {stack.leave.out_features}."
            )
        self.stack, self.min_scale = stack, min_scale

    def forward(
        self,
        u: Tensor,
        *,
        dt: Tensor | float | None = None,
        rate: float = 1.0,
        mask: Tensor | None = None,
    ) -> Independent:
        """Return the distribution of the targets, `(*batch, time)` with events `(targets,)`."""
        mean, raw = self.stack(u, dt=dt, rate=rate, mask=mask).chunk(2, -1)
        return Independent(dist.Normal(mean, F.softplus(raw) + self.min_scale), 1)


@checked
class SequenceForecaster(nn.Module):
    """Direct forecast of all steps ahead: the past, then blanks to be filled, in one pass.

    Args:
        stack: Its `input_dim` is `obs + covariates + 1`, its `output_dim` twice `obs`.
        min_scale: Floor of the standard deviation, in units of the scale of the past.

    Source: Gu, Goel & Re (2022), S4, appendix D.3.5 (masked sequence to sequence forecasting).
    """

    def __init__(self, stack: SequenceModel, *, min_scale: float = 1e-3) -> None:
        super().__init__()
        self.stack, self.min_scale = stack, min_scale

    def forward(
        self,
        y: Tensor,
        horizon: int,
        u: Tensor | None = None,
        *,
        dt: Tensor | float | None = None,
        rate: float = 1.0,
    ) -> Independent:
        """Return the distribution of the next steps, `(*batch, horizon)` with events `(obs,)`.

        Args:
            y: Past observations, `(*batch, time, obs)`, NaN where missing.
            horizon: Steps ahead.
            u: Covariates of past and future, `(*batch, time + horizon, covariates)`.
            dt: Time steps of past and future, a scalar or `(*batch, time + horizon)`.
            rate: Factor on every step.

        Raises:
            ValueError: `horizon` is not positive.
        """
        if horizon < 1:
            raise ValueError(f"`horizon` must be 1 or more, got {horizon}.")
        seen = y.isfinite()
        count = seen.sum(-2, keepdim=True).clamp(min=1)
        zero = torch.zeros_like(y)
        center = torch.where(seen, y, zero).sum(-2, keepdim=True) / count
        spread = torch.where(seen, y - center, zero).square().sum(-2, keepdim=True) / count
        # What a constant series varies by is its round-off.
        floor = (4 * torch.finfo(y.dtype).eps * center).square()
        spread = torch.where(spread > floor, spread, torch.ones_like(spread)).sqrt()
        scaled = torch.where(seen, (y - center) / spread, zero)
        blank = F.pad(scaled, (0, 0, 0, horizon))
        known = F.pad(seen.all(-1, keepdim=True).to(y.dtype), (0, 0, 0, horizon))
        parts = [blank, known] if u is None else [blank, known, u]
        outputs = self.stack(torch.cat(parts, -1), dt=dt, rate=rate)
        mean, raw = outputs[..., -horizon:, :].chunk(2, -1)
        scale = F.softplus(raw) + self.min_scale
        return Independent(dist.Normal(center + spread * mean, spread * scale), 1)
