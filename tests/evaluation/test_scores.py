"""Every score against a closed form, brute force, scipy or scoringrules."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scoringrules
import torch
from scipy import stats
from scipy.integrate import quad
from torch import Tensor
from torch.distributions import MultivariateNormal

from deepssm import evaluation as ev
from deepssm.core.results import Forecast

NAN = float("nan")


def _rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=_rng(seed), dtype=torch.float64)


def _cov(*shape: int, seed: int = 0) -> Tensor:
    root = _randn(*shape, shape[-1], seed=seed)
    return root @ root.mT + 0.3 * torch.eye(shape[-1], dtype=torch.float64)


@pytest.mark.parametrize(("y", "mean", "sd"), [(0.3, 0.0, 1.0), (-4.0, 1.5, 0.7), (9.0, 8.0, 5.0)])
def test_gaussian_crps_is_the_integral_of_squared_distances(
    y: float, mean: float, sd: float
) -> None:
    law = stats.norm(mean, sd)
    below = quad(lambda x: float(law.cdf(x)) ** 2, -np.inf, y, epsabs=1e-11)[0]
    above = quad(lambda x: float(law.sf(x)) ** 2, y, np.inf, epsabs=1e-11)[0]
    found = ev.crps_gaussian(*(torch.tensor(v, dtype=torch.float64) for v in (y, mean, sd)))
    assert found.item() == pytest.approx(below + above, abs=1e-9)
    expected = float(scoringrules.crps_normal(y, mean, sd, backend="numpy"))
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_sample_crps_is_the_fair_double_sum() -> None:
    y, samples = _randn(4, 3), _randn(11, 4, 3, seed=1)
    pairs = (samples[:, None] - samples[None]).abs().sum((0, 1)) / (11 * 10)
    expected = (samples - y).abs().mean(0) - pairs / 2
    torch.testing.assert_close(ev.crps_samples(y, samples), expected, rtol=1e-12, atol=0)


def test_sample_crps_is_unbiased_for_the_gaussian_one() -> None:
    """Mean of 4000 estimates from 5 draws; fails at a random seed once in 1e4."""
    y = torch.full((4000,), 0.7, dtype=torch.float64)
    found = ev.crps_samples(y, _randn(5, 4000, seed=2))
    exact = ev.crps_gaussian(y[:1], torch.zeros_like(y[:1]), torch.ones_like(y[:1])).item()
    assert abs(found.mean().item() - exact) < 3.9 * found.std().item() / 4000**0.5


@pytest.mark.parametrize("obs", [1, 3])
def test_energy_score_is_that_of_scoringrules(obs: int) -> None:
    y, samples = _randn(2, 4, obs), _randn(9, 2, 4, obs, seed=1)
    expected = scoringrules.es_ensemble(
        y.numpy(), samples.movedim(0, -2).numpy(), estimator="fair", backend="numpy"
    )
    found = ev.energy_score(y, samples)
    torch.testing.assert_close(found, torch.as_tensor(expected), rtol=1e-12, atol=1e-14)
    if obs == 1:
        torch.testing.assert_close(
            ev.energy_score(y, samples), ev.crps_samples(y, samples)[..., 0]
        )


def test_energy_score_leaves_missing_components_out() -> None:
    y, samples = _randn(3, 2), _randn(7, 3, 2, seed=1)
    y[0, 1], y[1] = NAN, NAN
    found = ev.energy_score(y, samples)
    torch.testing.assert_close(found[0], ev.energy_score(y[0, :1], samples[:, 0, :1]))
    assert found[1].isnan() and found[2].isfinite()


def test_log_score_is_the_density_of_the_components_seen() -> None:
    y, mean, cov = _randn(4, 3), _randn(4, 3, seed=1), _cov(4, 3, seed=2)
    y[1, 0], y[2, :2], y[3] = NAN, NAN, NAN
    found = ev.log_score(y, mean, cov)
    for t in range(3):
        seen = ~y[t].isnan()
        law = MultivariateNormal(mean[t][seen], cov[t][seen][:, seen])
        torch.testing.assert_close(found[t], -law.log_prob(y[t][seen]))
    assert found[3].isnan()


def test_coverage_and_interval_score_skip_what_was_not_seen() -> None:
    y, lower, upper = (torch.tensor(v) for v in ([1.0, 5.0, NAN, 2.0], [0.0] * 4, [2.0] * 4))
    assert ev.covered(y, lower, upper).nan_to_num(-1).tolist() == [1.0, 0.0, -1.0, 1.0]
    found = ev.interval_score(y, lower, upper, 0.9)
    torch.testing.assert_close(found, torch.tensor([2.0, 62.0, NAN, 2.0]), equal_nan=True)


def _gaussian(mean: Tensor, cov: Tensor, samples: Tensor | None = None) -> Forecast:
    return Forecast(mean, cov, samples)


def test_weighted_interval_score_is_that_of_scoringrules_and_tends_to_the_crps() -> None:
    forecast, y = _gaussian(_randn(6, 1), _cov(6, 1)), _randn(6, 1, seed=5)
    levels = (0.2, 0.5, 0.9)
    ends = [forecast.interval(level) for level in levels]
    expected = scoringrules.weighted_interval_score(
        y.numpy(),
        forecast.quantile(0.5).numpy(),
        torch.stack([lower for lower, _ in ends], -1).numpy(),
        torch.stack([upper for _, upper in ends], -1).numpy(),
        np.array([1 - level for level in levels]),
    )
    found = ev.weighted_interval_score(forecast, y, levels)
    torch.testing.assert_close(found, torch.as_tensor(expected), rtol=1e-12, atol=0)
    many = ev.weighted_interval_score(forecast, y, [(i + 0.5) / 500 for i in range(500)])
    torch.testing.assert_close(many, ev.crps(forecast, y), rtol=5e-3, atol=0)


def test_gaussian_pit_is_the_distribution_function() -> None:
    y, mean, sd = _randn(20), _randn(20, seed=1), _randn(20, seed=2).exp()
    y[3] = NAN
    expected = stats.norm.cdf(y.numpy(), mean.numpy(), sd.numpy())
    torch.testing.assert_close(
        ev.pit_gaussian(y, mean, sd), torch.as_tensor(expected), equal_nan=True
    )


def test_sample_pit_is_uniform_for_few_draws_of_counts() -> None:
    """Kolmogorov-Smirnov at 1e-4: a random seed fails so often."""
    rate = torch.full((3001, 8), 1.5, dtype=torch.float64)
    counts = torch.poisson(rate, generator=_rng(3))
    y, samples = counts[:-1, 0], counts[:-1, 1:].T
    y[7] = NAN
    found = ev.pit_samples(y, samples, _rng(4))
    assert found[7].isnan() and int(found.isnan().sum()) == 1
    assert stats.kstest(found[~found.isnan()].numpy(), "uniform").pvalue > 1e-4


def test_forecasts_with_draws_are_scored_by_them_and_others_by_moments() -> None:
    mean, cov, y = _randn(5, 2), torch.eye(2, dtype=torch.float64).expand(5, 2, 2), _randn(5, 2)
    samples = mean + 3 * _randn(50, 5, 2, seed=9)
    exact, drawn = _gaussian(mean, cov), _gaussian(mean, cov, samples)
    torch.testing.assert_close(ev.crps(exact, y), ev.crps_gaussian(y, mean, torch.ones_like(y)))
    torch.testing.assert_close(ev.crps(drawn, y), ev.crps_samples(y, samples))
    torch.testing.assert_close(ev.pit(exact, y), ev.pit_gaussian(y, mean, torch.ones_like(y)))
    torch.testing.assert_close(ev.pit(drawn, y, _rng(1)), ev.pit_samples(y, samples, _rng(1)))


def test_mase_counts_complete_pairs_only() -> None:
    past = torch.tensor([1.0, 2.0, NAN, 4.0, 7.0, 9.0])[:, None]
    assert ev.naive_error(past).tolist() == [2.0]
    assert ev.naive_error(past, 2).tolist() == [pytest.approx((2.0 + 5.0) / 2)]
    y, mean = torch.tensor([[5.0], [NAN]]), torch.tensor([[1.0], [1.0]])
    found = ev.scaled_error(y, mean, ev.naive_error(past))
    torch.testing.assert_close(found, torch.tensor([[2.0], [NAN]]), equal_nan=True)


@pytest.mark.parametrize("score", [ev.crps_samples, ev.energy_score])
def test_one_draw_is_not_enough(score: object) -> None:
    assert callable(score)
    with pytest.raises(ValueError, match="`samples` must hold two or more draws, got 1"):
        score(torch.zeros(3, 2), torch.zeros(1, 3, 2))


@pytest.mark.parametrize("period", [0, 4])
def test_a_season_must_fit_into_the_past(period: int) -> None:
    with pytest.raises(ValueError, match="`period` must be at least 1 and less than the 4 steps"):
        ev.naive_error(torch.zeros(4, 1), period)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_keep_dtype_and_are_missing_where_y_is(dtype: torch.dtype) -> None:
    y = torch.tensor([[0.1], [NAN]], dtype=dtype)
    forecast = _gaussian(torch.zeros(2, 1, dtype=dtype), torch.ones(2, 1, 1, dtype=dtype))
    drawn = forecast._replace(samples=_randn(9, 2, 1).to(dtype))
    for score in (
        ev.crps(forecast, y),
        ev.crps(drawn, y),
        ev.weighted_interval_score(forecast, y),
        ev.pit(forecast, y),
        ev.pit(drawn, y),
        ev.covered(y, *forecast.interval()),
    ):
        assert score.dtype == dtype and score.shape == y.shape
        assert score[0].isfinite() and math.isnan(score[1].item())
