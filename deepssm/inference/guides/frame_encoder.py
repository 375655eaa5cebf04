"""`q(a_t | y_t)` of two-layer models: a network that reads one frame at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F

from ...core.arguments import checked
from ...core.model import Series
from ...ops.products import Linear


@checked
class FrameEncoder(nn.Module):
    """`q(a_t | y_t) = N(mean(y_t), scale(y_t)^2)`, diagonal, by a network of two hidden layers.

    A frame is read if at least half of its components were seen; the others stand at their means.
    What is not read has no `q`: there the model's own distribution of `a` takes its place.

    Args:
        obs_dim: Size of `y`.
        latent_dim: Size of `a`.
        hidden: Width of the layers.
        scale: Starting standard deviation.
    """

    loc: Tensor
    spread: Tensor

    def __init__(
        self, obs_dim: int, latent_dim: int, hidden: int = 64, *, scale: float = 0.1
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(
            Linear(obs_dim, hidden), nn.ReLU(), Linear(hidden, hidden), nn.ReLU()
        )
        self.mean = nn.Linear(hidden, latent_dim)
        self.raw_scale = nn.Linear(hidden, latent_dim)
        with torch.no_grad():
            self.raw_scale.weight.mul_(0.1)
            self.raw_scale.bias.fill_(torch.tensor(scale).expm1().log())
        self.register_buffer("loc", torch.zeros(obs_dim))
        self.register_buffer("spread", torch.ones(()))

    def initialize_from(self, series: Series) -> None:
        """Take the units of the data.

        Args:
            series: Training data, `(series, time, obs)`; NaN is ignored.
        """
        rows = series.y.reshape(-1, series.y.shape[-1])
        self.loc.copy_(torch.nan_to_num(rows.nanmean(0)))
        # One spread for all: a pixel that never changes must not be blown up.
        spread = (rows - self.loc).square().nanmean().sqrt()
        self.spread.copy_(torch.where(spread > 0, spread, torch.ones_like(spread)))

    def reads(self, y: Tensor) -> Tensor:
        """Return which frames are read, `(*batch, time)`.

        Args:
            y: `(*batch, time, obs)`, NaN where missing.
        """
        return (~torch.isnan(y)).sum(-1) * 2 >= y.shape[-1]

    def forward(self, y: Tensor) -> Normal:
        """Return `q(a_t | y_t)`, `(*batch, time, latent)`.

        Args:
            y: `(*batch, time, obs)`, NaN where missing.
        """
        filled = torch.where(torch.isnan(y), self.loc, y)
        found = self.body((filled - self.loc) / self.spread)
        scale = F.softplus(self.raw_scale(found)) + 1e-3
        return Normal(self.mean(found), scale, validate_args=False)
