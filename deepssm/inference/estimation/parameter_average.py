"""Inference that averages over draws of the parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ...core.arguments import checked
from ...core.methods import InferenceMethod
from ...core.model import Series, StateSpaceModel
from ...core.results import Filtered, Forecast, Smoothed
from .objective import Prior

_T = TypeVar("_T")


@checked
@dataclass(frozen=True)
class ParameterAverage:
    """A method that runs another one under draws of the parameters and mixes the results.

    Means and covariances are those of the mixture, `E[cov] + Cov[mean]`; likelihoods are logs of
    averages, and samples take the draws in turn. It belongs to the model it was made with, and
    answers for others only if they differ from it in nothing but the averaged parameters.

    Attributes:
        inference: The method run under each draw.
        model: The model whose parameters are moved, and put back afterwards.
        places: Where each parameter lives.
        draws: Draws by name, `(chains, draws, *shape)`.
        count: How many draws to use, spread evenly.
    """

    inference: InferenceMethod
    model: StateSpaceModel
    places: dict[str, Prior]
    draws: dict[str, Tensor]
    count: int = 50

    def filter(self, model: StateSpaceModel, series: Series) -> Filtered:
        """Return mixture moments of the filtered and predicted states."""
        own = self.own(model)
        runs = self._each(lambda: self.inference.filter(own, series))
        mean, cov = _mix([r.mean for r in runs], [r.cov for r in runs])
        predicted = _mix([r.predicted_mean for r in runs], [r.predicted_cov for r in runs])
        likelihood = _log_mean([r.log_likelihood for r in runs])
        ill_conditioned = torch.stack([r.ill_conditioned for r in runs]).any(0)
        return Filtered(mean, cov, *predicted, likelihood, ill_conditioned)

    def smooth(self, model: StateSpaceModel, series: Series) -> Smoothed:
        """Return mixture moments of the smoothed states."""
        own = self.own(model)
        runs = self._each(lambda: self.inference.smooth(own, series))
        means = [r.mean for r in runs]
        mean, cov = _mix(means, [r.cov for r in runs])
        now, before = torch.stack(means), torch.stack(means).roll(1, -2)
        shared = (now - mean)[..., :, None] * (before - mean.roll(1, -2))[..., None, :]
        cross = torch.stack([r.cross_cov for r in runs]).mean(0) + shared.mean(0)
        cross[..., 0, :, :] = 0.0
        ill_conditioned = torch.stack([r.ill_conditioned for r in runs]).any(0)
        return Smoothed(
            mean, cov, cross, _log_mean([r.log_likelihood for r in runs]), ill_conditioned
        )

    def log_likelihood(self, model: StateSpaceModel, series: Series) -> Tensor:
        """Return steps of the log of the averaged likelihood, `(*batch, time)`."""
        own = self.own(model)
        return _log_mean(self._each(lambda: self.inference.log_likelihood(own, series)))

    def sample_posterior(
        self,
        model: StateSpaceModel,
        series: Series,
        num_samples: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw paths, the parameters differing between them."""
        own = self.own(model)

        def draw(count: int) -> tuple[Tensor, ...]:
            return (self.inference.sample_posterior(own, series, count, generator),)

        return self.mixed(draw, num_samples)[0]

    def mixed(
        self, draw: Callable[[int], tuple[Tensor, ...]], num_samples: int
    ) -> tuple[Tensor, ...]:
        """Call `draw(count)` under each draw of the parameters and take turns in the results.

        Args:
            draw: Returns tensors with `count` samples along their first axis.
            num_samples: Samples of the mixture.
        """
        count = -(-num_samples // self._used())
        parts = zip(*self._each(lambda: draw(count)), strict=True)
        return tuple(torch.stack(part, 1).flatten(0, 1)[:num_samples] for part in parts)

    def forecast(
        self,
        model: StateSpaceModel,
        series: Series,
        horizon: int,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Forecast:
        """Forecast with parameter uncertainty; quantiles need `num_samples` to be exact."""
        each = None if num_samples is None else -(-num_samples // self._used())
        own = self.own(model)
        runs = self._each(lambda: self.inference.forecast(own, series, horizon, each, generator))
        mean, cov = _mix([r.mean for r in runs], [r.cov for r in runs])
        samples = _interleave([r.samples for r in runs], num_samples)
        states = [r.state_mean for r in runs if r.state_mean is not None]
        covs = [r.state_cov for r in runs if r.state_cov is not None]
        state = _mix(states, covs) if states and covs else (None, None)
        paths = _interleave([r.state_samples for r in runs], num_samples)
        result = Forecast(mean, cov, samples, *state, paths)
        result.parameters_known = False
        return result

    def own(self, model: StateSpaceModel) -> StateSpaceModel:
        """Return the model whose parameters are moved, in the place of one that equals it.

        Args:
            model: The model that a verb was called with.

        Raises:
            ValueError: it differs in more than the averaged parameters.
        """
        if model is not self.model and not self._equals(model):
            raise ValueError(
                "This average over parameter draws belongs to another model than the "
                f"{type(model).__name__} given. Use the `Fit` that it came from, or learn this "
                "model too."
            )
        return self.model

    def _equals(self, model: StateSpaceModel) -> bool:
        averaged = {name for path in self.draws for name in (path, f"{path}_unconstrained")}
        ours, theirs = (
            {n: x for n, x in m.state_dict().items() if n not in averaged}
            for m in (self.model, model)
        )
        same = type(model) is type(self.model) and ours.keys() == theirs.keys()
        return same and all(
            x.shape == theirs[n].shape and bool((x == theirs[n].to(x)).all())
            for n, x in ours.items()
        )

    def _used(self) -> int:
        first = next(iter(self.draws.values()))
        return min(self.count, first.shape[0] * first.shape[1])

    def _each(self, run: Callable[[], _T]) -> list[_T]:
        flat = {name: value.flatten(0, 1) for name, value in self.draws.items()}
        total = len(next(iter(flat.values())))
        chosen = torch.linspace(0, total - 1, self._used()).round().long().tolist()
        results = []
        with self._restored(), torch.no_grad():
            for i in chosen:
                for name, place in self.places.items():
                    setattr(place.module, place.name, flat[name][i])
                results.append(run())
        return results

    @contextmanager
    def _restored(self) -> Iterator[None]:
        kept = {n: getattr(p.module, p.name).detach().clone() for n, p in self.places.items()}
        try:
            yield
        finally:
            for name, place in self.places.items():
                setattr(place.module, place.name, kept[name])


def _mix(means: list[Tensor], covs: list[Tensor]) -> tuple[Tensor, Tensor]:
    stacked = torch.stack(means)
    mean = stacked.mean(0)
    gap = stacked - mean
    return mean, torch.stack(covs).mean(0) + (gap[..., :, None] * gap[..., None, :]).mean(0)


def _log_mean(steps: list[Tensor]) -> Tensor:
    """Return steps whose running sums are logs of the averaged likelihoods."""
    totals = torch.stack(steps).cumsum(-1).logsumexp(0) - torch.tensor(float(len(steps))).log()
    return totals.diff(dim=-1, prepend=torch.zeros_like(totals[..., :1]))


def _interleave(samples: list[Tensor | None], count: int | None) -> Tensor | None:
    present = [x for x in samples if x is not None]
    return torch.stack(present, 1).flatten(0, 1)[:count] if present else None
