"""NUTS over exact marginal likelihoods against conjugate posteriors and its own promises."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC
from pyro.infer import NUTS as PyroNUTS
from pyro.nn import PyroParam, PyroSample
from torch import Tensor
from torch.distributions import constraints

import deepssm as ds
from deepssm.core.model import Series
from deepssm.inference.estimation.mcmc import NUTS
from deepssm.inference.estimation.observation_distribution import ObservationDistribution
from deepssm.inference.estimation.parameter_average import ParameterAverage
from deepssm.inference.kalman.method import Kalman
from deepssm.models import LinearGaussian, LocalLevel

from ... import oracles


def sample(size: int = 15) -> Tensor:
    g = torch.Generator().manual_seed(2)
    return 1.0 + 2.0 * torch.randn(size, 1, generator=g, dtype=torch.float64)


def normal_mean() -> LinearGaussian:
    """`y ~ N(d, 4)`, `d ~ N(0, 0.5^2)`: the posterior is normal with known moments."""
    prior = dist.Normal(torch.zeros(1).double(), torch.full((1,), 0.5).double()).to_event(1)
    zero = [[0.0]]
    return LinearGaussian(zero, zero, zero, [[4.0]], d=PyroSample(prior), m0=[0.0], P0=zero)


def posterior(y: Tensor) -> tuple[float, float]:
    precision = len(y) / 4 + 1 / 0.25
    return (y.sum() / 4).item() / precision, precision**-0.5


def nuts(model: Any, y: Tensor, **kwargs: Any) -> Any:  # noqa: ANN401
    generator = torch.Generator().manual_seed(3)
    options: dict[str, Any] = {"num_samples": 100, "warmup": 40, "chains": 2} | kwargs
    options = {"inference": Kalman()} | options
    return NUTS(**options).fit(model, Series(y), progress=False, generator=generator)


@pytest.fixture(scope="module")
def learned() -> tuple[LinearGaussian, Any]:
    model = normal_mean()
    return model, nuts(model, sample())


def test_draws_have_the_conjugate_moments(learned: tuple[LinearGaussian, Any]) -> None:
    """Means within 5 Monte Carlo errors (failure rate below 1e-5), deviations within 30 %."""
    model, result = learned
    mean, deviation = posterior(sample())
    draws = result.method.draws["d"]
    assert draws.shape == (2, 100, 1)
    effective = result.diagnostics["effective_sample_size"]
    assert abs(draws.mean().item() - mean) < 5 * deviation / math.sqrt(effective)
    assert result.standard_errors["d"].item() == pytest.approx(deviation, rel=0.3)
    assert model.d.item() == pytest.approx(draws.mean().item())
    assert 0.9 < result.diagnostics["r_hat"] < 1.1


def test_forecasts_include_the_uncertainty_of_the_parameters(
    learned: tuple[LinearGaussian, Any],
) -> None:
    """The mixture is `N(E d, 4 + Var d)` under the draws that were averaged."""
    model, result = learned
    method = result.method
    y = torch.cat([sample(), torch.full((2, 1), torch.nan, dtype=torch.float64)])
    before = model.d.detach().clone()
    forecast = method.forecast(model, Series(y), 2, num_samples=120)
    chosen = method.draws["d"].flatten(0, 1)[torch.linspace(0, 199, 50).round().long()]
    assert forecast.mean[1].item() == pytest.approx(chosen.mean().item())
    assert forecast.cov[1].item() == pytest.approx(4 + chosen.var(correction=0).item())
    assert forecast.samples is not None and forecast.samples.shape == (120, 2, 1)
    assert torch.equal(model.d.detach(), before), "the parameters are put back"


def test_mixture_moments_and_likelihoods_are_those_of_the_draws() -> None:
    """Two draws of a level variance, checked against the dense joint of each."""
    model = LocalLevel(noise_variance=1.0)
    draws = torch.tensor([[0.2, 3.0]], dtype=torch.float64)
    from deepssm.inference.estimation.objective import Prior

    places = {"level_variance": Prior(model, "level_variance", dist.Normal(0.0, 1.0))}
    method = ParameterAverage(Kalman(), model, places, {"level_variance": draws})
    series = Series(oracles.punch_holes(sample(6), 0.2, 1))
    smoothed, filtered = method.smooth(model, series), method.filter(model, series)
    each = []
    for value in draws[0]:
        single = LocalLevel(value, noise_variance=1.0)
        each.append(oracles.smooth(single.linear_parameters(), series.y))
    mean = (each[0].mean + each[1].mean) / 2
    gaps = [x.mean - mean for x in each]
    cov = sum(x.cov + g[..., None] * g[..., None, :] for x, g in zip(each, gaps, strict=True)) / 2
    torch.testing.assert_close(smoothed.mean, mean)
    torch.testing.assert_close(smoothed.cov, cov)
    lagged = sum(
        x.cross_cov[1:] + g[1:, :, None] * g[:-1, None, :] for x, g in zip(each, gaps, strict=True)
    )
    torch.testing.assert_close(smoothed.cross_cov[1:], lagged / 2)
    totals = torch.stack(
        [
            oracles.log_likelihood(
                LocalLevel(value, noise_variance=1.0).linear_parameters(), series.y
            ).sum()
            for value in draws[0]
        ]
    )
    expected = totals.logsumexp(0) - math.log(2)
    torch.testing.assert_close(method.log_likelihood(model, series).sum(), expected)
    torch.testing.assert_close(filtered.mean[-1], mean[-1])
    paths = method.sample_posterior(model, series, 5, torch.Generator().manual_seed(0))
    assert paths.shape == (5, 6, 1)


def test_priors_inside_a_sum_and_global_state_stay_clean() -> None:
    model = LocalLevel(noise_variance=4.0) + LocalLevel(0.0, name="other")
    prior = dist.LogNormal(torch.tensor(0.0).double(), torch.tensor(0.5).double())
    model.parts["level"].level_variance = PyroSample(prior)
    pyro.clear_param_store()
    state = torch.random.get_rng_state()
    result = nuts(model, sample(8), num_samples=10, warmup=10, chains=1)
    assert set(result.method.draws) == {"level.level_variance"}
    assert len(pyro.get_param_store()) == 0
    assert torch.equal(torch.random.get_rng_state(), state)
    assert any("effective draws" in text for text in result.warnings)


def test_free_parameters_need_a_prior() -> None:
    with pytest.raises(ValueError, match="no parameter of LocalLevel has one"):
        nuts(LocalLevel(), sample())
    model = normal_mean()
    model.R = PyroParam(torch.tensor([[4.0]]).double(), constraints.positive)
    hierarchical = normal_mean()
    hierarchical.d = PyroSample(lambda self: dist.Normal(self.R[0], 1.0))
    with pytest.raises(ValueError, match="prior of `d` is a function"):
        nuts(hierarchical, sample())
    with pytest.raises(ValueError, match="`R` is free but has no prior"):
        nuts(model, sample())


def test_a_series_is_one_site_of_anyones_pyro_program() -> None:
    """The conjugate posterior again, from a program written by hand."""
    y = sample()

    def program() -> None:
        d = pyro.sample("d", dist.Normal(torch.zeros(1).double(), 0.5).to_event(1))
        zero = [[0.0]]
        model = LinearGaussian(zero, zero, zero, [[4.0]], d=d, m0=[0.0], P0=zero)
        pyro.sample("y", ObservationDistribution(model, len(y), inference=Kalman()), obs=y)

    pyro.set_rng_seed(1)
    mcmc = MCMC(PyroNUTS(program), num_samples=120, warmup_steps=40, disable_progbar=True)
    mcmc.run()
    mean, deviation = posterior(y)
    assert mcmc.get_samples()["d"].mean().item() == pytest.approx(mean, abs=5 * deviation / 5)


def test_distribution_scores_and_draws_like_the_dense_joint() -> None:
    params = oracles.random_linear_gaussian(2, 2, 4, seed=3)
    (m0, P0, _), (A, b, Q), (C, d, R) = params
    model = LinearGaussian(A[0], Q[0], C[0], R[0], b=b[0], d=d[0], m0=m0, P0=P0)
    series = ObservationDistribution(model, 4, inference=Kalman())
    draws = series.sample(torch.Size([4000]))
    assert draws.shape == (4000, 4, 2) and series.event_shape == (4, 2)
    joint = oracles.joint(params, 4)
    error = draws.flatten(1).mean(0) - torch.as_tensor(joint.y_mean)
    limit = 5 * torch.as_tensor(joint.y_cov).diagonal().sqrt() / math.sqrt(4000)
    assert (error.abs() < limit).all(), "5 standard errors: fails once in 1e5"
    y = oracles.punch_holes(draws[:3], 0.2, 0)
    expected = torch.stack([oracles.log_likelihood(params, x).sum() for x in y])
    torch.testing.assert_close(series.log_prob(y), expected)


@pytest.mark.slow
def test_simulation_based_calibration_of_parameters() -> None:
    """Ranks of the true parameter among draws are uniform: chi-square over 8 bins at 1e-3.

    Source: Talts et al. (2018), arXiv 1804.06788.
    """
    g = torch.Generator().manual_seed(0)
    ranks = []
    for _ in range(64):
        true = torch.exp(0.5 * torch.randn((), generator=g, dtype=torch.float64))
        model = LinearGaussian([[0.8]], true[None, None], [[1.0]], [[1.0]], P0=[[1.0]])
        seed = int(torch.randint(2**31, (), generator=g))
        y = oracles.sample(model.linear_parameters(None, None), 12, seed)[1]
        prior = dist.LogNormal(torch.zeros(1, 1).double(), 0.5).to_event(2)
        learnt = LinearGaussian([[0.8]], PyroSample(prior), [[1.0]], [[1.0]], P0=[[1.0]])
        result = NUTS(num_samples=126, warmup=50, chains=1, inference=Kalman()).fit(
            learnt, Series(y), progress=False, generator=g
        )
        assert isinstance(result.method, ParameterAverage)
        draws = result.method.draws["Q"].flatten()[::2]
        ranks.append(int((draws < true).sum()))
    counts = torch.histc(torch.tensor(ranks, dtype=torch.float64), bins=8, min=0, max=64)
    statistic = ((counts - 8).square() / 8).sum().item()
    assert statistic < 24.32, f"chi-square {statistic:.1f} on 7 degrees of freedom"


def test_gaps_are_filled_under_the_noise_their_states_were_drawn_with() -> None:
    """Two draws of the noise, one nothing and one large: a gap's variance is the mean of both.

    Sampling error of a variance from 4000 draws is 3 %; the bound is five of them.
    """
    model = LocalLevel(1e-12, noise_variance=1.0)
    draws = torch.tensor([[1e-12, 16.0]], dtype=torch.float64)
    from deepssm.inference.estimation.objective import Prior

    places = {"noise_variance": Prior(model, "noise_variance", dist.Normal(0.0, 1.0))}
    method = ParameterAverage(Kalman(), model, places, {"noise_variance": draws})
    y = torch.full((9, 1), 3.0, dtype=torch.float64)
    y[4] = torch.nan
    g = torch.Generator().manual_seed(0)
    found = ds.impute(model, y, method=method, num_samples=4000, generator=g)
    # Given the noise, the level of the other eight observations has an eighth of its variance.
    assert found.sd[4].square().item() == pytest.approx(16 * (1 + 1 / 8) / 2, rel=0.15)
    assert float(model.noise_variance) == 1.0
