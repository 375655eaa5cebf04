"""A stranger's filter that only filters: likelihoods and forecasts follow from what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ...core.gaussian import psd_factor
from ...core.model import Series, StateSpaceModel
from ...core.results import Filtered
from .ahead import state_at
from .drawn_forecasts import DrawnForecasts


@runtime_checkable
class Filters(Protocol):
    """Whatever has a `filter`."""

    def filter(self, model: StateSpaceModel, series: Series) -> Filtered:
        """Return `p(z_t | y_{1:t})` and `p(z_t | y_{1:t-1})`."""
        ...


@dataclass(frozen=True)
class FilterAlone(DrawnForecasts):
    """A method that only filters, completed: forecasts run the model on from its last moments.

    Args:
        method: It.
    """

    method: Filters

    def filter(self, model: StateSpaceModel, series: Series) -> Filtered:
        """Return what the method returns."""
        return self.method.filter(model, series)

    def sample_posterior(
        self,
        model: StateSpaceModel,
        series: Series,
        num_samples: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Refuse: a filter knows no paths.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"`{type(self.method).__name__}` only filters, and whole paths cannot be drawn from "
            "moments of single steps: define `sample_posterior(self, model, series, num_samples, "
            "generator)`, and it smooths and imputes too."
        )

    def filtered_draws(
        self,
        model: StateSpaceModel,
        series: Series,
        last: Tensor,
        num_samples: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw from the Gaussian with the filtered moments; see `DrawnForecasts`."""
        found = self.filter(model, series)
        mean, n = state_at(found.mean, last), found.mean.shape[-1]
        cov = state_at(found.cov.flatten(-2), last).reshape(*mean.shape, n)
        factor = psd_factor((cov + cov.mT) / 2, "filtered covariance")
        noise = torch.randn((num_samples, *mean.shape), dtype=mean.dtype, device=mean.device)
        return mean + (factor @ noise[..., None])[..., 0]
