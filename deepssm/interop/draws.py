"""Posterior draws of parameters, as a Markov chain gives them, and the likelihood of each."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..core.abilities import LinearGaussianModel
from ..core.methods import InferenceMethod
from ..core.model import Series, StateSpaceModel
from .labelled import Pointwise

if TYPE_CHECKING:
    import xarray as xr


class Draws(NamedTuple):
    """Draws from the posterior of a model's parameters.

    Attributes:
        model: The model; it is never changed.
        series: Checked data; see `deepssm.as_series`.
        parameters: Constrained values `(chain, draw, *shape)` by attribute path, such as
            `"trend.level_variance"`.
        method: How to infer states; `None` takes the default of the verbs.
    """

    model: StateSpaceModel
    series: Series
    parameters: Mapping[str, Tensor]
    method: InferenceMethod | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of chains and of draws.

        Raises:
            ValueError: there are no parameters, or their leading axes differ.
        """
        shapes = {tuple(value.shape[:2]) for value in self.parameters.values()}
        if len(shapes) != 1 or len(next(iter(shapes))) != 2:
            raise ValueError(
                "`parameters` must share the leading axes (chain, draw), got shapes "
                f"{ {name: tuple(value.shape) for name, value in self.parameters.items()} }."
            )
        chains, draws = next(iter(shapes))
        return chains, draws

    def at(self, chain: int, draw: int) -> StateSpaceModel:
        """Return a copy of the model with the parameters of one draw."""
        model = copy.deepcopy(self.model)
        for path, value in self.parameters.items():
            owner, _, name = path.rpartition(".")
            setattr(attrgetter(owner)(model) if owner else model, name, value[chain, draw])
        return model

    def pointwise(self, kind: Pointwise) -> Tensor:
        """Return the log density of each step under each draw, `(chain, draw, *batch, time)`.

        Args:
            kind: `"one_step"`, given the steps before, or `"leave_one_out"`, given all others.

        Raises:
            ValueError: `"leave_one_out"` is asked of a model that is not linear-Gaussian.
        """
        chains, draws = self.shape
        with torch.no_grad():
            rows = [
                torch.stack([self._density(self.at(c, d), kind) for d in range(draws)])
                for c in range(chains)
            ]
        return torch.stack(rows)

    def dataset(self) -> xr.Dataset:
        """Return the parameters with dimensions `chain, draw, <name>_dim_<i>`."""
        import xarray as xr

        variables = {
            name: (
                ("chain", "draw", *(f"{name}_dim_{i}" for i in range(value.ndim - 2))),
                value.detach().cpu().numpy(),
            )
            for name, value in self.parameters.items()
        }
        chains, draws = self.shape
        return xr.Dataset(variables, {"chain": range(chains), "draw": range(draws)})

    def _density(self, model: StateSpaceModel, kind: Pointwise) -> Tensor:
        from ..api.defaults import default_method

        method = self.method or default_method(model)
        if kind == "one_step":
            return method.log_likelihood(model, self.series)
        return left_out(model, self.series)


def left_out(model: StateSpaceModel, series: Series) -> Tensor:
    """Return `log p(y_t | all other steps)`, `(*batch, time)`.

    Raises:
        ValueError: the model is not linear-Gaussian.
    """
    from ..evaluation.leave_one_out import leave_one_out

    if not isinstance(model, LinearGaussianModel):
        raise ValueError(
            '`pointwise="leave_one_out"` needs a linear-Gaussian model, got '
            f"{type(model).__name__}. Compare forecasts with `deepssm.backtest()` instead."
        )
    return leave_one_out(model, series).log_density
