"""One step of a guide: `q(z_t | z_{t-1}, context_t)` as a diagonal Gaussian."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.arguments import checked
from ...core.guides import CombinerStep
from ...ops.products import linear
from .recurrences.cuda_graph import direct
from .recurrences.gated_path import gated_path


@checked
class ProductCombiner(nn.Module):
    """`q = p(z_t | z_{t-1}) N(z_t; m, 1/lambda) / const`: the prior times a learnt potential.

    What `y_{t:T}` says about `z_t` is a factor on the prior; where nothing is left to be seen
    the guide is the prior itself. `m - E z_t` is a linear read-out of the innovation plus a
    network of the context and the prior mean; `lambda` is a network of the same.

    Args:
        state_dim: Size of `z`.
        obs_dim: Size of `y`.
        hidden: Width of the network.
        innovation: Whether the innovation is read; false for data that are not real numbers.

    Source: Krishnan, Shalit, Sontag (2017), section 4; Archer et al. (2015), Black box
    variational inference for state space models.
    """

    plain_tensor_code: bool = True

    def __init__(
        self, state_dim: int, obs_dim: int, hidden: int, *, innovation: bool = True
    ) -> None:
        super().__init__()
        self.uses_innovation = innovation
        self.hidden = hidden
        self.state = nn.Linear(state_dim, hidden)
        self.output = nn.Linear(hidden, 2 * state_dim)
        self.gain = nn.Linear(obs_dim, state_dim, bias=False) if innovation else None
        with torch.no_grad():
            self.output.weight.mul_(0.1)
            self.output.bias.zero_()
            if self.gain is not None:
                self.gain.weight.copy_(torch.eye(state_dim, obs_dim))

    def initialize_scale(self, scale: Tensor) -> None:
        """Start the potential as precise as a prior of this standard deviation, `(state,)`."""
        with torch.no_grad():
            self.output.bias[scale.shape[-1] :] = -2 * scale.log()

    def forward(self, step: CombinerStep) -> tuple[Tensor, Tensor]:
        """Return the guide's mean and standard deviation, each `(*axes, state)`."""
        hidden = torch.tanh(self.state(step.mean) + step.context)
        shift, log_precision = self.output(hidden).chunk(2, dim=-1)
        if self.gain is not None and step.innovation is not None:
            shift = shift + self.gain(step.innovation)
        # Var(z | potential) / Var(z) = 1 / (1 + lambda sigma^2), a logistic function.
        logit = log_precision + 2 * step.scale.log()
        mean = step.mean + torch.sigmoid(logit) * shift
        return mean, step.scale * torch.sigmoid(-logit).sqrt().clamp_min(1e-3)


@checked
class GateCombiner(nn.Module):
    """`q = N(W_m h, softplus(W_s h)^2)`, `h = (tanh(W z_{t-1}) + context_t) / 2`.

    It never evaluates the model, so its recursion is the cheapest there is.

    Args:
        state_dim: Size of `z`.
        obs_dim: Size of `y`; unused, kept so that combiners are interchangeable.
        hidden: Width of `h`.
        min_scale: Floor of the standard deviation.

    Attributes:
        run_loops: Runs the loops of a path; `SVI(compile=True)` puts a `Replay` there on a GPU.

    Source: Krishnan, Shalit, Sontag (2017), equation 9.
    """

    uses_innovation: bool = False
    takes_raw_context: bool = True

    def __init__(
        self, state_dim: int, obs_dim: int, hidden: int, *, min_scale: float = 1e-3
    ) -> None:
        super().__init__()
        self.min_scale, self.hidden = min_scale, hidden
        self.state = nn.Linear(state_dim, hidden)
        self.output = nn.Linear(hidden, 2 * state_dim)
        self.run_loops: Callable[..., None] = direct

    def forward(self, step: CombinerStep) -> tuple[Tensor, Tensor]:
        """Return the guide's mean and standard deviation, each `(*axes, state)`."""
        hidden = 0.5 * (torch.tanh(self.state(step.z)) + step.context)
        mean, raw = self.output(hidden).chunk(2, dim=-1)
        return mean, F.softplus(raw) + self.min_scale

    def path(self, context: Tensor, start: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return a whole path, its means and its standard deviations.

        Args:
            context: `(time, batch, hidden)`.
            start: The state before the first, `(state,)`.
            noise: Standard normal, `(time, particles, batch, state)`.
        """
        half = 0.5 * self.output.weight
        drive = linear(context, half, self.output.bias)
        state = self.state.weight, self.state.bias
        return gated_path(drive, start, state, half, noise, self.min_scale, self.run_loops)


@checked
class IndependentCombiner(nn.Module):
    """`q(z_t) = N(W_m context_t, softplus(W_s context_t)^2)`: a mean-field guide.

    Steps do not depend on one another, which leaves the bound a gap on every model with memory;
    it is here as the reference that structured guides are measured against.

    Args:
        state_dim: Size of `z`.
        obs_dim: Size of `y`; unused, kept so that combiners are interchangeable.
        hidden: Width of the projected context.
        min_scale: Floor of the standard deviation.

    Source: Krishnan, Shalit, Sontag (2017), table 1: MF-LR.
    """

    uses_innovation: bool = False
    plain_tensor_code: bool = True

    def __init__(
        self, state_dim: int, obs_dim: int, hidden: int, *, min_scale: float = 1e-3
    ) -> None:
        super().__init__()
        self.min_scale, self.hidden = min_scale, hidden
        self.output = nn.Linear(hidden, 2 * state_dim)

    def forward(self, step: CombinerStep) -> tuple[Tensor, Tensor]:
        """Return the guide's mean and standard deviation, each `(*axes, state)`."""
        mean, raw = self.output(step.context).chunk(2, dim=-1)
        scale = F.softplus(raw) + self.min_scale
        axes = torch.broadcast_shapes(mean.shape, step.z.shape)
        return mean.expand(axes), scale.expand(axes)

    def path(self, context: Tensor, start: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return a whole path; arguments and results as in `GateCombiner.path`."""
        mean, raw = self.output(context)[:, None].chunk(2, dim=-1)
        scale = F.softplus(raw) + self.min_scale
        return mean + scale * noise, mean.expand_as(noise), scale.expand_as(noise)
