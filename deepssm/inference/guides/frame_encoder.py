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
    """`q(a_t | y_t) = N(mean(y_t), scale(y_t)^2)`, diagonal: slow features and a network.

    The mean is linear in `y` at first, the slowest features of the data, so that frames which
    follow each other start near each other, and two hidden layers bend it. Without that start the
    code of a moving object is folded in about half of the trainings.

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
        self.slow = Linear(obs_dim, latent_dim)
        self.raw_scale = nn.Linear(hidden, latent_dim)
        with torch.no_grad():
            self.mean.weight.mul_(0.1)
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
        filled = torch.where(torch.isnan(series.y), self.loc, series.y)
        units = (filled - self.loc) / self.spread
        weight = slow_features(units, self.reads(series.y), self.slow.out_features)
        with torch.no_grad():
            self.slow.weight.copy_(weight)
            self.slow.bias.zero_()

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
        units = (filled - self.loc) / self.spread
        found = self.body(units)
        scale = F.softplus(self.raw_scale(found)) + 1e-3
        mean = self.slow(units) + self.mean(found)
        return Normal(mean, scale, validate_args=False)


def slow_features(y: Tensor, seen: Tensor, count: int, share: float = 0.9) -> Tensor:
    """Return the linear features of unit variance that change least from step to step.

    Looked for among the principal components that hold `share` of the variance.

    Args:
        y: Centred data, `(series, time, obs)`, without NaN.
        seen: Frames that count, `(series, time)`.
        count: Number of features.
        share: Of the variance.

    Returns:
        `(count, obs)`; rows of zeros where the data have fewer components.

    Source: Wiskott, Sejnowski (2002), Slow feature analysis.
    """
    rows = y[seen].double()
    both = seen[:, 1:] & seen[:, :-1]
    steps = (y[:, 1:] - y[:, :-1])[both].double()
    weight = y.new_zeros(count, y.shape[-1])
    if len(rows) < 2:
        return weight
    values, vectors = torch.linalg.eigh(rows.mT @ rows / len(rows))
    values, vectors = values.flip(-1).clamp_min(0), vectors.flip(-1)
    held = (values.cumsum(0) < share * values.sum()).sum() + 1
    kept = max(int(held), count)
    kept = min(kept, int((values > 1e-9 * values[0].clamp_min(1e-30)).sum()))
    white = vectors[:, :kept] / values[:kept].sqrt()
    moved = steps @ white
    order = torch.linalg.eigh(moved.mT @ moved)[1] if len(steps) else torch.eye(kept)
    found = (white @ order[:, :count].to(white)).mT
    weight[: len(found)] = found.to(weight)
    return weight
