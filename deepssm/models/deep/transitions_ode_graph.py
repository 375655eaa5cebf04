"""Neural transitions in continuous time and over graphs of sensors."""

from __future__ import annotations

import torch
from pyro.distributions import Independent
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.arguments import checked
from .transitions import NeuralTransition, diagonal_normal, join, refuse_time_steps, small_linear


@checked
class ODETransition(NeuralTransition):
    """`z_t ~ N(flow(z_{t-1}, dt), dt scale^2)`, the flow of `dz/ds = R z + V u + b + f(z, u)`.

    The flow takes `steps` Runge-Kutta steps of fourth order, so irregular `dt` are data. Two
    halves of an interval move the mean as the whole does, up to the error of the steps.

    Args:
        state_dim: Size of `z`.
        input_dim: Size of `u`, constant over the interval that ends at its step.
        hidden: Width of the one hidden layer.
        steps: Runge-Kutta steps an interval.
        min_scale: Floor of the noise's standard deviation, per root unit of time.

    Source: Chen et al. (2018), Neural ordinary differential equations; Rubanova et al. (2019).
    """

    def __init__(
        self,
        state_dim: int,
        input_dim: int = 0,
        hidden: int = 32,
        *,
        steps: int = 1,
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__(state_dim, input_dim, min_scale=min_scale)
        self.hidden, self.steps = hidden, steps
        self.linear = small_linear(state_dim + input_dim, state_dim)
        self.layer = nn.Linear(state_dim + input_dim, hidden)
        self.push = small_linear(hidden, state_dim)

    def drift(self, z: Tensor, u: Tensor | None) -> Tensor:
        """Return `dz/ds`, `(*axes, state)`."""
        joined = join(z, u)
        return self.linear(joined) + self.push(torch.tanh(self.layer(joined)))

    def forward(self, z: Tensor, u: Tensor | None = None, dt: Tensor | None = None) -> Independent:
        """Return `p(z_t | z_{t-1} = z, u_t)`.

        Args:
            z: `(*axes, state)`.
            u: `(*axes, input)` or `None`.
            dt: Time since the last step, `(*axes)` or `()`; `None` means 1.
        """
        whole = torch.ones((), dtype=z.dtype, device=z.device) if dt is None else dt
        h = whole[..., None] / self.steps
        for _ in range(self.steps):
            k1 = self.drift(z, u)
            k2 = self.drift(z + h / 2 * k1, u)
            k3 = self.drift(z + h / 2 * k2, u)
            k4 = self.drift(z + h * k3, u)
            z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        scale = (F.softplus(self.raw_scale) + self.min_scale) * whole[..., None].sqrt()
        # A step of zero length would be a point mass, whose density is infinite.
        return diagonal_normal(z, scale.clamp_min(1e-6).expand(z.shape))


@checked
class GraphTransition(NeuralTransition):
    """Message passing: `z_i <- z_i + g(z_i, sum_j W_ij m(z_i, z_j), u)` for each sensor `i`.

    All sensors share `m` and `g`, so that the number of weights does not grow with theirs and
    what is learnt at one place holds at another. The state is sensor by sensor,
    `state_dim = sensors * features`.

    Args:
        adjacency: `W`, `(sensors, sensors)`, `W_ij` the weight of what `j` tells `i`; rows are
            divided by their sums. A `Parameter` is learnt.
        features: States of a sensor.
        input_dim: Size of `u`, which every sensor hears whole.
        hidden: Width of both networks.
        min_scale: Floor of the noise's standard deviation.

    Raises:
        ValueError: `adjacency` is not square or holds a negative weight.

    Source: Gilmer et al. (2017), Neural message passing; Battaglia et al. (2016).
    """

    def __init__(
        self,
        adjacency: Tensor,
        features: int,
        input_dim: int = 0,
        hidden: int = 32,
        *,
        min_scale: float = 1e-3,
    ) -> None:
        if adjacency.ndim != 2 or adjacency.shape[0] != adjacency.shape[1]:
            raise ValueError(f"`adjacency` must be square, got {tuple(adjacency.shape)}.")
        if bool((adjacency < 0).any()):
            raise ValueError("`adjacency` must hold no negative weight; let the network sign it.")
        super().__init__(len(adjacency) * features, input_dim, min_scale=min_scale)
        self.features, self.hidden = features, hidden
        if isinstance(adjacency, nn.Parameter):
            self.adjacency = adjacency
        else:
            self.register_buffer("adjacency", adjacency.to(self.raw_scale.dtype))
        self.told = nn.Linear(features, hidden)
        self.heard = nn.Linear(features, hidden, bias=False)
        self.own = nn.Linear(features + hidden + input_dim, hidden)
        self.move = small_linear(hidden, features)

    def forward(self, z: Tensor, u: Tensor | None = None, dt: Tensor | None = None) -> Independent:
        """Return `p(z_t | z_{t-1} = z, u_t)`; arguments as in `GatedTransition`."""
        refuse_time_steps(self, dt)
        nodes = z.unflatten(-1, (-1, self.features))
        pairs = torch.tanh(self.heard(nodes)[..., :, None, :] + self.told(nodes)[..., None, :, :])
        weights = self.adjacency.clamp_min(0.0)
        weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-12)
        news = torch.einsum("ij,...ijh->...ih", weights, pairs)
        heard = torch.cat([nodes, news], dim=-1)
        told = None if u is None else u[..., None, :]
        moves = self.move(torch.tanh(self.own(join(heard, told))))
        mean = nodes + moves
        return self.noise(mean.flatten(-2))
