from __future__ import annotations

from typing import cast

import pytest
import torch

from deepssm.core.model import Series
from deepssm.core.pyro_sites import MarkovSequence, observed_log_prob, observed_steps
from deepssm.inference.guides.linearized_guide import (
    LinearizedGuide,
    _compiled_pass,
    information_loop,
    linearize,
)
from deepssm.inference.guides.particle_filter import guided_filter
from deepssm.inference.variational.elbo import bound, importance_log_likelihood
from deepssm.models.deep.deep_markov import DeepMarkov
from deepssm.models.deep.emissions import BernoulliEmission

from ... import oracles
from ...deep_models import gappy_series, linear_deep, linear_parameters, neural_deep


@pytest.mark.parametrize("time", [1, 2, 9])
def test_linear_models_get_their_exact_posterior(time: int) -> None:
    """With the exact `q` every single path weighs `p(y)`: no Monte Carlo error is left."""
    model = linear_deep()
    series = gappy_series(model, time=max(time, 6), batch=2)
    assert series.u is not None
    series = Series(series.y[:, :time], series.u[:, :time])
    assert series.u is not None
    with torch.no_grad():
        got = importance_log_likelihood(model, LinearizedGuide(), series, 1)
    for i in range(2):
        exact = oracles.log_likelihood(linear_parameters(model, series.u[i]), series.y[i]).sum()
        torch.testing.assert_close(got[i], exact, rtol=1e-9, atol=1e-9)


def test_compiled_pass_equals_the_loop() -> None:
    """Generic position, and a noise of 1e-9 beside one of 1."""
    g = torch.Generator().manual_seed(0)
    F = torch.randn(2, 3, 9, 4, 4, generator=g, dtype=torch.float64) / 2
    f, j = torch.randn(2, 2, 3, 9, 4, generator=g, dtype=torch.float64)
    Q = torch.rand(2, 3, 9, 4, generator=g, dtype=torch.float64) + 0.1
    Q[..., 2] = 1e-9
    H = torch.randn(2, 3, 9, 2, 4, generator=g, dtype=torch.float64)
    J = H.mT @ H
    for left, right in zip(
        _compiled_pass(F, f, Q, J, j), information_loop(F, f, Q, J, j), strict=True
    ):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-12)


def test_linear_models_get_their_smoothed_moments() -> None:
    """10 000 exact paths: five standard errors."""
    model = linear_deep()
    series = gappy_series(model, time=7, batch=1)
    assert series.u is not None
    z = LinearizedGuide()(model, series).sample((10_000,))[:, 0]
    exact = oracles.smooth(linear_parameters(model, series.u[0]), series.y[0])
    sd = exact.cov.diagonal(dim1=-2, dim2=-1).sqrt()
    assert ((z.mean(0) - exact.mean).abs() / sd).max() < 5 / 100
    assert (z.std(0) / sd - 1).abs().max() < 5 / 200**0.5 / 10


def test_jacobians_are_those_of_finite_differences() -> None:
    model = neural_deep()
    series = gappy_series(model, time=5, batch=2)
    path = torch.randn(2, 5, 2, dtype=torch.float64)
    parts = linearize(model, series, path)
    prior = MarkovSequence(model, 5, series.u)
    for i in range(2):
        nudge = torch.zeros(2, dtype=torch.float64)
        nudge[i] = 1e-5
        change = prior.transitions(path + nudge).mean - prior.transitions(path - nudge).mean
        torch.testing.assert_close(parts.F[:, 1:, :, i], change / 2e-5, rtol=1e-6, atol=1e-8)
        above = model.emission(path + nudge, series.u).mean
        change = (above - model.emission(path - nudge, series.u).mean) / 2e-5
        expected = torch.where(series.y.isnan(), torch.zeros_like(change), change)
        torch.testing.assert_close(parts.H[..., i], expected, rtol=1e-6, atol=1e-8)


def test_iterations_tighten_the_bound_of_a_nonlinear_model() -> None:
    """2000 paths, common noise: the second pass gains far more than its error."""
    model = neural_deep(seed=4)
    series = gappy_series(model)
    levels = []
    for count in (1, 3):
        torch.manual_seed(0)
        with torch.no_grad():
            parts = bound(model, LinearizedGuide(count), series, 2000)
        levels.append((parts.reconstruction - parts.divergence).sum((-2, -1)).mean())
    assert levels[1] > levels[0]


def test_no_gradient_reaches_the_guide() -> None:
    model = neural_deep()
    posterior = LinearizedGuide()(model, gappy_series(model))
    assert not posterior.rsample().requires_grad


def test_filter_with_linearised_proposals_is_exact_on_a_linear_model() -> None:
    """20 000 particles with the optimal proposal; tolerances are about 5 standard errors."""
    model = linear_deep()
    series = gappy_series(model, time=8, batch=1)
    assert series.u is not None
    with torch.no_grad():
        got = guided_filter(model, LinearizedGuide(), series, 20_000)
    params = linear_parameters(model, series.u[0])
    exact = oracles.filtered(params, series.y[0])
    sd = exact.cov.diagonal(dim1=-2, dim2=-1).sqrt()
    assert ((got.mean[0] - exact.mean).abs() / sd).max() < 0.12
    log_likelihood = oracles.log_likelihood(params, series.y[0])
    torch.testing.assert_close(got.log_likelihood[0], log_likelihood, rtol=0, atol=0.1)


def test_binary_observations_have_a_posterior_too() -> None:
    torch.manual_seed(0)
    model = DeepMarkov(3, 2, emission=BernoulliEmission(2, 3, hidden=8)).double()
    series = Series((torch.rand(4, 10, 3) < 0.4).double())
    posterior = LinearizedGuide(3)(model, series).expand(torch.Size((64, 4)))
    z = posterior.sample()
    prior = MarkovSequence(model, 10, None, None, observed_steps(series.y), posterior.batch_shape)
    weights = observed_log_prob(model.emission(z), series.y).sum(-1) + prior.log_prob(z)
    # A posterior that fits leaves log weights that vary by a fraction of a nat.
    assert (weights - posterior.log_prob(z)).std(0).max() < 1.0


def test_probabilities_that_round_to_one_say_nothing() -> None:
    """Oracle: the same data with that component missing, whose posterior must be the same."""
    torch.manual_seed(0)
    model = DeepMarkov(3, 2, emission=BernoulliEmission(2, 3, hidden=8))
    assert isinstance(model.emission_net, BernoulliEmission)
    with torch.no_grad():
        cast("torch.nn.Linear", model.emission_net.logits[-1]).bias[1] = 60.0
    y = (torch.rand(4, 6, 3) < 0.5).float()
    blind = y.clone()
    blind[..., 1] = torch.nan
    assert (model.emission(torch.zeros(2)).variance[1] == 0).all()
    z = torch.randn(4, 6, 2)
    with torch.no_grad():
        whole = [LinearizedGuide(2)(model, Series(each)).conditionals(z) for each in (y, blind)]
        prior = model.transition(z[:, 2])
        steps = [
            LinearizedGuide().filtering(model, Series(each)).proposal(z[:, 2], prior, 3)
            for each in (y, blind)
        ]
    for got, expected in (whole, steps):
        assert got.mean.isfinite().all()
        assert got.chol is not None and expected.chol is not None
        torch.testing.assert_close(got.mean, expected.mean)
        torch.testing.assert_close(got.chol, expected.chol)
