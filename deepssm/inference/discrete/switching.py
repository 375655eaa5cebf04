"""Approximate filters and smoothers for switching linear models: IMM and Kim's GPB2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...core.arguments import checked
from ...core.gaussian import beside, outer, psd_factor
from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import seeded
from ...core.results import Filtered, Forecast, Smoothed
from ..simulation.randomness import source
from .required import switching_model
from .switching_compiled import Stacked, compilable
from .switching_compiled import run as run_compiled
from .switching_mixtures import Mixture, Trace, at_step, collapse, merge, moments, stack
from .switching_online import OnlineSwitching
from .switching_paths import draw_along, sample_modes, simulate, smooth_along
from .switching_steps import move, start, update


@checked
@dataclass(frozen=True)
class Switching:
    """Filter one Gaussian a mode, and merge histories of modes.

    Args:
        order: 1 merges before the prediction, with as many filters as modes (the interacting
            multiple model filter, IMM); 2 merges after the update, with as many filters as pairs
            (GPB2, Kim's filter), slower and closer to the truth.
        num_paths: Paths of modes behind `smooth`.
        seed: Of those paths.
        generator: Source of them in the place of `seed`; it advances from call to call.

    Weights are logarithms and covariances factors; the log-likelihood is differentiable.

    Source: Blom & Bar-Shalom (1988), IEEE Transactions on Automatic Control 33(8); Kim (1994),
        Journal of Econometrics 60.
    """

    order: Literal[1, 2] = 1
    num_paths: int = 100
    seed: int = 0
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        """Check `order`."""
        if self.order not in (1, 2):
            raise ValueError(f"`order` must be 1 (IMM) or 2 (GPB2), got {self.order}.")

    def filter(self, model: StateSpaceModel, series: Series) -> Filtered:
        """Return mode probabilities and state, given the past with and without the present.

        Without a gradient, which `log_likelihood` has. `ill_conditioned` also marks series with
        an observation so far out that the score of the merged Gaussians differs by more than a nat
        from that of those that were merged: the tails of a mixture are not those of a Gaussian
        with its moments (tested on CPUs). Weights are logarithms to the end: nothing underflows.
        """
        with torch.no_grad():
            found = self._stacked(model, series)
            before, after = moments(found.predicted), moments(found.filtered)
        flag = found.spoilt.to(found.score.device) | ~torch.isfinite(found.score).all(-1)
        return Filtered(*after, *before, found.score, flag)

    def smooth(self, model: StateSpaceModel, series: Series) -> Smoothed:
        """Return mode probabilities and state given all of `y`.

        Modes are drawn backwards `num_paths` times, the states integrated out; given the modes
        the states are smoothed exactly. Kim's collapsed recursion is quicker, but on manoeuvring
        targets it was measured to be worse than not smoothing at all.
        """
        switching = switching_model(model)
        with torch.no_grad(), seeded(source(self.generator, self.seed)):
            stacked = self._stacked(model, series)
            paths = sample_modes(switching, series, _unstacked(stacked), self.num_paths)
            found = smooth_along(switching, series, paths)
        flag = stacked.spoilt.to(stacked.score.device) | ~torch.isfinite(stacked.score).all(-1)
        return Smoothed(*found, stacked.score, flag)

    def log_likelihood(self, model: StateSpaceModel, series: Series) -> Tensor:
        """Return `log p(y_t | y_{1:t-1})` of the merged mixtures in nats, `(*batch, time)`."""
        return self._stacked(model, series).score

    def sample_posterior(
        self,
        model: StateSpaceModel,
        series: Series,
        num_samples: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw modes and states, `(num_samples, *batch, time, modes + latent)`."""
        with torch.no_grad(), seeded(generator):
            trace = self.run(model, series)
            switching = switching_model(model)
            modes = sample_modes(switching, series, trace, num_samples)
            return draw_along(switching, series, modes)

    def forecast(
        self,
        model: StateSpaceModel,
        series: Series,
        horizon: int,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Forecast:
        """Forecast the last `horizon` steps, whose `y` is NaN; draws come from the model."""
        trace, first = self.run(model, series), series.time - horizon
        emission = switching_model(model).mode_parameters(series.u, series.dt).emission
        merged = []
        for t in range(first, series.time):
            C, d, R = (at_step(x, t, rank) for x, rank in zip(emission, (2, 1, 2), strict=True))
            part = trace.predicted[t]
            mean = (C @ part.mean[..., None])[..., 0] + d
            merged.append(collapse(part.log_weight, mean, beside(C @ part.factor, psd_factor(R))))
        state_mean, state_cov = moments(stack(trace.predicted[first:]))
        mean, factor = (
            torch.stack(x, -rank)
            for x, rank in zip(zip(*merged, strict=True), (2, 3), strict=True)
        )
        count = num_samples or 1_000
        with torch.no_grad(), seeded(generator):
            z, y = simulate(model, series, trace, first, count)
        return Forecast(mean, outer(factor), y, state_mean, state_cov, z)

    def run(self, model: StateSpaceModel, series: Series) -> Trace:
        """Run the filter and return the mixtures themselves."""
        return _unstacked(self._stacked(model, series))

    def _stacked(self, model: StateSpaceModel, series: Series) -> Stacked:
        switching = switching_model(model)
        parameters = switching.mode_parameters(series.u, series.dt)
        log_pi, log_A = switching.log_initial(), switching.log_transition()
        noise = (
            psd_factor(parameters.initial.cov, "P0"),
            psd_factor(parameters.transition.cov, "Q"),
            psd_factor(parameters.emission.cov, "R"),
        )
        if compilable(parameters, series.y, log_pi, log_A):
            return run_compiled(self.order, log_pi, log_A, parameters, noise, series.y)
        observed = ~torch.isnan(series.y)
        y = torch.where(observed, series.y, 0.0)
        trace, shape = Trace([], [], []), series.batch_shape
        for t in range(series.time):
            if t == 0:
                prior = start(switching, parameters, shape)
            else:
                prior = move(self.order, trace.filtered[-1], parameters, noise[1], log_A, t)
            posterior, score = update(
                prior, parameters, noise[2], t, y[..., t, :], observed[..., t, :]
            )
            trace.predicted.append(merge(prior))
            trace.filtered.append(merge(posterior))
            trace.log_likelihood.append(score)
        scores = torch.stack(trace.log_likelihood, -1)
        flags = torch.zeros(shape, dtype=torch.bool, device=scores.device)
        return Stacked(stack(trace.predicted), stack(trace.filtered), scores, flags)

    def online(self, model: StateSpaceModel) -> OnlineSwitching:
        """Return a filter that takes one observation at a time."""
        return OnlineSwitching(self.order, model)


def _unstacked(found: Stacked) -> Trace:
    """Return mixtures as lists over time."""
    mixtures = [
        [Mixture(*step) for step in zip(*(x.unbind(-r) for x, r in parts), strict=True)]
        for parts in (
            tuple(zip(each, (2, 3, 4), strict=True)) for each in (found.predicted, found.filtered)
        )
    ]
    return Trace(mixtures[0], mixtures[1], list(found.score.unbind(-1)))
