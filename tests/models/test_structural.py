"""Structural models against statsmodels, the dense joint Gaussian and the books."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from deepssm.core.model import Series
from deepssm.inference.kalman.method import Kalman
from deepssm.models.structural.model import Structural
from deepssm.models.structural.regression import Autoregressive, Cycle, Regression
from deepssm.models.structural.trend_season import (
    DampedTrend,
    DummySeasonal,
    LocalLevel,
    LocalLinearTrend,
    Seasonal,
)

from .. import oracles


def series(time: int = 40, inputs: int = 0, seed: int = 0) -> Series:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(time, 1, generator=generator, dtype=torch.float64).cumsum(0)
    y = y + 2 * torch.sin(torch.arange(time) * 2 * math.pi / 6)[:, None]
    u = torch.randn(time, inputs, generator=generator, dtype=torch.float64) if inputs else None
    return Series(oracles.punch_holes(y, 0.15, seed), u)


def statsmodels_log_likelihood(data: Series, params: list[float], **kwargs: object) -> float:
    statespace = pytest.importorskip("statsmodels.tsa.statespace.structural")
    exog = None if data.u is None else data.u.numpy()
    model = statespace.UnobservedComponents(
        data.y[:, 0].numpy(), exog=exog, use_exact_diffuse=True, mle_regression=False, **kwargs
    )
    if "cycle" in kwargs:  # by default statsmodels starts the cycle diffuse too
        initialization = pytest.importorskip("statsmodels.tsa.statespace.initialization")
        start = initialization.Initialization(3)
        start.set(0, "diffuse")
        start.set((1, 3), "stationary")
        model.ssm.initialization = start
    return float(model.loglike(params))


FREQUENCY = 2 * math.pi / 9
CASES = {
    "local level": (LocalLevel(0.4, noise_variance=0.7), 0, [0.7, 0.4], {"level": "llevel"}),
    "trend": (
        LocalLinearTrend(0.4, 0.1, noise_variance=0.7),
        0,
        [0.7, 0.4, 0.1],
        {"level": "lltrend"},
    ),
    "dummy season": (
        LocalLevel(0.4, noise_variance=0.7) + DummySeasonal(6, 0.2),
        0,
        [0.7, 0.4, 0.2],
        {"level": "llevel", "seasonal": 6},
    ),
    "Fourier season, even period": (
        LocalLevel(0.4, noise_variance=0.7) + Seasonal(6, variance=0.2),
        0,
        [0.7, 0.4, 0.2],
        {"level": "llevel", "freq_seasonal": [{"period": 6}]},
    ),
    "Fourier season, two harmonics": (
        LocalLevel(0.4, noise_variance=0.7) + Seasonal(7.3, 2, variance=0.2),
        0,
        [0.7, 0.4, 0.2],
        {"level": "llevel", "freq_seasonal": [{"period": 7.3, "harmonics": 2}]},
    ),
    "cycle": (
        LocalLevel(0.4, noise_variance=0.7) + Cycle(9.0, 0.8, 0.3),
        0,
        [0.7, 0.4, 0.3, FREQUENCY, 0.8],
        {"level": "llevel", "cycle": True, "stochastic_cycle": True, "damped_cycle": True},
    ),
    "regression": (
        LocalLevel(0.4, noise_variance=0.7) + Regression(2),
        2,
        [0.7, 0.4],
        {"level": "llevel"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_exact_diffuse_likelihood_is_that_of_statsmodels(case: str) -> None:
    model, inputs, params, kwargs = CASES[case]
    data = series(inputs=inputs)
    ours = Kalman().log_likelihood(model, data).sum().item()
    assert ours == pytest.approx(statsmodels_log_likelihood(data, params, **kwargs), abs=1e-7)


def everything() -> Structural:
    trend = DampedTrend(0.3, 0.2, 0.8, noise_variance=0.5)
    cycle = Cycle(11.0, 0.7, 0.4) + Autoregressive(
        2, 0.3, partial_autocorrelations=torch.tensor([0.6, -0.4])
    )
    regression = Regression(2, variance=torch.tensor([0.1, 0.05]))
    return trend + Seasonal(5, variance=0.1) + cycle + regression


def test_all_components_together_agree_with_the_dense_joint() -> None:
    model, data = everything(), series(25, inputs=2, seed=1)
    params = model.linear_parameters(data.u, None)
    torch.testing.assert_close(
        Kalman().log_likelihood(model, data).sum(), oracles.log_likelihood(params, data.y).sum()
    )


def test_autoregression_is_the_stationary_process_of_its_coefficients() -> None:
    """The autocovariances solve the Yule-Walker equations, and the start has them."""
    model = Autoregressive(3, 0.7, partial_autocorrelations=torch.tensor([0.5, -0.3, 0.4]))
    phi, cov = model.coefficients, model.start().cov
    gamma = torch.cat([cov[0], (phi * cov[0].flip(0)).sum()[None]])
    assert (gamma[0] - (phi * gamma[1:]).sum()).item() == pytest.approx(0.7)
    for lag in (1, 2, 3):
        expected = sum(phi[j] * gamma[abs(lag - j - 1)] for j in range(3))
        assert gamma[lag].item() == pytest.approx(float(expected))
    assert phi[2].item() == pytest.approx(0.4)


def test_series_shape_gives_every_series_its_own_parameters() -> None:
    model = LocalLinearTrend(series_shape=(3,)) + Cycle(series_shape=(3,))
    y = torch.stack([series(20, seed=s).y * 10.0**s for s in range(3)])
    model.initialize_from(Series(y))
    assert model.noise_variance.shape == (3,)
    together = Kalman().log_likelihood(model, Series(y)).sum(-1)
    for i in range(3):
        single = LocalLinearTrend() + Cycle()
        single.initialize_from(Series(y[i]))
        alone = Kalman().log_likelihood(single, Series(y[i])).sum()
        torch.testing.assert_close(together[i], alone)


def test_a_sum_is_a_new_model_with_one_noise() -> None:
    level, season = LocalLevel(), Seasonal(4, variance=0.0)
    model = level + season
    names = {name for name, _ in model.named_parameters()}
    assert names == {"noise_variance_unconstrained", "level.level_variance_unconstrained"}
    model.parts["level"].level_variance = torch.tensor(9.0)
    assert level.level_variance.item() == 1.0
    assert level.noise_variance.item() == 1.0, "the operand is still a model of its own"


def test_state_names_and_repeated_components() -> None:
    model = LocalLinearTrend() + Seasonal(7, 1, name="weekly") + Seasonal(30, 1, name="weekly")
    assert model.state_names[:2] == ("trend.level", "trend.slope")
    assert model.state_names[4:] == ("weekly_2.cos1", "weekly_2.sin1")
    assert LocalLevel().state_names == ("level",)


def test_components_add_up_to_the_signal_and_have_the_oracles_variances() -> None:
    model, data = everything(), series(25, inputs=2, seed=1)
    smoothed = Kalman().smooth(model, data)
    params = model.linear_parameters(data.u, None)
    parts = model.components(smoothed, data.u)
    signal = (params.emission.matrix @ smoothed.mean[..., None])[..., 0, 0]
    torch.testing.assert_close(parts.mean.sum(-1), signal)
    assert parts.names == tuple(model.parts)
    cov = oracles.smooth(params, data.y).cov
    torch.testing.assert_close(parts.variance[:, 0], cov[:, 0, 0])
    assert data.u is not None
    design = torch.cat([torch.zeros(25, 10), data.u], -1)
    position = list(model.parts).index("regression")
    expected = (design[:, None, :] @ cov @ design[:, :, None])[:, 0, 0]
    torch.testing.assert_close(parts.variance[:, position], expected)


def test_bands_and_frames_of_a_decomposition() -> None:
    data = series(12)
    model = LocalLevel(0.3, noise_variance=0.5) + Seasonal(4, variance=0.1)
    parts = model.components(Kalman().smooth(model, data))
    lower, upper = parts.band(0.95)
    torch.testing.assert_close(upper - lower, 2 * 1.959963984540054 * parts.variance.sqrt())
    frame = parts.to_frame(0.95)
    assert list(frame.columns[:4]) == ["level_mean", "level_sd", "level_lower", "level_upper"]
    assert frame["seasonal_upper"].iloc[3] == pytest.approx(upper[3, 1].item())
    with pytest.raises(ValueError, match="`level` must lie strictly between 0 and 1"):
        parts.band(1.5)


def test_starting_values_follow_the_units_of_the_data() -> None:
    def start(y: Tensor) -> list[float]:
        model = LocalLinearTrend() + Seasonal(6) + Cycle() + Autoregressive(2)
        model.initialize_from(Series(y))
        return [model.noise_variance.item(), model.parts["cycle"].variance.item()]

    y = series().y
    for small, large in zip(start(y), start(100 * y), strict=True):
        assert large == pytest.approx(1e4 * small)


def test_starting_values_leave_fixed_and_frozen_parameters_alone() -> None:
    model = LocalLinearTrend(level_variance=0.25)
    model.slope_variance_unconstrained.requires_grad_(False)
    model.initialize_from(Series(100 * series().y))
    assert model.level_variance.item() == 0.25
    assert model.slope_variance.item() == 1.0
    assert model.noise_variance.item() > 100


@pytest.mark.parametrize("y", [torch.full((5, 1), 3.0), torch.full((1, 1), 2.0)])
def test_constant_or_single_observations_still_give_positive_starts(y: Tensor) -> None:
    model = LocalLevel()
    model.initialize_from(Series(y.double()))
    assert model.noise_variance.item() > 0 and model.level_variance.item() > 0


def test_densities_agree_with_the_matrices() -> None:
    model, data = everything(), series(8, inputs=2)
    params = model.linear_parameters(data.u, None)
    z = torch.randn(8, model.state_dim, dtype=torch.float64)
    all_steps = model.emission(z, data.u)
    assert data.u is not None
    one_step = model.emission(z[3], data.u[3])
    torch.testing.assert_close(all_steps.mean[3], one_step.mean)
    torch.testing.assert_close(all_steps.mean, (params.emission.matrix @ z[..., None])[..., 0])
    moved = model.transition(z[0])
    torch.testing.assert_close(moved.mean, params.transition.matrix[0] @ z[0])
    torch.testing.assert_close(moved.covariance_matrix, params.transition.cov[0])


def test_a_diffuse_start_cannot_be_sampled() -> None:
    with pytest.raises(ValueError, match="infinite variance in 1 direction"):
        LocalLevel().initial()
    assert Cycle(9.0, 0.8, 0.3).initial().mean.shape == (2,)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="`level_variance` must be a variance"):
        LocalLevel(-1.0)
    with pytest.raises(ValueError, match="`damping` must be between 0 and 1"):
        DampedTrend(damping=1.5)
    with pytest.raises(ValueError, match="`period` must be at least 2"):
        Seasonal(1.0)
    with pytest.raises(ValueError, match="`harmonics` must be between 1 and 3"):
        Seasonal(7, 4)
    with pytest.raises(ValueError, match="`period` must be a whole number"):
        DummySeasonal(2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`bounds` must be two periods"):
        Cycle(bounds=(5.0, 3.0))
    with pytest.raises(ValueError, match="`period` must be at least 2 steps"):
        Cycle(1.0)
    with pytest.raises(ValueError, match="`order` must be at least 1"):
        Autoregressive(0)
    with pytest.raises(ValueError, match="`size` must be at least 1"):
        Regression(0)
    with pytest.raises(ValueError, match="`input_names` must name the 2 inputs"):
        Regression(2, input_names=("price",))
    with pytest.raises(ValueError, match="`name` must be a Python name"):
        Seasonal(7, name="day of week")
    with pytest.raises(ValueError, match="`noise_variance` is fixed on both sides"):
        _ = LocalLevel(noise_variance=1.0) + Seasonal(4, noise_variance=2.0)
