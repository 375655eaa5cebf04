"""Neural `p(z_t | z_{t-1}, u_t)`: modules whose forward pass returns a diagonal Gaussian.

Each has a linear part beside its network, so that a state far from the training data moves on
as it did near them, and a scale floor, so that no density degenerates.
"""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from pyro.distributions import Independent
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.arguments import checked
from ...ops.products import Linear, linear


@checked
class NeuralTransition(nn.Module):
    """What the neural transitions share: sizes, the noise scale and its floor.

    A transition of your own derives from it, calls `super().__init__` first, and defines
    `forward(z, u=None, dt=None)` that ends with `return self.noise(mean)`; `join(z, u)` puts the
    inputs beside the state, and `refuse_time_steps(self, dt)` refuses what it cannot use.

    Args:
        state_dim: Size of `z`.
        input_dim: Size of `u`; 0 when there is none.
        min_scale: Floor of the noise's standard deviation, in the units of `z`.
    """

    def __init__(self, state_dim: int, input_dim: int = 0, *, min_scale: float = 1e-3) -> None:
        super().__init__()
        self.state_dim, self.input_dim, self.min_scale = state_dim, input_dim, min_scale
        self.raw_scale = nn.Parameter(torch.zeros(state_dim))
        self.initialize_scale(0.3)

    def initialize_scale(self, scale: float) -> None:
        """Start the noise at one standard deviation, in the units of `z`, unless it is frozen."""
        if not self.raw_scale.requires_grad:
            return
        with torch.no_grad():
            self.raw_scale.fill_(inverse_softplus(max(scale - self.min_scale, 1e-4)))

    def noise(self, mean: Tensor, raw: Tensor | None = None) -> Independent:
        """Return `N(mean, scale^2)` with `scale = softplus(raw_scale + raw) + min_scale`."""
        total = self.raw_scale if raw is None else self.raw_scale + raw
        return diagonal_normal(mean, F.softplus(total) + self.min_scale)


@checked
class GatedTransition(NeuralTransition):
    """`mean = (1 - g) * (W z + V u + b) + g * h`, `g` and `h` two networks of `(z, u)`.

    The scale is `softplus(W_s relu(h) + b_s)`. The gate lets the model choose a linear or a
    nonlinear move per component; `W` starts at the identity and the gate nearly closed.

    Args:
        state_dim: Size of `z`.
        input_dim: Size of `u`.
        hidden: Width of both networks.
        min_scale: Floor of the noise's standard deviation.

    Source: Krishnan, Shalit, Sontag (2017), Structured inference networks, equation 8.
    """

    def __init__(
        self, state_dim: int, input_dim: int = 0, hidden: int = 32, *, min_scale: float = 1e-3
    ) -> None:
        super().__init__(state_dim, input_dim, min_scale=min_scale)
        self.hidden = hidden
        self.layer = Linear(state_dim + input_dim, 2 * hidden)
        self.gate = Linear(hidden, state_dim)
        self.proposal = Linear(hidden, state_dim)
        self.linear = identity_linear(state_dim, input_dim)
        self.scale = small_linear(state_dim, state_dim)
        nn.init.constant_(self.gate.bias, -2.0)

    def forward(self, z: Tensor, u: Tensor | None = None, dt: Tensor | None = None) -> Independent:
        """Return `p(z_t | z_{t-1} = z, u_t)`.

        Args:
            z: `(*axes, state)`.
            u: `(*axes, input)` or `None`.
            dt: Refused: a gated step is a discrete one.

        Raises:
            ValueError: `dt` is given.
        """
        refuse_time_steps(self, dt)
        joined = join(z, u)
        # Two products whose results lie each in one block: halves of one would be copied.
        halves = zip(self.layer.weight.chunk(2), self.layer.bias.chunk(2), strict=True)
        gate_hidden, proposal_hidden = (torch.relu(linear(joined, *half)) for half in halves)
        proposal = self.proposal(proposal_hidden)
        gate = torch.sigmoid(self.gate(gate_hidden))
        mean = torch.lerp(self.linear(joined), proposal, gate)
        return self.noise(mean, self.scale(torch.relu(proposal)))


@checked
class MLPTransition(NeuralTransition):
    """`z_t ~ N(MLP(z_{t-1}, u_t), scale^2)`, the plain deep Kalman filter.

    Args:
        state_dim: Size of `z`.
        input_dim: Size of `u`.
        hidden: Width of the one hidden layer.
        min_scale: Floor of the noise's standard deviation.

    Source: Krishnan, Shalit, Sontag (2015), Deep Kalman filters, equation 2.
    """

    def __init__(
        self, state_dim: int, input_dim: int = 0, hidden: int = 32, *, min_scale: float = 1e-3
    ) -> None:
        super().__init__(state_dim, input_dim, min_scale=min_scale)
        self.hidden = hidden
        self.layer = nn.Linear(state_dim + input_dim, hidden)
        self.mean = nn.Linear(hidden, state_dim)
        self.scale = small_linear(hidden, state_dim)

    def forward(self, z: Tensor, u: Tensor | None = None, dt: Tensor | None = None) -> Independent:
        """Return `p(z_t | z_{t-1} = z, u_t)`; arguments as in `GatedTransition`."""
        refuse_time_steps(self, dt)
        hidden = torch.tanh(self.layer(join(z, u)))
        return self.noise(self.mean(hidden), self.scale(hidden))


@checked
class ResidualTransition(NeuralTransition):
    """`z_t ~ N(z + dt (r (R z + V u + b + f(z, u)) - k z), dt scale^2)`: a step of a neural SDE.

    `f` is a small bounded network and the noise does not depend on the state, so a free run
    stays near what was seen. The first `levels` states have no decay `k`, so trends persist; the
    others start to forget within 2, 4, 8, ... steps. `r` is the noise's first guess, which makes
    slow drifts as easy to learn as fast ones.

    Args:
        state_dim: Size of `z`.
        input_dim: Size of `u`.
        hidden: Width of the one hidden layer.
        levels: States without a decay.
        min_scale: Floor of the noise's standard deviation, per root unit of time.
    """

    rate: Tensor
    levels: int = 0

    def __init__(
        self,
        state_dim: int,
        input_dim: int = 0,
        hidden: int = 32,
        *,
        levels: int = 1,
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__(state_dim, input_dim, min_scale=min_scale)
        self.hidden, self.levels = hidden, min(levels, state_dim)
        decays = 2.0 ** -torch.arange(1, 1 + state_dim - self.levels)
        self.raw_decay = nn.Parameter(torch.log(torch.expm1(decays)))
        self.linear = small_linear(state_dim + input_dim, state_dim)
        self.layer = nn.Linear(state_dim + input_dim, hidden)
        self.drift = small_linear(hidden, state_dim)
        self.register_buffer("rate", torch.ones(state_dim))
        self.initialize_scale(0.3)

    def forward(self, z: Tensor, u: Tensor | None = None, dt: Tensor | None = None) -> Independent:
        """Return `p(z_t | z_{t-1} = z, u_t)`.

        Args:
            z: `(*axes, state)`.
            u: `(*axes, input)` or `None`.
            dt: Time since the last step, `(*axes)` or `()`; `None` means 1.
        """
        joined = join(z, u)
        push = self.linear(joined) + self.drift(torch.tanh(self.layer(joined)))
        decay = F.pad(F.softplus(self.raw_decay), (self.levels, 0))
        drift = self.rate * push - decay * z
        if dt is None:
            return self.noise(z + drift)
        step = dt[..., None]
        scale = (F.softplus(self.raw_scale) + self.min_scale) * step.sqrt()
        # A step of zero length would be a point mass, whose density is infinite.
        return diagonal_normal(z + step * drift, scale.clamp_min(1e-6))

    def initialize_scale(self, scale: float) -> None:
        """Start the noise at one standard deviation, at a quarter of it where states persist."""
        super().initialize_scale(scale)
        if self.levels and self.raw_scale.requires_grad:
            with torch.no_grad():
                self.raw_scale[: self.levels] = inverse_softplus(
                    max(scale / 4 - self.min_scale, 1e-4)
                )
                self.rate.copy_(F.softplus(self.raw_scale) + self.min_scale)


@checked
class LinearTransition(NeuralTransition):
    """`z_t ~ N(A z_{t-1} + B u_t + b, diag(scale)^2)`, every number learnt.

    Args:
        state_dim: Size of `z`.
        input_dim: Size of `u`.
        min_scale: Floor of the noise's standard deviation.
    """

    def __init__(self, state_dim: int, input_dim: int = 0, *, min_scale: float = 1e-3) -> None:
        super().__init__(state_dim, input_dim, min_scale=min_scale)
        self.linear = identity_linear(state_dim, input_dim)

    def forward(self, z: Tensor, u: Tensor | None = None, dt: Tensor | None = None) -> Independent:
        """Return `p(z_t | z_{t-1} = z, u_t)`; arguments as in `GatedTransition`."""
        refuse_time_steps(self, dt)
        return self.noise(self.linear(join(z, u)))


def diagonal_normal(mean: Tensor, scale: Tensor) -> Independent:
    """Return `N(mean, diag(scale)^2)` over the last axis, unchecked for speed."""
    return Independent(dist.Normal(mean, scale, validate_args=False), 1, validate_args=False)


def join(z: Tensor, u: Tensor | None) -> Tensor:
    """Put `u` beside `z` along the last axis, spread over the leading axes of `z`."""
    if u is None or u.shape[-1] == 0:
        return z
    axes = torch.broadcast_shapes(z.shape[:-1], u.shape[:-1])
    return torch.cat([z.expand(*axes, -1), u.expand(*axes, -1)], dim=-1)


def identity_linear(state_dim: int, input_dim: int = 0) -> nn.Linear:
    """Return a linear map of `(z, u)` that starts as `z`."""
    layer = nn.Linear(state_dim + input_dim, state_dim)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:, :state_dim] = torch.eye(state_dim)
        layer.bias.zero_()
    return layer


def small_linear(inputs: int, outputs: int, size: float = 0.1) -> nn.Linear:
    """Return a linear map that starts near zero."""
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        layer.weight.mul_(size)
        layer.bias.zero_()
    return layer


def inverse_softplus(value: float) -> float:
    """Return `x` with `softplus(x) = value`, for `value > 0`."""
    return value + math.log(-math.expm1(-value))


def refuse_time_steps(module: nn.Module, dt: Tensor | None) -> None:
    """Raise where a discrete transition is given time steps."""
    if dt is not None:
        raise ValueError(
            f"`dt` was given, but {type(module).__name__} is a discrete step that cannot use it: "
            "use `ResidualTransition`, or pass the time step as an input `u`."
        )
