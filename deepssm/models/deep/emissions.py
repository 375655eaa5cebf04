"""Neural `p(y_t | z_t, u_t)`: modules whose forward pass returns a distribution over `y`.

Real-valued emissions hold the data's location and scale, so networks work in units of one.
"""

from __future__ import annotations

from typing import cast

import pyro.distributions as dist
import torch
from pyro.distributions import Independent
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.arguments import checked
from ...ops.products import Linear
from .transitions import diagonal_normal, inverse_softplus, join, small_linear


@checked
class GaussianEmission(nn.Module):
    """`y_t ~ N(loc + s (C z + D u + MLP(z, u)), (s scale)^2)`, independent by component.

    `loc` and `s` are the mean and standard deviation of the data, set by `initialize_from`.

    Args:
        state_dim: Size of `z`.
        obs_dim: Size of `y`.
        input_dim: Size of `u`.
        hidden: Width of the hidden layer; 0 leaves the emission linear.
        min_scale: Floor of the noise, as a fraction of the data's standard deviation.
    """

    loc: Tensor
    spread: Tensor

    def __init__(
        self,
        state_dim: int,
        obs_dim: int,
        input_dim: int = 0,
        hidden: int = 32,
        *,
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__()
        self.state_dim, self.obs_dim, self.input_dim = state_dim, obs_dim, input_dim
        self.hidden, self.min_scale = hidden, min_scale
        self.linear = _taking_turns(state_dim, obs_dim, input_dim)
        self.layer = nn.Linear(state_dim + input_dim, hidden) if hidden else None
        self.correction = small_linear(hidden, obs_dim) if hidden else None
        self.raw_scale = nn.Parameter(torch.full((obs_dim,), inverse_softplus(0.5)))
        self.register_buffer("loc", torch.zeros(obs_dim))
        self.register_buffer("spread", torch.ones(obs_dim))

    def initialize_from(self, y: Tensor) -> None:
        """Take location, scale and a first guess of the noise from data, ignoring NaN.

        Args:
            y: `(*batch, time, obs)`, NaN where missing.
        """
        rows = y.reshape(-1, y.shape[-1])
        loc = torch.nanmean(rows, dim=0)
        spread = torch.nanmean((rows - loc).square(), dim=0).sqrt()
        # A component that was never seen, or never moved, keeps the unit scale.
        self.loc.copy_(torch.nan_to_num(loc, nan=0.0))
        self.spread.copy_(torch.where(spread > 0, spread, torch.ones_like(spread)))
        if not self.raw_scale.requires_grad:
            return
        noise = self.noise_level(y).clamp(2 * self.min_scale, 1.0)
        with torch.no_grad():
            self.raw_scale.copy_(torch.log(torch.expm1(noise - self.min_scale)))

    def noise_level(self, y: Tensor) -> Tensor:
        """Return the noise of each component in units of its spread, `(obs,)`; see `roughness`."""
        return roughness(y) / self.spread

    def forward(self, z: Tensor, u: Tensor | None = None) -> Independent:
        """Return `p(y_t | z_t = z, u_t)` in the units of `y`.

        Args:
            z: `(*axes, state)`.
            u: `(*axes, input)` or `None`.
        """
        return diagonal_normal(*self.location_scale(z, u))

    def location_scale(self, z: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return location and scale in the units of `y`, `(*axes, obs)` and `(obs,)`."""
        joined = join(z, u)
        mean = self.linear(joined)
        if self.layer is not None and self.correction is not None:
            mean = mean + self.correction(torch.tanh(self.layer(joined)))
        scale = F.softplus(self.raw_scale) + self.min_scale
        return self.loc + self.spread * mean, self.spread * scale


@checked
class StudentTEmission(GaussianEmission):
    """A `GaussianEmission` with Student's t for noise: single observations may be far off.

    `df = 2.1 + softplus(raw_df)` per component is learnt and starts at 5, so that the variance
    `scale^2 df / (df - 2)`, which Gaussian filters read, is finite.

    Args:
        state_dim: Size of `z`.
        obs_dim: Size of `y`.
        input_dim: Size of `u`.
        hidden: Width of the hidden layer; 0 leaves the location linear.
        min_scale: Floor of the scale, as a fraction of the data's standard deviation.

    Source: Lange, Little, Taylor (1989), Robust statistical modeling using the t distribution.
    """

    def __init__(
        self,
        state_dim: int,
        obs_dim: int,
        input_dim: int = 0,
        hidden: int = 32,
        *,
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__(state_dim, obs_dim, input_dim, hidden, min_scale=min_scale)
        self.raw_df = nn.Parameter(torch.full((obs_dim,), inverse_softplus(2.9)))

    def forward(self, z: Tensor, u: Tensor | None = None) -> Independent:
        """Return `p(y_t | z_t = z, u_t)`; arguments as in `GaussianEmission`."""
        df = 2.1 + F.softplus(self.raw_df)
        base = dist.StudentT(df, *self.location_scale(z, u), validate_args=False)
        return Independent(base, 1, validate_args=False)


@checked
class BernoulliEmission(nn.Module):
    """`y_t ~ Bernoulli(sigmoid(MLP(z, u)))`, independent by component.

    Args:
        state_dim: Size of `z`.
        obs_dim: Size of `y`, whose entries are 0 or 1.
        input_dim: Size of `u`.
        hidden: Width of the two hidden layers.

    Source: Krishnan, Shalit, Sontag (2017), section 4.
    """

    def __init__(self, state_dim: int, obs_dim: int, input_dim: int = 0, hidden: int = 32) -> None:
        super().__init__()
        self.state_dim, self.obs_dim, self.input_dim = state_dim, obs_dim, input_dim
        self.hidden = hidden
        self.logits = nn.Sequential(
            Linear(state_dim + input_dim, hidden),
            nn.ReLU(),
            Linear(hidden, hidden),
            nn.ReLU(),
            Linear(hidden, obs_dim),
        )

    def initialize_from(self, y: Tensor) -> None:
        """Start at the log-odds of the data's rates, ignoring NaN.

        Args:
            y: `(*batch, time, obs)`, NaN where missing.
        """
        rows = y.reshape(-1, y.shape[-1])
        ones, count = torch.nansum(rows, dim=0), (~torch.isnan(rows)).sum(0)
        last = cast("nn.Linear", self.logits[-1])
        with torch.no_grad():
            last.bias.copy_(torch.logit((ones + 0.5) / (count + 1)))

    def forward(self, z: Tensor, u: Tensor | None = None) -> Independent:
        """Return `p(y_t | z_t = z, u_t)`; arguments as in `GaussianEmission`."""
        base = dist.Bernoulli(logits=self.logits(join(z, u)), validate_args=False)
        return Independent(base, 1, validate_args=False)


def roughness(y: Tensor) -> Tensor:
    """Return the standard deviation of one-step changes over root two, per component.

    It is the noise level of a series that is white noise around a slow signal.

    Args:
        y: `(*batch, time, obs)`, NaN where missing.

    Returns:
        `(obs,)`; 1 where no two neighbours were observed.
    """
    changes = (y[..., 1:, :] - y[..., :-1, :]).reshape(-1, y.shape[-1])
    return torch.nan_to_num(torch.nanmean(changes.square() / 2, dim=0).sqrt(), nan=1.0)


def _taking_turns(state_dim: int, obs_dim: int, input_dim: int) -> nn.Linear:
    """Return a linear map where, at the start, state `i` adds to component `i mod obs`."""
    layer = small_linear(state_dim + input_dim, obs_dim)
    state = torch.arange(state_dim)
    with torch.no_grad():
        layer.weight[state % obs_dim, state] += 1.0
    return layer
