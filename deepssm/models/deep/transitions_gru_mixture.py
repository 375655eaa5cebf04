"""Neural transitions between the linear and the free: mixtures of linear maps, gated cells."""

from __future__ import annotations

import torch
from pyro.distributions import Independent
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.arguments import checked
from .transitions import NeuralTransition, join, refuse_time_steps, small_linear


@checked
class LocallyLinearTransition(NeuralTransition):
    """`mean = sum_k w_k(z, u) (A_k z + B_k u + b_k)`, `w` a softmax network.

    Each `A_k` starts near the identity. Where one weight is 1 the model is linear; a step of an
    extended filter is exact up to the change of the weights.

    Args:
        state_dim: Size of `z`.
        input_dim: Size of `u`.
        hidden: Width of the network behind the weights.
        pieces: Number of linear maps.
        min_scale: Floor of the noise's standard deviation.

    Source: Watter et al. (2015), Embed to control; Karl et al. (2017), Deep variational Bayes
    filters, section 4.2; Fraccaro et al. (2017), equation 10.
    """

    def __init__(
        self,
        state_dim: int,
        input_dim: int = 0,
        hidden: int = 32,
        *,
        pieces: int = 4,
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__(state_dim, input_dim, min_scale=min_scale)
        self.hidden, self.pieces = hidden, pieces
        size = state_dim + input_dim
        self.weights = nn.Sequential(nn.Linear(size, hidden), nn.Tanh(), nn.Linear(hidden, pieces))
        self.matrices = nn.Parameter(0.1 * torch.randn(pieces, state_dim, size))
        self.offsets = nn.Parameter(torch.zeros(pieces, state_dim))
        with torch.no_grad():
            self.matrices[:, :, :state_dim] += torch.eye(state_dim)

    def forward(self, z: Tensor, u: Tensor | None = None, dt: Tensor | None = None) -> Independent:
        """Return `p(z_t | z_{t-1} = z, u_t)`; arguments as in `GatedTransition`."""
        refuse_time_steps(self, dt)
        joined = join(z, u)
        weights = torch.softmax(self.weights(joined), dim=-1)
        moves = F.linear(joined, self.matrices.flatten(0, 1), self.offsets.flatten())
        moves = moves.unflatten(-1, (self.pieces, self.state_dim))
        return self.noise((weights[..., None] * moves).sum(-2))


@checked
class GRUTransition(NeuralTransition):
    """`z_t ~ N(GRUCell(u_t, z_{t-1}), scale^2)`: a gated recurrent cell whose memory is random.

    Means are mixtures of the last state and numbers in (-1, 1), so a free run stays bounded.

    Args:
        state_dim: Size of `z`.
        input_dim: Size of `u`.
        min_scale: Floor of the noise's standard deviation.

    Source: Cho et al. (2014), equation 5; the cell as a transition: Doerr et al. (2018).
    """

    def __init__(self, state_dim: int, input_dim: int = 0, *, min_scale: float = 1e-3) -> None:
        super().__init__(state_dim, input_dim, min_scale=min_scale)
        self.cell = nn.GRUCell(max(input_dim, 1), state_dim)
        self.scale = small_linear(state_dim, state_dim)

    def forward(self, z: Tensor, u: Tensor | None = None, dt: Tensor | None = None) -> Independent:
        """Return `p(z_t | z_{t-1} = z, u_t)`; arguments as in `GatedTransition`."""
        refuse_time_steps(self, dt)
        drive = z.new_zeros(1) if u is None or not self.input_dim else u
        axes = torch.broadcast_shapes(z.shape[:-1], drive.shape[:-1])
        flat = drive.expand(*axes, -1).reshape(-1, drive.shape[-1])
        mean = self.cell(flat, z.expand(*axes, -1).reshape(-1, self.state_dim))
        mean = mean.reshape(*axes, self.state_dim)
        return self.noise(mean, self.scale(torch.tanh(mean)))
