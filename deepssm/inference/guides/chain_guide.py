"""A guide that is a linear-Gaussian chain, all of its steps computed and drawn in parallel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.arguments import checked
from ...core.guides import Encoder
from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import observed_steps
from .chain_posterior import ChainPosterior
from .encoders.diagonal import DiagonalEncoder
from .encoders.features import Reader, check_encoder, transition_scale


@checked
class ChainGuide(nn.Module):
    """`q(z_t | z_{t-1}) = N((I - K_t H) F_t z_{t-1} + K_t y_t + c_t, L_t L_t')`.

    `K, F, c, L` are read off an encoder's contexts and `H` is a matrix, so a step is a filter's
    update with learnt gains and, through `c_t`, with the future's correction. The family holds
    the exact posterior of every linear-Gaussian model. A missing component has no gain.

    Args:
        obs_dim: Size of `y`.
        state_dim: Size of `z`.
        input_dim: Size of `u`; 0 when there is none.
        hidden: Width of the encoder.
        encoder: Reads `reader.size` features; a `DiagonalEncoder` by default.
        reader: Turns a series into features.
        min_scale: Floor of the diagonal of `L`.

    Raises:
        ValueError: the encoder is none, or reads another number of features than there are.
    """

    def __init__(
        self,
        obs_dim: int,
        state_dim: int,
        input_dim: int = 0,
        *,
        hidden: int = 32,
        encoder: Encoder | None = None,
        reader: Reader | None = None,
        min_scale: float = 1e-4,
    ) -> None:
        super().__init__()
        self.state_dim, self.obs_dim, self.hidden = state_dim, obs_dim, hidden
        self.input_dim = input_dim
        self.min_scale = min_scale
        self.reader = reader or Reader(obs_dim, input_dim)
        self.encoder = encoder or DiagonalEncoder(self.reader.size, hidden)
        check_encoder(self.encoder, self.reader.size)
        self.sizes = [state_dim * obs_dim, state_dim**2, state_dim, state_dim**2]
        self.output = nn.Linear(self.encoder.hidden, sum(self.sizes))
        self.skip = nn.Linear(self.reader.size, state_dim, bias=False)
        self.gain = nn.Parameter(0.5 * torch.eye(state_dim, obs_dim))
        self.read = nn.Parameter(torch.eye(obs_dim, state_dim))
        with torch.no_grad():
            self.output.weight.mul_(0.05)
            self.output.bias.zero_()
            self.skip.weight.zero_()

    def initialize_from(self, model: StateSpaceModel, series: Series) -> None:
        """Store the data's location and scale and start as precise as the model's transition.

        Args:
            model: The model, already initialised.
            series: Training data; NaN in `y` is ignored.
        """
        self.reader.initialize_from(series)
        scale = (0.7 * transition_scale(model, series) - self.min_scale).clamp_min(1e-4)
        n = self.state_dim
        with torch.no_grad():
            raw = torch.log(torch.expm1(scale))
            self.output.bias[-n * n :] = torch.diag_embed(raw).reshape(-1)

    def forward(self, model: StateSpaceModel, series: Series) -> ChainPosterior:
        """Return `q(z_{1:T} | y, u)`, batch shape `(*batch,)`, event shape `(time, state)`.

        Args:
            model: The model whose states are inferred.
            series: Data; NaN in `y` is missing.
        """
        return self.decode(model, series, self.encode(series))

    def encode(self, series: Series) -> Tensor:
        """Return what the encoder says of every step, `(*batch, time, hidden)`."""
        steps = observed_steps(series.y)
        return self.encoder(self.reader(series), steps.sum(-1) - 1)

    def decode(self, model: StateSpaceModel, series: Series, context: Tensor) -> ChainPosterior:
        """Return the posterior that contexts stand for, whoever found them; see `refine`."""
        return self._posterior(model, series, context, observed_steps(series.y))

    def filtering(self, model: StateSpaceModel, series: Series) -> ChainPosterior:
        """Return the guide whose step `t` is that of a series which ends at `t`."""
        context = self.encoder.filtering(self.reader(series))
        return self._posterior(model, series, context, (~torch.isnan(series.y)).any(-1))

    def _posterior(
        self, model: StateSpaceModel, series: Series, context: Tensor, steps: Tensor
    ) -> ChainPosterior:
        n, p = self.state_dim, self.obs_dim
        gain, gate, shift, raw = self.output(context).split(self.sizes, dim=-1)
        y, seen = self.reader.scaled(series)
        eye = torch.eye(n, dtype=y.dtype, device=y.device)
        gain = (self.gain + gain.unflatten(-1, (n, p))) * seen[..., None, :]
        keep = eye - gain @ self.read
        gates = keep @ (eye + gate.unflatten(-1, (n, n)))
        drive = (gain @ y[..., None])[..., 0] + shift + self.skip(self.reader(series))
        raw = raw.unflatten(-1, (n, n))
        diagonal = F.softplus(raw.diagonal(dim1=-2, dim2=-1)) + self.min_scale
        # Off-diagonal entries are fractions of their row's deviation, so one scale serves all.
        lower = torch.tril(raw, -1) * diagonal[..., None]
        return ChainPosterior(
            model, series, gates, drive, lower + torch.diag_embed(diagonal), steps
        )
