"""Guides: networks that read a series and return `q(z_{1:T} | y_{1:T}, u_{1:T})`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from ...core.abilities import PaintsImages
from ...core.arguments import checked
from ...core.guides import Combiner, Encoder, FeatureReader, InitializesScale, TakesRawContext
from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import observed_steps
from .combiners import ProductCombiner
from .encoders.features import Reader, check_combiner, check_encoder, transition_scale
from .encoders.image_features import ImageReader
from .encoders.recurrent import RecurrentEncoder
from .linearized_guide import LinearizedGuide
from .recurrent_posterior import RecurrentPosterior


@checked
class SmoothingGuide(nn.Module):
    """`q(z_{1:T}) = prod_t q(z_t | z_{t-1}, context_t)` over an encoder's contexts.

    It holds the location and scale of the data, so that it works in units of one.

    Args:
        obs_dim: Size of `y`.
        state_dim: Size of `z`.
        input_dim: Size of `u`; 0 when there is none.
        hidden: Width of the encoder and of the combiner.
        encoder: Reads `reader.size` features; a backward GRU by default, so that the context of
            step `t` is what `y_{t:T}` says.
        combiner: One step of the guide; `ProductCombiner` by default.
        reader: Turns a series into features; an `ImageReader` for images.

    Raises:
        ValueError: `encoder` or `combiner` is none, or the encoder reads another number of
            features than the reader gives.

    Source: Krishnan, Shalit, Sontag (2017), Structured inference networks, section 4.
    """

    def __init__(
        self,
        obs_dim: int,
        state_dim: int,
        input_dim: int = 0,
        *,
        hidden: int = 32,
        encoder: Encoder | None = None,
        combiner: Combiner | None = None,
        reader: FeatureReader | None = None,
    ) -> None:
        super().__init__()
        self.obs_dim, self.state_dim, self.input_dim = obs_dim, state_dim, input_dim
        self.hidden = hidden
        self.reader: FeatureReader = reader or Reader(obs_dim, input_dim)
        self.encoder: Encoder = encoder or RecurrentEncoder(self.reader.size, hidden)
        check_encoder(self.encoder, self.reader.size)
        plain = self.reader.innovation_scale is not None
        self.combiner: Combiner = combiner or ProductCombiner(
            state_dim, obs_dim, hidden, innovation=plain
        )
        check_combiner(self.combiner)
        width, wanted = self.encoder.hidden, self.combiner.hidden
        raw = isinstance(self.combiner, TakesRawContext) and self.combiner.takes_raw_context
        as_it_is = raw and width == wanted
        self.projection = nn.Identity() if as_it_is else nn.Linear(width, wanted)

    def initialize_from(self, model: StateSpaceModel, series: Series) -> None:
        """Store the data's location and scale and start as precise as the model's transition.

        Args:
            model: The model, already initialised.
            series: Training data; NaN in `y` is ignored.
        """
        self.reader.initialize_from(series)
        if isinstance(self.combiner, InitializesScale):
            self.combiner.initialize_scale(transition_scale(model, series))

    def forward(self, model: StateSpaceModel, series: Series) -> RecurrentPosterior:
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

    def decode(
        self, model: StateSpaceModel, series: Series, context: Tensor
    ) -> RecurrentPosterior:
        """Return the posterior that contexts stand for, whoever found them; see `refine`."""
        return self._posterior(model, series, context, observed_steps(series.y))

    def filtering(self, model: StateSpaceModel, series: Series) -> RecurrentPosterior:
        """Return the guide whose step `t` is that of a series which ends at `t`.

        Its steps are proposals of a particle filter: none looks beyond its own time.
        """
        context = self.encoder.filtering(self.reader(series))
        return self._posterior(model, series, context, (~torch.isnan(series.y)).any(-1))

    def _posterior(
        self, model: StateSpaceModel, series: Series, context: Tensor, steps: Tensor
    ) -> RecurrentPosterior:
        spread = self.reader.innovation_scale if self.combiner.uses_innovation else None
        # Time first, as the encoder leaves it, for a matrix product without a copy.
        projected = self.projection(context.movedim(-2, 0)).movedim(0, -2)
        return RecurrentPosterior(model, series, projected, self.combiner, steps, spread)


def default_guide(
    model: StateSpaceModel, series: Series, hidden: int = 32
) -> SmoothingGuide | LinearizedGuide:
    """Return a guide that fits a model.

    Images get an untrained `SmoothingGuide` that reads them by convolutions and looks both ways;
    other real data a `LinearizedGuide`, which follows the model without training; counts and
    categories an untrained `SmoothingGuide`.

    Args:
        model: Any model with a real state.
        series: Its data.
        hidden: Width of the networks.
    """
    if isinstance(model, PaintsImages) and model.image_size is not None:
        return _image_guide(model, model.image_size, hidden)
    if has_real_values(model, series):
        return LinearizedGuide(2)
    guide = SmoothingGuide(
        model.obs_dim,
        model.state_dim,
        model.input_dim,
        hidden=hidden,
        combiner=ProductCombiner(model.state_dim, model.obs_dim, hidden, innovation=False),
        reader=Reader(model.obs_dim, model.input_dim, changes=False),
    )
    return guide.to(device=model.device, dtype=model.dtype)


def _image_guide(model: StateSpaceModel, size: tuple[int, int], hidden: int) -> SmoothingGuide:
    reader = ImageReader(*size, hidden, model.input_dim)
    guide = SmoothingGuide(
        model.obs_dim,
        model.state_dim,
        model.input_dim,
        hidden=hidden,
        encoder=RecurrentEncoder(reader.size, hidden, reads="both"),
        reader=reader,
    )
    return guide.to(device=model.device, dtype=model.dtype)


def has_real_values(model: StateSpaceModel, series: Series) -> bool:
    """Return whether a model's observations may be any real numbers."""
    u = None if series.u is None else series.u.reshape(-1, series.u.shape[-1])[0]
    support: object = model.emission(model.initial().mean, u).support
    if isinstance(support, type(constraints.real_vector)):
        support = support.base_constraint
    return isinstance(support, type(constraints.real))
