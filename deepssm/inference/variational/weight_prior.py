"""Random weights: a Gaussian prior on a deep model's parameters and a Gaussian posterior."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.arguments import checked
from ...core.model import Series, StateSpaceModel
from ..estimation.parameter_average import ParameterAverage
from .amortized import Amortized
from .objectives import VariationalLoss

_T = TypeVar("_T")


@checked
@dataclass(frozen=True)
class WeightPrior:
    """The evidence lower bound of model weights that are random, `w ~ N(0, scale^2)`.

    The posterior is an independent Gaussian for each weight, drawn anew every step. Its
    divergence is counted once for all data: a batch with a share `B / N` of the observed steps
    pays that share. Forecasts average over `num_draws` draws of the weights.

    Args:
        scale: Standard deviation of the prior.
        start: Standard deviation of the posterior at the start.
        names: Which parameters are random, by a test of their names; all but those of the
            first state and of noise scales (`initial_*`, `raw_*`) by default.
        num_draws: Draws behind forecasts.

    Source: Blundell et al. (2015), Weight uncertainty in neural networks, sections 3.1 to 3.4.
    """

    scale: float = 1.0
    start: float = 0.02
    names: Callable[[str], bool] | None = None
    num_draws: int = 20

    def __call__(
        self, model: StateSpaceModel, guide: nn.Module, *, num_particles: int = 1
    ) -> WeightLoss:
        """Return the loss.

        Raises:
            ValueError: no learnt parameter is chosen.
        """
        chosen = self.names or _is_weight
        names = [n for n, p in model.named_parameters() if p.requires_grad and chosen(n)]
        if not names:
            raise ValueError("`names` chooses none of the model's learnt parameters.")
        return WeightLoss(model, guide, self, names)


@checked
class WeightLoss(VariationalLoss):
    """The loss of `WeightPrior`; checkpoints hold the spreads of the posterior."""

    prior_scale: float | None = None  # The divergence counts the prior of the weights already.

    def __init__(
        self, model: StateSpaceModel, guide: nn.Module, options: WeightPrior, names: list[str]
    ) -> None:
        super().__init__(model, guide)
        self.options, self.names, self.total = options, names, 1.0
        raw = float(torch.log(torch.expm1(torch.tensor(options.start))))
        table = {n: torch.full_like(model.get_parameter(n), raw) for n in names}
        self.spreads = nn.ParameterDict({_flat(n): nn.Parameter(x) for n, x in table.items()})

    def training_state(self) -> nn.ParameterDict:
        """Return the spreads of the posterior before the softplus, which are learnt."""
        return self.spreads

    def prepare(self, series: Series) -> None:
        """Count the observed steps of all data."""
        self.total = float((~torch.isnan(series.y)).any(-1).sum())

    def scales(self) -> dict[str, Tensor]:
        """Return the posterior's standard deviations by name."""
        return {name: F.softplus(self.spreads[_flat(name)]) for name in self.names}

    def divergence(self) -> Tensor:
        """Return `KL(q(w) || p(w))`, in nats."""
        terms = []
        for name, scale in self.scales().items():
            ratio = (scale / self.options.scale).square()
            mean = self.model.get_parameter(name) / self.options.scale
            terms.append(0.5 * (ratio + mean.square() - 1 - ratio.log()).sum())
        return torch.stack(terms).sum()

    def drawn(self) -> dict[str, Tensor]:
        """Return one draw of the weights by name, with a gradient."""
        scales = self.scales().items()
        parameters = {name: self.model.get_parameter(name) for name in self.names}
        return {n: parameters[n] + s * torch.randn_like(s) for n, s in scales}

    def objective(self, series: Series, kl_weight: float, scale: float) -> Tensor:
        """Return minus the bound of the batch and its share of the weights' divergence."""
        weights = self.divergence()
        with replaced(self.model, self.drawn()):
            posterior, z, prior = self.draw(series)
            states = posterior.divergence(prior).sum()
            likelihood = self.likelihood(z, series).sum()
        share = float((~torch.isnan(series.y)).any(-1).sum()) / self.total
        return -scale * (likelihood - kl_weight * (states + share * weights))

    def method(self, guide: nn.Module) -> WeightAverage:
        """Return how to infer: the guide under draws of the weights, mixed."""
        with torch.no_grad():
            draws = [self.drawn() for _ in range(self.options.num_draws)]
            table = {n: torch.stack([draw[n] for draw in draws])[None] for n in self.names}
        return WeightAverage(Amortized(guide), self.model, {}, table, self.options.num_draws)


@dataclass(frozen=True)
class WeightAverage(ParameterAverage):
    """A `ParameterAverage` over draws of network weights."""

    def _each(self, run: Callable[[], _T]) -> list[_T]:
        results = []
        for i in range(self._used()):
            draw = {name: value[0, i] for name, value in self.draws.items()}
            with torch.no_grad(), replaced(self.model, draw):
                results.append(run())
        return results


@contextmanager
def replaced(module: nn.Module, values: dict[str, Tensor]) -> Iterator[None]:
    """Let named parameters be other tensors in the block, gradients included.

    Args:
        module: Holds the parameters.
        values: Tensors of the same shapes by name.
    """
    own: list[tuple[dict[str, nn.Parameter | None], str, nn.Parameter | None]] = []
    try:
        for full, value in values.items():
            path, _, name = full.rpartition(".")
            table = module.get_submodule(path)._parameters
            own.append((table, name, table[name]))
            table[name] = value  # type: ignore[assignment]
        yield
    finally:
        for table, name, parameter in own:
            table[name] = parameter


def _flat(name: str) -> str:
    return name.replace(".", "/")


def _is_weight(name: str) -> bool:
    return not any(part.startswith(("initial_", "raw_")) for part in name.split("."))
