"""Methods that read means say so where no mean depends on the state; the oracle is a grid."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, Poisson

import deepssm as ds
from deepssm.api.defaults import default_learner, default_method
from deepssm.core.methods import InferenceMethod
from deepssm.inference import (
    SVI,
    Cubature,
    Ensemble,
    Extended,
    Gate,
    GaussHermite,
    LinearizedGuide,
    MaximumLikelihood,
    Particle,
    PosteriorLinearization,
    Simplex,
    Unscented,
    bound,
)
from tests.inference.gaussian.given_blind import Volatility, on_a_grid

BLIND: list[InferenceMethod] = [
    Extended(), Unscented(), Cubature(), Simplex(), GaussHermite(5), Unscented(iterations=2),
    Extended(robust=Gate()), PosteriorLinearization(), Ensemble(50),
]  # fmt: skip


class Counts(Volatility):
    """The same state, seen through its mean."""

    def emission(self, z: Tensor, u: Tensor | None = None) -> Distribution:
        return Independent(Poisson(z.exp()), 1)


class LevelAndVolatility(ds.StateSpaceModel):
    """A level that the mean shows, and a log-variance that it does not, correlated or not."""

    state_dim, obs_dim = 2, 1

    def __init__(self, leverage: float = 0.0) -> None:
        super().__init__()
        cov = torch.tensor([[0.1, leverage], [leverage, 0.1]], dtype=torch.float64)
        self.register_buffer("chol", torch.linalg.cholesky(cov))

    def initial(self) -> Distribution:
        zero = torch.zeros(2, dtype=torch.float64)
        return torch.distributions.MultivariateNormal(zero, scale_tril=torch.eye(2).double())

    def transition(
        self, z: Tensor, u: Tensor | None = None, dt: Tensor | None = None
    ) -> Distribution:
        return torch.distributions.MultivariateNormal(0.9 * z, scale_tril=self.chol)

    def emission(self, z: Tensor, u: Tensor | None = None) -> Distribution:
        return Independent(Normal(z[..., :1], (z[..., 1:] / 2).exp()), 1)


def inside() -> ds.models.NonlinearGaussian:
    move: Any = lambda z, u, dt, w: 0.9 * z + w  # noqa: E731
    look: Any = lambda z, u, v: v * (z / 2).exp()  # noqa: E731
    noise: Any = {"Q": [[0.2]], "R": [[1.0]], "noise": "inside"}
    return ds.models.NonlinearGaussian(move, look, m0=[0.0], P0=[[1.0]], **noise)


Y = ds.simulate(Volatility(), 60, generator=torch.Generator().manual_seed(1)).y.detach()


@pytest.mark.parametrize("method", BLIND, ids=repr)
def test_a_blind_method_says_so_and_names_one_that_sees(method: InferenceMethod) -> None:
    for verb in (ds.filter, ds.smooth, ds.log_likelihood, ds.sample_posterior):
        with pytest.raises(ValueError, match="cannot see the state of Volatility.*`Particle"):
            verb(Volatility(), Y[:5], method=method)
    with pytest.raises(ValueError, match="cannot see the state"):
        ds.forecast(Volatility(), Y[:5], 2, method=method)


def test_it_says_so_before_learning_and_online_and_of_batches_and_known_starts() -> None:
    learner = MaximumLikelihood(inference=Unscented())
    for call in (
        lambda: ds.fit(Volatility(), Y, method=learner, progress=False),
        lambda: ds.fit(Volatility(), Y, method=MaximumLikelihood(), progress=False),
        lambda: ds.online(Volatility(), Extended()),
        lambda: ds.filter(Volatility(), Y.reshape(2, 30, 1), method=Cubature()),
        lambda: ds.filter(Volatility(known=True), Y, method=Cubature()),
        lambda: ds.filter(inside(), Y, method=Unscented()),
        lambda: ds.filter(inside(), Y, method=GaussHermite(3)),
    ):
        with pytest.raises(ValueError, match="cannot see the state of .*`log"):
            call()


def test_the_default_method_sees() -> None:
    """Against a grid: 1000 particles, within 5 of their standard errors."""
    exact, total = on_a_grid(Volatility(), Y)
    found = ds.filter(Volatility(), Y)
    assert float((found.mean[:, 0] - exact).abs().max()) < 0.15
    assert float(found.log_likelihood.sum()) == pytest.approx(float(total), abs=0.8)
    assert ds.forecast(Volatility(), Y, 3).samples is not None
    assert isinstance(default_learner(Volatility()), SVI)
    assert isinstance(default_learner(Counts()), MaximumLikelihood)
    assert isinstance(default_method(Counts()), Unscented)


def test_the_default_guide_sees() -> None:
    """Against the grid: the bound of a guide that ignored the variance is 12 nats lower."""
    series = ds.as_series(Volatility(), Y)
    torch.manual_seed(0)
    with torch.no_grad():
        halves = bound(Volatility(), LinearizedGuide(2), series, num_particles=200)
        found = float((halves.reconstruction - halves.divergence).sum(-1).mean())
    total = float(on_a_grid(Volatility(), Y)[1])
    assert total - 3 < found < total + 0.5


@pytest.mark.slow
def test_volatility_is_learnt_by_default() -> None:
    """Simulated with a = .95, q = .3; from a = .8, q = .5; bands of 3 standard errors."""
    true = Volatility(0.95, 0.3)
    y = ds.simulate(true, 600, generator=torch.Generator().manual_seed(1)).y.detach()
    fit = ds.fit(
        Volatility(0.8, 0.5), y, progress=False, generator=torch.Generator().manual_seed(0)
    )
    assert abs(float(fit.model.a) - 0.95) < 0.06 and abs(float(fit.model.q) - 0.3) < 0.18


def test_a_hidden_component_is_named() -> None:
    y = ds.simulate(LevelAndVolatility(), 8, generator=torch.Generator().manual_seed(0)).y
    for method in (Unscented(), Extended(), Cubature(), Ensemble(50)):
        with pytest.warns(UserWarning, match="cannot see `z1` of LevelAndVolatility"):
            ds.filter(LevelAndVolatility(), y, method=method)
    with pytest.warns(UserWarning, match="cannot see `z1`"):
        ds.online(LevelAndVolatility(), Unscented())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ds.filter(LevelAndVolatility(0.05), y, method=Unscented())  # the level tells of it
        ds.filter(LevelAndVolatility(), y, method=Particle(50))
        ds.filter(Counts(), y.abs().floor(), method=Unscented())


def even(m0: float) -> ds.models.NonlinearGaussian:
    return ds.models.NonlinearGaussian(
        lambda z, u, dt: 0.9 * z, lambda z, u: z**2, Q=[[0.1]], R=[[0.1]], m0=[m0], P0=[[1.0]]
    )


@pytest.mark.parametrize("method", [Extended(iterations=3), *BLIND[:3], BLIND[4]], ids=repr)
def test_a_slope_that_vanishes_is_told(method: InferenceMethod) -> None:
    """By hand: `y = z ** 2` has no slope at 0, and a filter whose mean is 0 stays there."""
    with pytest.warns(UserWarning, match="learnt nothing from 3 of 3 observed steps.*`Particle"):
        found = ds.filter(even(0.0), [1.0, 1.1, float("nan"), 0.9], method=method)
    assert float(found.mean.abs().max()) < 1e-5
    with pytest.warns(UserWarning, match="learnt nothing from 1 of 1"):
        running = ds.online(even(0.0), method)
        running.update(1.0)
        running.predict()
        running.update(1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ds.filter(even(1.0), [1.0, 1.1, 0.9], method=method)


def test_what_is_gated_or_reads_no_state_is_no_vanishing_slope() -> None:
    def dead(z: Tensor, u: Tensor | None) -> Tensor:
        return 0 * z + 1

    model = ds.models.NonlinearGaussian(
        lambda z, u, dt: 0.9 * z, dead, Q=[[0.1]], R=[[0.1]], m0=[0.0], P0=[[1.0]]
    )
    ds.filter(model, [1.0, 1.1], method=Unscented())
    ds.filter(even(1.0), [1e4, 1e4], method=Extended(robust=Gate()))
