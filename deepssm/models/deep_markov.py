"""The deep Markov model, which with Gaussian parts is the deep Kalman filter."""

from __future__ import annotations

import torch
from pyro.distributions import Independent
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional as F

from ..base import Series, StateSpaceModel
from ..sequences import joint
from .emissions import GaussianEmission, roughness
from .transitions import (
    NeuralTransition,
    ResidualTransition,
    diagonal_normal,
    inverse_softplus,
)


class DeepMarkov(StateSpaceModel):
    """`z_1 ~ N(m, s^2)`, `z_t ~ p(z_t | z_{t-1}, u_t)`, `y_t ~ p(y_t | z_t, u_t)`, all neural.

    Data need no scaling: `initialize_from`, which every learner calls, stores the location and
    scale of `y` and `u` in buffers, and all results are in the units of the data.

    Args:
        obs_dim: Size of `y`.
        state_dim: Size of `z`.
        input_dim: Size of `u`; 0 when there is none.
        transition: A module `(z, u, dt) -> Distribution`; `ResidualTransition` by default.
        emission: A module `(z, u) -> Distribution`; `GaussianEmission` by default.
        hidden: Width of the default networks.

    Raises:
        ValueError: a size is not positive.

    Source: Krishnan, Shalit, Sontag (2015), Deep Kalman filters; (2017), Structured inference
    networks for nonlinear state space models.
    """

    u_loc: Tensor
    u_spread: Tensor
    initialized: Tensor

    def __init__(
        self,
        obs_dim: int,
        state_dim: int,
        *,
        input_dim: int = 0,
        transition: nn.Module | None = None,
        emission: nn.Module | None = None,
        hidden: int = 32,
    ) -> None:
        super().__init__()
        for name, size, least in (
            ("obs_dim", obs_dim, 1),
            ("state_dim", state_dim, 1),
            ("input_dim", input_dim, 0),
        ):
            if size < least:
                raise ValueError(f"`{name}` must be at least {least}, got {size}.")
        self.obs_dim, self.state_dim, self.input_dim = obs_dim, state_dim, input_dim
        self.hidden = hidden
        self.transition_net = transition or ResidualTransition(
            state_dim, input_dim, hidden, levels=min(obs_dim, state_dim)
        )
        self.emission_net = emission or GaussianEmission(state_dim, obs_dim, input_dim, hidden)
        self.initial_mean = nn.Parameter(torch.zeros(state_dim))
        self.initial_raw_scale = nn.Parameter(torch.full((state_dim,), inverse_softplus(1.0)))
        self.register_buffer("u_loc", torch.zeros(input_dim))
        self.register_buffer("u_spread", torch.ones(input_dim))
        self.register_buffer("initialized", torch.tensor(False))

    def initial(self) -> Independent:
        """Return `p(z_1)`, a diagonal Gaussian."""
        return diagonal_normal(self.initial_mean, F.softplus(self.initial_raw_scale) + 1e-3)

    def transition(
        self, z: Tensor, u: Tensor | None = None, dt: Tensor | None = None
    ) -> Distribution:
        """Return `p(z_t | z_{t-1} = z, u_t)`.

        Args:
            z: `(*axes, state)`.
            u: `(*axes, input)`, in the units of the data.
            dt: `(*axes)` or `()`, for transitions that use it.
        """
        return self.transition_net(z, self._scaled(u), dt)

    def emission(self, z: Tensor, u: Tensor | None = None) -> Distribution:
        """Return `p(y_t | z_t = z, u_t)`.

        Args:
            z: `(*axes, state)`.
            u: `(*axes, input)`, in the units of the data.
        """
        return self.emission_net(z, self._scaled(u))

    def initialize_from(self, series: Series) -> None:
        """Store the location and scale of the data and start the noises at their roughness.

        Only the first call does so; a second fit goes on from where the first one ended.

        Args:
            series: The training data; NaN in `y` is ignored.
        """
        if self.initialized:
            return
        self.initialized.fill_(True)
        if series.u is not None and self.input_dim:
            rows = series.u.reshape(-1, self.input_dim)
            spread = rows.std(0, correction=0)
            self.u_loc.copy_(rows.mean(0))
            self.u_spread.copy_(torch.where(spread > 0, spread, torch.ones_like(spread)))
        initialize = getattr(self.emission_net, "initialize_from", None)
        if initialize is not None:
            initialize(series.y)
        if isinstance(self.emission_net, GaussianEmission):
            noise = roughness(series.y) / self.emission_net.spread
            if isinstance(self.transition_net, NeuralTransition):
                self.transition_net.initialize_scale(float(noise.mean().clamp(0.01, 0.5)))

    def forward(
        self,
        y: Tensor | None = None,
        u: Tensor | None = None,
        dt: Tensor | None = None,
        *,
        time: int | None = None,
        batch_shape: tuple[int, ...] = (),
    ) -> tuple[Tensor, Tensor]:
        """Run as a Pyro program with the sites `z` and `y`, for your own `SVI` or `Predictive`.

        Args:
            y: `(*batch, time, obs)`, NaN where missing; `None` draws `y` too.
            u: `(*batch, time, input)`.
            dt: `(*batch, time)` or `()`.
            time: Number of steps, needed where neither `y` nor `u` tells.
            batch_shape: Independent series to draw where neither `y` nor `u` tells.

        Returns:
            `z` and `y`.

        Raises:
            ValueError: nothing tells the number of steps.
        """
        if y is not None:
            return joint(self, Series(y, u, dt))
        if u is not None:
            batch_shape, time = tuple(u.shape[:-2]), u.shape[-2]
        elif time is None:
            raise ValueError("`time` is needed where neither `y` nor `u` is given, got None.")
        empty = torch.empty(*batch_shape, time, self.obs_dim, dtype=self.dtype, device=self.device)
        return joint(self, Series(empty, u, dt), observed=False)

    def _scaled(self, u: Tensor | None) -> Tensor | None:
        return None if u is None or not self.input_dim else (u - self.u_loc) / self.u_spread
