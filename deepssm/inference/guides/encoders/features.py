"""How a guide reads a series: in units of one, with gaps marked and changes beside levels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ....core.arguments import checked
from ....core.guides import Combiner, Encoder
from ....core.model import Series, StateSpaceModel


@checked
class Reader(nn.Module):
    """Features of a step: scaled `y`, its scaled change, what was seen, scaled `u`.

    Args:
        obs_dim: Size of `y`.
        input_dim: Size of `u`; 0 when there is none.
        changes: Whether the change since the last step is a feature, in units of its own; slow
            series with a long range need it.
        gaps: Whether what was seen is a feature; complete data do not need it.
    """

    plain_tensor_code: bool = True
    y_loc: Tensor
    y_spread: Tensor
    change_spread: Tensor
    u_loc: Tensor
    u_spread: Tensor

    def __init__(
        self, obs_dim: int, input_dim: int = 0, *, changes: bool = True, gaps: bool = True
    ) -> None:
        super().__init__()
        self.obs_dim, self.input_dim, self.changes, self.gaps = obs_dim, input_dim, changes, gaps
        for name, size in (("y", obs_dim), ("u", input_dim)):
            self.register_buffer(f"{name}_loc", torch.zeros(size))
            self.register_buffer(f"{name}_spread", torch.ones(size))
        self.register_buffer("change_spread", torch.ones(obs_dim))

    @property
    def size(self) -> int:
        """Number of features."""
        return self.obs_dim * (1 + self.gaps + self.changes) + self.input_dim

    @property
    def innovation_scale(self) -> Tensor:
        """Units of an innovation, the data's standard deviation, `(obs,)`."""
        return self.y_spread

    def initialize_from(self, series: Series) -> None:
        """Store location and scale of data; `y` that is all 0 or 1 is left as it is.

        Args:
            series: Training data; NaN in `y` is ignored.
        """
        rows = series.y.reshape(-1, self.obs_dim)
        seen = rows[~torch.isnan(rows)]
        if not bool(((seen == 0) | (seen == 1)).all()):
            _store_moments(self.y_loc, self.y_spread, rows)
            steps = (series.y[..., 1:, :] - series.y[..., :-1, :]).reshape(-1, self.obs_dim)
            _store_moments(torch.zeros_like(self.y_loc), self.change_spread, steps)
        if series.u is not None and self.input_dim:
            rows = series.u[..., : self.input_dim].reshape(-1, self.input_dim)
            _store_moments(self.u_loc, self.u_spread, rows)

    def scaled(self, series: Series) -> tuple[Tensor, Tensor]:
        """Return `y` in units of one, 0 where missing, and what was seen as 0 and 1."""
        seen = ~torch.isnan(series.y)
        filled = torch.where(seen, series.y, self.y_loc)
        return (filled - self.y_loc) / self.y_spread, seen.to(filled.dtype)

    def forward(self, series: Series) -> Tensor:
        """Return the features of every step, `(*batch, time, size)`."""
        scaled, seen = self.scaled(series)
        parts = [scaled, seen] if self.gaps else [scaled]
        if self.changes:
            both = seen[..., 1:, :] * seen[..., :-1, :]
            change = (scaled[..., 1:, :] - scaled[..., :-1, :]) * both
            change = change * (self.y_spread / self.change_spread)
            parts.append(torch.cat([torch.zeros_like(scaled[..., :1, :]), change], dim=-2))
        if self.input_dim and series.u is not None:
            own = series.u[..., : self.input_dim]  # Autoregressive inputs lie behind.
            parts.append((own - self.u_loc) / self.u_spread)
        return torch.cat(parts, dim=-1)


def transition_scale(model: StateSpaceModel, series: Series) -> Tensor:
    """Return the standard deviation of one step of a model from where it starts, `(state,)`."""
    start = model.initial().mean.reshape(-1, model.state_dim)[:1]
    u = None if series.u is None else series.u.reshape(-1, series.u.shape[-1])[:1]
    dt = None if series.dt is None else series.dt.reshape(-1)[-1]
    with torch.no_grad():
        return model.transition(start, u, dt).variance[0].sqrt()


def _store_moments(loc: Tensor, spread: Tensor, rows: Tensor) -> None:
    mean = torch.nan_to_num(torch.nanmean(rows, dim=0))
    deviation = torch.nan_to_num(torch.nanmean((rows - mean).square(), dim=0).sqrt())
    loc.copy_(mean)
    spread.copy_(torch.where(deviation > 0, deviation, torch.ones_like(deviation)))


def check_encoder(encoder: Encoder, size: int) -> None:
    """Refuse an encoder that reads another number of features than a guide's reader gives.

    Args:
        encoder: An encoder.
        size: Number of features.

    Raises:
        ValueError: They differ, or something else than an encoder is given.
    """
    name = type(encoder).__name__
    if not isinstance(encoder, Encoder):
        raise ValueError(
            f"`encoder` must have the sizes `features` and `hidden` and, beside `forward`, a "
            f"method `filtering`, got {name}: see `deepssm.inference.Encoder`."
        )
    if encoder.features != size:
        raise ValueError(
            f"`encoder` reads {encoder.features} features of a step, but the guide's reader gives "
            f"{size} (values, marks of what was seen, changes, inputs): build it as "
            f"`{name}({size}, ...)`."
        )


def check_combiner(combiner: Combiner) -> None:
    """Refuse what is no combiner.

    Args:
        combiner: A combiner.

    Raises:
        ValueError: It lacks what a guide asks of it.
    """
    if not isinstance(combiner, Combiner):
        raise ValueError(
            "`combiner` must have the size `hidden` and say by `uses_innovation` whether it reads "
            f"the innovation, got {type(combiner).__name__}: see `deepssm.inference.Combiner`."
        )
