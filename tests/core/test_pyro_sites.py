from __future__ import annotations

from typing import Any

import pyro
import pytest
import torch
from pyro.infer import Predictive
from torch.distributions import Categorical, Independent, MultivariateNormal, Normal

from deepssm.core.model import Series
from deepssm.core.pyro_sites import (
    MarkovSequence,
    joint,
    observed_log_prob,
    observed_steps,
    seeded,
)

from ..deep_models import gappy_series, neural_deep


@pytest.mark.parametrize("time", [1, 2, 6])
def test_path_density_is_the_product_of_its_steps(time: int) -> None:
    model = neural_deep()
    z = torch.randn(4, time, 2, dtype=torch.float64)
    u = torch.randn(4, time, 1, dtype=torch.float64)
    expected = model.initial().log_prob(z[:, 0])
    for t in range(1, time):
        expected = expected + model.transition(z[:, t - 1], u[:, t]).log_prob(z[:, t])
    prior = MarkovSequence(model, time, u)
    assert prior.batch_shape == (4,)
    torch.testing.assert_close(prior.log_prob(z), expected)


def test_ancestral_samples_have_the_moments_of_the_transition() -> None:
    """4000 draws of a one-step change: the mean misses by 5 standard errors once in 10^6."""
    model = neural_deep()
    u = torch.zeros(2, 1, dtype=torch.float64)
    z = MarkovSequence(model, 2, u).sample((4000,))
    white = (z[:, 1] - model.transition(z[:, 0], u[1]).mean) / model.transition(
        z[:, 0], u[1]
    ).variance.sqrt()
    assert white.mean(0).abs().max() < 5 / 4000**0.5
    assert (white.var(0) - 1).abs().max() < 5 * (2 / 4000) ** 0.5


def test_missing_components_of_a_full_normal_are_marginalised() -> None:
    factor = torch.randn(5, 3, 3, dtype=torch.float64)
    cov = factor @ factor.mT + 0.1 * torch.eye(3, dtype=torch.float64)
    mean, y = torch.randn(2, 5, 3, dtype=torch.float64)
    y[0, 1] = y[1, 0] = y[1, 2] = y[2] = torch.nan
    got = observed_log_prob(MultivariateNormal(mean, cov), y)
    for i in range(5):
        keep = ~torch.isnan(y[i])
        if not keep.any():
            assert got[i] == 0
            continue
        marginal = MultivariateNormal(mean[i, keep], cov[i][keep][:, keep])
        torch.testing.assert_close(got[i], marginal.log_prob(y[i, keep]))


def test_missing_components_of_independent_ones_add_nothing() -> None:
    mean = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    y = torch.randn(4, 2, dtype=torch.float64)
    y[1, 0] = y[2] = torch.nan
    got = observed_log_prob(Independent(Normal(mean, 2.0), 1), y)
    expected = Normal(mean, 2.0).log_prob(y.nan_to_num()).where(~y.isnan(), 0.0).sum(-1)
    assert torch.equal(got, expected)
    (gradient,) = torch.autograd.grad(got.sum(), mean)
    assert gradient[1, 0] == 0
    assert torch.equal(gradient[2], torch.zeros(2, dtype=torch.float64))


def test_coupled_emission_refuses_partly_observed_steps() -> None:
    class Pair(Categorical):
        def log_prob(self, value: torch.Tensor) -> torch.Tensor:
            return super().log_prob(value[..., 0])

    y = torch.tensor([[0.0, torch.nan]])
    with pytest.raises(ValueError, match="`y` has steps observed in part"):
        observed_log_prob(Pair(logits=torch.zeros(1, 3)), y)


def test_observed_steps_end_at_the_last_observation() -> None:
    y = torch.full((2, 4, 2), torch.nan)
    y[0, 1, 0] = 1.0
    assert observed_steps(y).tolist() == [[True, True, False, False], [False] * 4]


@pytest.mark.parametrize("conditioned", [True, False])
def test_the_program_has_two_sites(conditioned: bool) -> None:
    model = neural_deep()
    series = gappy_series(model)
    trace = pyro.poutine.trace(joint).get_trace(model, series, observed=conditioned)
    sites: dict[str, Any] = dict(trace.nodes)
    names = [name for name, site in sites.items() if site["type"] == "sample"]
    assert [name for name in names if not name.startswith("series")] == ["z", "y"]
    assert sites["y"]["is_observed"] is conditioned
    assert sites["y"]["value"].shape == (3, 12, 2)


def test_generator_repeats_and_leaves_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    draws = []
    for _ in range(2):
        with seeded(torch.Generator().manual_seed(3)):
            draws.append(torch.randn(4))
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(before, torch.get_rng_state())


def test_user_predictive_draws_from_prior_and_posterior() -> None:
    with pyro.settings.context(module_local_params=True):
        model = neural_deep()
        series = gappy_series(model)
        prior = Predictive(model, num_samples=7, parallel=True)(None, series.u)
        free = neural_deep(inputs=0)
        serial = Predictive(free, num_samples=2)(time=5, batch_shape=(3,))
    assert prior["z"].shape == (7, 3, 12, 2)
    assert prior["y"].shape == (7, 3, 12, 2)
    assert serial["y"].shape == (2, 3, 5, 2)


def test_length_must_be_known() -> None:
    with pytest.raises(ValueError, match="`time` is needed"):
        neural_deep(inputs=0)()


def test_series_of_any_batch_shape_have_one_density_each() -> None:
    model = neural_deep()
    one = gappy_series(model, batch=6)
    two = Series(one.y.reshape(2, 3, 12, 2), one.u.reshape(2, 3, 12, 1))  # type: ignore[union-attr]
    z = torch.randn(6, 12, 2, dtype=torch.float64)
    flat = MarkovSequence(model, 12, one.u).log_prob(z)
    deep = MarkovSequence(model, 12, two.u).log_prob(z.reshape(2, 3, 12, 2))
    torch.testing.assert_close(deep.reshape(-1), flat)
