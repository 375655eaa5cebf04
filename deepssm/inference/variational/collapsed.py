"""Inference in two-layer models: the encoder's draws of `a`, exact Kalman answers given each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ...core.arguments import checked
from ...core.guides import ReadsFrames
from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import seeded
from ...core.results import Filtered, Forecast, Smoothed
from ...core.two_layers import ConditionallyLinear
from ..kalman.fixed_lag import Matrices
from ..kalman.method import Kalman
from ..simulation.ahead import drawn_forecast, last_seen, run_on, state_at
from .collapsed_terms import PseudoObservations, bound_terms, predicted_a, pseudo_observations


@checked
@dataclass(frozen=True, eq=False)
class Collapsed:
    """Draw `a` from a trained encoder, and condition `z` on each draw by the exact filter.

    Where a frame is missing nothing is known of its `a` but what the exact smoother says, and the
    weights of the matrices are fed by the predicted `a`. Moments are those of the mixture over
    draws. Draws of `a` are not weighted by the likelihood: they are as good as the encoder.

    Args:
        guide: The encoder, as `deepssm.fit` returns in `Fit.method`.
        num_samples: Draws of `a` behind moments and, by default, forecasts.
        seed: Seed of methods that take no generator, so that they repeat themselves.
        generator: Source of randomness of those, in the place of `seed`.
    """

    guide: nn.Module
    num_samples: int = 64
    seed: int = 0
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        """Check the encoder."""
        if not isinstance(self.guide, ReadsFrames):
            raise ValueError(
                "`guide` must read frames (`ReadsFrames`), as `FrameEncoder` does, got "
                f"{type(self.guide).__name__}."
            )

    def filter(self, model: StateSpaceModel, series: Series) -> Filtered:
        """Return the moments of `p(z_t, a_t | y_{1:t})` and of `p(z_t, a_t | y_{1:t-1})`."""
        layers = _layers(model)
        with torch.no_grad(), seeded(self._generator(series)):
            drawn = pseudo_observations(layers, self._encoder, series, self.num_samples)
            found = Kalman().filter(Matrices(drawn.parameters), Series(drawn.a))
            now = _states(layers, drawn, found.mean, found.cov)
            ahead_a = torch.full_like(drawn.a, torch.nan)
            ahead = drawn._replace(a=ahead_a, path=predicted_a(drawn.parameters, found)[0])
            before = _states(layers, ahead, found.predicted_mean, found.predicted_cov)
            bad = found.ill_conditioned.any(0)
        return Filtered(*_mixture(*now), *_mixture(*before), self._steps(model, series), bad)

    def smooth(self, model: StateSpaceModel, series: Series) -> Smoothed:
        """Return the moments of `p(z_t, a_t | y_{1:T})`; `h` is a function of the path of `a`."""
        layers = _layers(model)
        with torch.no_grad(), seeded(self._generator(series)):
            drawn = pseudo_observations(layers, self._encoder, series, self.num_samples)
            found = Kalman().smooth(Matrices(drawn.parameters), Series(drawn.a))
            means, covs = _states(layers, drawn, found.mean, found.cov)
            mean, cov = _mixture(means, covs)
            cross = _cross(layers, drawn, found.cross_cov.to(cov.dtype), means - mean)
            bad = found.ill_conditioned.any(0)
        return Smoothed(mean, cov, cross, self._steps(model, series), bad)

    def log_likelihood(self, model: StateSpaceModel, series: Series) -> Tensor:
        """Return the importance estimate of `log p(y_t | y_{1:t-1})` in nats, `(*batch, time)`.

        Its sum is `log 1/K sum_k p(y, a_k) / q(a_k)` with `z` integrated out: in expectation a
        lower bound of `log p(y_{1:T})`, above the evidence lower bound, and differentiable.
        """
        with seeded(self._generator(series)):
            terms = bound_terms(_layers(model), self._encoder, series, self.num_samples)
        total = terms.weighted().cumsum(-1).logsumexp(0)
        start = torch.full_like(total[..., :1], float(self.num_samples)).log()
        return torch.diff(total, dim=-1, prepend=start)

    def bound(self, model: StateSpaceModel, series: Series) -> Tensor:
        """Return the evidence lower bound of each step in nats, `(*batch, time)`."""
        with seeded(self._generator(series)):
            return (
                bound_terms(_layers(model), self._encoder, series, self.num_samples)
                .weighted()
                .mean(0)
            )

    def sample_posterior(
        self,
        model: StateSpaceModel,
        series: Series,
        num_samples: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw states, `(num_samples, *batch, time, state)`: `a`, then `z` given it."""
        layers = _layers(model)
        with torch.no_grad(), seeded(generator):
            drawn = pseudo_observations(layers, self._encoder, series, num_samples)
            z = Kalman().sample_posterior(Matrices(drawn.parameters), Series(drawn.a), 1)[0]
            C, d, R = drawn.parameters.emission
            noise = torch.linalg.cholesky(R) @ torch.randn_like(drawn.path)[..., None]
            fresh = (C @ z[..., None] + noise)[..., 0] + d
            unknown = torch.isnan(drawn.a)
            state = layers.state_given(z, drawn.path)
            n, p = layers.linear_dim, layers.latent_dim
            a = torch.where(unknown, fresh, drawn.a)
            return torch.cat((state[..., :n], a, state[..., n + p :]), -1)

    def forecast(
        self,
        model: StateSpaceModel,
        series: Series,
        horizon: int,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Forecast:
        """Forecast the last `horizon` steps of `series`, whose `y` is NaN there.

        Each draw of the state after the last observation is run on by the model, its weights fed
        by its own `a`.
        """
        if generator is None:
            generator = self._generator(series)
        z = self.sample_posterior(model, series, num_samples or 4 * self.num_samples, generator)
        last = last_seen(series.y)
        with torch.no_grad(), seeded(generator):
            drawn = run_on(model, series, state_at(z, last), last, horizon)
        return drawn_forecast(*drawn, model)

    @property
    def _encoder(self) -> ReadsFrames:
        return cast(ReadsFrames, self.guide)

    def _steps(self, model: StateSpaceModel, series: Series) -> Tensor:
        with torch.no_grad():
            return self.log_likelihood(model, series)

    def _generator(self, series: Series) -> torch.Generator:
        if self.generator is not None:
            return self.generator
        return torch.Generator(series.y.device).manual_seed(self.seed)


def _layers(model: StateSpaceModel) -> ConditionallyLinear:
    if isinstance(model, ConditionallyLinear):
        return model
    raise ValueError(
        "`Collapsed` needs a model that is linear given a path of `a` (`ConditionallyLinear`), "
        f"such as `KalmanVAE`, got {type(model).__name__}."
    )


def _states(
    model: ConditionallyLinear, drawn: PseudoObservations, mean: Tensor, cov: Tensor
) -> tuple[Tensor, Tensor]:
    """Return moments of `(z, a, ...)` given each draw; `a` is `C z + v` where it is unknown."""
    C, d, R = drawn.parameters.emission
    mean, cov = mean.to(drawn.a.dtype), cov.to(drawn.a.dtype)
    unknown = torch.isnan(drawn.a)
    state = model.state_given(mean, drawn.path)
    n, p = model.linear_dim, model.latent_dim
    a = torch.where(unknown, (C @ mean[..., None])[..., 0] + d, drawn.path)
    state = torch.cat((state[..., :n], a, state[..., n + p :]), -1)
    J = _loading(model, unknown, C, state.shape[-1])
    full = J @ cov @ J.mT
    both = unknown[..., :, None] & unknown[..., None, :]
    full[..., n : n + p, n : n + p] += torch.where(both, R, torch.zeros_like(R))
    return state, full


def _loading(model: ConditionallyLinear, unknown: Tensor, C: Tensor, size: int) -> Tensor:
    """Return `J` with `(z, a, ...) = J z + ...`, `(*axes, state, linear)`."""
    n, p = model.linear_dim, model.latent_dim
    J = C.new_zeros(*unknown.shape[:-1], size, n)
    J[..., :n, :] = torch.eye(n, dtype=C.dtype, device=C.device)
    J[..., n : n + p, :] = torch.where(unknown[..., None], C, torch.zeros_like(C))
    return J


def _mixture(means: Tensor, covs: Tensor) -> tuple[Tensor, Tensor]:
    """Return moments of an equal mixture over the first axis."""
    mean = means.mean(0)
    centred = means - mean
    spread = torch.einsum("s...i,s...j->...ij", centred, centred) / len(means)
    return mean, covs.mean(0) + spread


def _cross(
    model: ConditionallyLinear, drawn: PseudoObservations, cross: Tensor, centred: Tensor
) -> Tensor:
    J = _loading(model, torch.isnan(drawn.a), drawn.parameters.emission.matrix, centred.shape[-1])
    found = torch.zeros_like(J @ J.mT)[0]
    inner = (J[..., 1:, :, :] @ cross[..., 1:, :, :] @ J[..., :-1, :, :].mT).mean(0)
    between = torch.einsum("s...i,s...j->...ij", centred[..., 1:, :], centred[..., :-1, :])
    found[..., 1:, :, :] = inner + between / len(centred)
    return found
