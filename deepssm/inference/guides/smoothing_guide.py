"""Guides: networks that read a series and return `q(z_{1:T} | y_{1:T}, u_{1:T})`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import observed_steps
from .combiners import GateCombiner, IndependentCombiner, ProductCombiner
from .encoders.attention import AttentionEncoder
from .encoders.diagonal import DiagonalEncoder
from .encoders.features import Reader, transition_scale
from .encoders.image_features import ImageReader
from .encoders.recurrent import RecurrentEncoder, check_features
from .linearized_guide import LinearizedGuide
from .recurrent_posterior import GuideSequence


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
        ValueError: the encoder reads another number of features than the reader gives.

    Source: Krishnan, Shalit, Sontag (2017), Structured inference networks, section 4.
    """

    def __init__(
        self,
        obs_dim: int,
        state_dim: int,
        input_dim: int = 0,
        *,
        hidden: int = 32,
        encoder: RecurrentEncoder | DiagonalEncoder | AttentionEncoder | None = None,
        combiner: ProductCombiner | GateCombiner | IndependentCombiner | None = None,
        reader: Reader | ImageReader | None = None,
    ) -> None:
        super().__init__()
        self.obs_dim, self.state_dim, self.input_dim = obs_dim, state_dim, input_dim
        self.hidden = hidden
        self.reader = reader or Reader(obs_dim, input_dim)
        plain = isinstance(self.reader, Reader)
        self.encoder = encoder or RecurrentEncoder(self.reader.size, hidden)
        check_features(self.encoder, self.reader.size)
        self.combiner = combiner or ProductCombiner(state_dim, obs_dim, hidden, innovation=plain)
        same = self.encoder.hidden == self.combiner.hidden
        direct = same and isinstance(self.combiner, GateCombiner)
        self.projection = (
            nn.Identity() if direct else nn.Linear(self.encoder.hidden, self.combiner.hidden)
        )

    def initialize_from(self, model: StateSpaceModel, series: Series) -> None:
        """Store the data's location and scale and start as precise as the model's transition.

        Args:
            model: The model, already initialised.
            series: Training data; NaN in `y` is ignored.
        """
        self.reader.initialize_from(series)
        if isinstance(self.combiner, ProductCombiner):
            self.combiner.initialize_scale(transition_scale(model, series))

    def forward(self, model: StateSpaceModel, series: Series) -> GuideSequence:
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

    def decode(self, model: StateSpaceModel, series: Series, context: Tensor) -> GuideSequence:
        """Return the law that contexts stand for, whoever found them; see `refine`."""
        return self._law(model, series, context, observed_steps(series.y))

    def filtering(self, model: StateSpaceModel, series: Series) -> GuideSequence:
        """Return the guide whose step `t` is that of a series which ends at `t`.

        Its steps are proposals of a particle filter: none looks beyond its own time.
        """
        context = self.encoder.filtering(self.reader(series))
        return self._law(model, series, context, (~torch.isnan(series.y)).any(-1))

    def _law(
        self, model: StateSpaceModel, series: Series, context: Tensor, steps: Tensor
    ) -> GuideSequence:
        spread = None
        if self.combiner.uses_innovation and isinstance(self.reader, Reader):
            spread = self.reader.y_spread
        # Time first, as the encoder leaves it, for a matrix product without a copy.
        projected = self.projection(context.movedim(-2, 0)).movedim(0, -2)
        return GuideSequence(model, series, projected, self.combiner, steps, spread)


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
    size: tuple[int, int] | None = getattr(model, "image_size", None)
    if size is not None:
        return _image_guide(model, size, hidden)
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
    support = model.emission(model.initial().mean, u).support
    return isinstance(getattr(support, "base_constraint", support), type(constraints.real))
