"""A series split into the contributions of its components."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ...core.labelled import Labelled

if TYPE_CHECKING:
    import pandas as pd


class _DecompositionFields(NamedTuple):
    mean: Tensor
    variance: Tensor


class Decomposition(Labelled, _DecompositionFields):
    """What each component of a structural model adds to `y`, given all the data.

    Attributes:
        mean: `(*batch, time, component)`, in the unit of `y`; they add up to the signal.
        variance: Marginal posterior variances, `(*batch, time, component)`.
    """

    def band(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Return lower and upper ends of the central band, each `(*batch, time, component)`.

        Args:
            level: Probability inside the band, in (0, 1).

        Raises:
            ValueError: `level` is not strictly between 0 and 1.
        """
        if not 0.0 < level < 1.0:
            raise ValueError(f"`level` must lie strictly between 0 and 1, got {level}.")
        width = torch.special.ndtri(self.mean.new_tensor(0.5 + level / 2))
        sd = self.variance.clamp_min(0).sqrt()
        return self.mean - width * sd, self.mean + width * sd

    def to_frame(self, level: float = 0.9, index: pd.Index | None = None) -> pd.DataFrame:
        """Return a frame with `<component>_mean`, `_sd`, `_lower` and `_upper`, one row a step."""
        from ...core.results import labelled_frame

        lower, upper = self.band(level)
        sd = self.variance.clamp_min(0).sqrt()
        columns: dict[str, Tensor] = {}
        for i, name in enumerate(self.names or ()):
            columns[f"{name}_mean"], columns[f"{name}_sd"] = self.mean[..., i], sd[..., i]
            columns[f"{name}_lower"], columns[f"{name}_upper"] = lower[..., i], upper[..., i]
        return labelled_frame(columns, index if index is not None else self.index)
