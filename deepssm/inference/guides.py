"""Guides: networks that read a series and return `q(z_{1:T} | y_{1:T}, u_{1:T})`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from ..base import Series, StateSpaceModel
from ..sequences import observed_steps
from .combiners import GateCombiner, ProductCombiner
from .encoders import RecurrentEncoder
from .guide_sequence import GuideSequence


class SmoothingGuide(nn.Module):
    """`q(z_{1:T}) = prod_t q(z_t | z_{t-1}, context_t)` over an encoder's contexts.

    It holds the location and scale of the data, so that it works in units of one.

    Args:
        obs_dim: Size of `y`.
        state_dim: Size of `z`.
        input_dim: Size of `u`; 0 when there is none.
        hidden: Width of the encoder and of the combiner.
        encoder: Reads `2 obs_dim + input_dim` features; a backward GRU by default, so that the
            context of step `t` is what `y_{t:T}` says.
        combiner: One step of the guide; `ProductCombiner` by default.

    Source: Krishnan, Shalit, Sontag (2017), Structured inference networks, section 4.
    """

    y_loc: Tensor
    y_spread: Tensor
    u_loc: Tensor
    u_spread: Tensor

    def __init__(
        self,
        obs_dim: int,
        state_dim: int,
        input_dim: int = 0,
        *,
        hidden: int = 32,
        encoder: RecurrentEncoder | None = None,
        combiner: ProductCombiner | GateCombiner | None = None,
    ) -> None:
        super().__init__()
        self.obs_dim, self.state_dim, self.input_dim = obs_dim, state_dim, input_dim
        self.hidden = hidden
        self.encoder = encoder or RecurrentEncoder(2 * obs_dim + input_dim, hidden)
        self.combiner = combiner or ProductCombiner(state_dim, obs_dim, hidden)
        self.projection = nn.Linear(self.encoder.hidden, self.combiner.state.out_features)
        for name, size in (("y", obs_dim), ("u", input_dim)):
            self.register_buffer(f"{name}_loc", torch.zeros(size))
            self.register_buffer(f"{name}_spread", torch.ones(size))

    def initialize_from(self, model: StateSpaceModel, series: Series) -> None:
        """Store the data's location and scale and start as precise as the model's transition.

        Args:
            model: The model, already initialised.
            series: Training data; NaN in `y` is ignored. Values that are all 0 or 1 are left as
                they are.
        """
        rows = series.y.reshape(-1, self.obs_dim)
        seen = rows[~torch.isnan(rows)]
        if not bool(((seen == 0) | (seen == 1)).all()):
            _store_moments(self.y_loc, self.y_spread, rows)
        if series.u is not None and self.input_dim:
            _store_moments(self.u_loc, self.u_spread, series.u.reshape(-1, self.input_dim))
        if isinstance(self.combiner, ProductCombiner):
            start = model.initial().mean.reshape(-1, self.state_dim)[:1]
            u = None if series.u is None else series.u.reshape(-1, self.input_dim)[:1]
            dt = None if series.dt is None else series.dt.reshape(-1)[-1]
            self.combiner.initialize_scale(model.transition(start, u, dt).variance[0].sqrt())

    def forward(self, model: StateSpaceModel, series: Series) -> GuideSequence:
        """Return `q(z_{1:T} | y, u)`, batch shape `(*batch,)`, event shape `(time, state)`.

        Args:
            model: The model whose states are inferred.
            series: Data; NaN in `y` is missing.
        """
        steps = observed_steps(series.y)
        context = self.encoder(self._features(series), steps.sum(-1) - 1)
        return self._sequence(model, series, context, steps)

    def filtering(self, model: StateSpaceModel, series: Series) -> GuideSequence:
        """Return the guide whose step `t` is that of a series which ends at `t`.

        Its steps are proposals of a particle filter: none looks beyond its own time.
        """
        context = self.encoder.filtering(self._features(series))
        return self._sequence(model, series, context, (~torch.isnan(series.y)).any(-1))

    def _sequence(
        self, model: StateSpaceModel, series: Series, context: Tensor, steps: Tensor
    ) -> GuideSequence:
        spread = self.y_spread if self.combiner.uses_innovation else None
        projected = self.projection(context)
        return GuideSequence(model, series, projected, self.combiner, steps, spread)

    def _features(self, series: Series) -> Tensor:
        seen = ~torch.isnan(series.y)
        scaled = (torch.where(seen, series.y, self.y_loc) - self.y_loc) / self.y_spread
        parts = [scaled, seen.to(scaled.dtype)]
        if self.input_dim and series.u is not None:
            parts.append((series.u - self.u_loc) / self.u_spread)
        return torch.cat(parts, dim=-1)


def default_guide(model: StateSpaceModel, series: Series, hidden: int = 32) -> SmoothingGuide:
    """Return an untrained guide that fits a model: a backward GRU and the prior times potentials.

    Args:
        model: Any model with a real state.
        series: Its data; the innovation is read where the emission's values are real numbers.
        hidden: Width of the networks.
    """
    z = model.initial().mean
    u = None if series.u is None else series.u.reshape(-1, series.u.shape[-1])[0]
    support = model.emission(z, u).support
    real = isinstance(getattr(support, "base_constraint", support), type(constraints.real))
    combiner = ProductCombiner(model.state_dim, model.obs_dim, hidden, innovation=real)
    sizes = (model.obs_dim, model.state_dim, model.input_dim)
    guide = SmoothingGuide(*sizes, hidden=hidden, combiner=combiner)
    return guide.to(device=model.device, dtype=model.dtype)


def _store_moments(loc: Tensor, spread: Tensor, rows: Tensor) -> None:
    mean = torch.nan_to_num(torch.nanmean(rows, dim=0))
    deviation = torch.nan_to_num(torch.nanmean((rows - mean).square(), dim=0).sqrt())
    loc.copy_(mean)
    spread.copy_(torch.where(deviation > 0, deviation, torch.ones_like(deviation)))
