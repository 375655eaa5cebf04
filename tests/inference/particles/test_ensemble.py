from __future__ import annotations

import math

import pytest
import torch

from deepssm.core.model import Series
from deepssm.inference.gaussian.methods import Extended
from deepssm.inference.particles.ensemble import Ensemble, gaspari_cohn
from deepssm.models.gaussian.nonlinear import NonlinearGaussian
from tests.nonlinear_models import CASE_4, NAN, case_4, observations, pendulum

UPDATES = ["square_root", "deterministic", "stochastic"]


@pytest.mark.parametrize("update", ["square_root", "stochastic"])
def test_converges_to_the_kalman_filter_at_the_root_rate(update: str) -> None:
    """Slope of log error against log size, 8 seeds a size; a correct filter gives -0.5 +- 0.15.

    The errors of 8 x 12 numbers at three sizes spread the slope by about 0.04 (10 other seeds).
    """
    exact = Extended().smooth(case_4(), Series(CASE_4))
    sizes, errors = (100, 1_000, 10_000), []
    for size in sizes:
        square = 0.0
        for seed in range(8):
            method = Ensemble(size, update, seed=seed)  # type: ignore[arg-type]
            got = method.smooth(case_4(), Series(CASE_4))
            square += (got.mean - exact.mean).square().mean().item()
            square += (got.log_likelihood - exact.log_likelihood).square().mean().item()
        errors.append(math.log(square) / 2)
    slope = (errors[-1] - errors[0]) / math.log(sizes[-1] / sizes[0])
    assert -0.65 < slope < -0.35, slope


@pytest.mark.parametrize("update", UPDATES)
def test_large_ensembles_have_the_exact_moments(update: str) -> None:
    """40 000 members; 0.03 is at least 5 standard errors. Half gains keep only the mean exact."""
    method = Ensemble(40_000, update)  # type: ignore[arg-type]
    got, exact = (
        method.filter(case_4(), Series(CASE_4)),
        Extended().filter(case_4(), Series(CASE_4)),
    )
    first = slice(0, 1) if update == "deterministic" else slice(None)
    torch.testing.assert_close(got.mean[first], exact.mean[first], rtol=0, atol=0.03)
    if update != "deterministic":
        torch.testing.assert_close(got.cov, exact.cov, rtol=0, atol=0.03)
        smoothed = method.smooth(case_4(), Series(CASE_4))
        expected = Extended().smooth(case_4(), Series(CASE_4))
        torch.testing.assert_close(smoothed.cov, expected.cov, rtol=0, atol=0.03)
        torch.testing.assert_close(smoothed.cross_cov, expected.cross_cov, rtol=0, atol=0.03)
    assert got.log_likelihood[3] == 0


def test_square_root_updates_are_exact_given_the_predicted_ensemble() -> None:
    """Oracle: the Kalman update of the sample moments, for one step and a small ensemble."""
    got = Ensemble(7).filter(case_4(), Series(CASE_4[:1]))
    C = torch.tensor([[1.0, 0.3], [0.5, 1.0]], dtype=torch.float64)
    P, model = got.predicted_cov[0], case_4()
    S = C @ P @ C.mT + model.R
    K = P @ C.mT @ torch.linalg.inv(S)
    expected = model.emission_function(got.predicted_mean[0], None)
    mean = got.predicted_mean[0] + K @ (CASE_4[0] - expected)
    torch.testing.assert_close(got.mean[0], mean, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(got.cov[0], P - K @ S @ K.mT, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("update", UPDATES)
def test_batches_gaps_and_forecasts(update: str) -> None:
    model = pendulum(P0=[[0.02, 0.002], [0.002, 0.02]]).requires_grad_(False)
    y = observations(40, 3)
    y[0, 5:9] = NAN
    y[:, -4:] = NAN
    method = Ensemble(2_000, update)  # type: ignore[arg-type]
    got, near = method.smooth(model, Series(y)), Extended().smooth(model, Series(y))
    assert (got.mean - near.mean).abs().max() < 0.25
    assert (got.log_likelihood[0, 5:9] == 0).all()
    forecast = method.forecast(model, Series(y), 4, 500, torch.Generator().manual_seed(0))
    assert forecast.samples is not None
    assert forecast.samples.shape == (500, 3, 4, 1)
    expected = Extended().forecast(model, Series(y), 4)
    torch.testing.assert_close(forecast.mean, expected.mean, rtol=0, atol=0.1)
    torch.testing.assert_close(forecast.samples.mean(0), forecast.mean, rtol=0, atol=0.15)
    paths = method.sample_posterior(model, Series(y), 6, torch.Generator().manual_seed(0))
    assert paths.shape == (6, 3, 40, 2)
    again = method.filter(model, Series(y))
    assert torch.equal(again.mean, method.filter(model, Series(y)).mean)


def _chain(size: int) -> NonlinearGaussian:
    eye = torch.eye(size, dtype=torch.float64)
    return NonlinearGaussian(
        lambda z, u, dt: 0.95 * z,
        lambda z, u: z,
        Q=0.1 * eye,
        R=0.5 * eye,
        m0=[0.0] * size,
        P0=eye,
    )


@pytest.mark.parametrize("update", ["deterministic", "stochastic"])
def test_localization_removes_spurious_correlations(update: str) -> None:
    """40 independent states, 12 members: without a taper the filter falls apart."""
    g = torch.Generator().manual_seed(0)
    z = torch.zeros(40, dtype=torch.float64)
    truth, model = [], _chain(40)
    for _ in range(30):
        z = 0.95 * z + 0.1**0.5 * torch.randn(40, generator=g, dtype=torch.float64)
        truth.append(z)
    path = torch.stack(truth)
    y = path + 0.5**0.5 * torch.randn(30, 40, generator=g, dtype=torch.float64)
    eye = torch.eye(40, dtype=torch.float64)
    local = Ensemble(12, update, localization=(eye, eye))  # type: ignore[arg-type]
    free = Ensemble(12, update)  # type: ignore[arg-type]
    error = (local.filter(model, Series(y)).mean - path).square().mean().sqrt()
    spoilt = (free.filter(model, Series(y)).mean - path).square().mean().sqrt()
    exact = (Extended().filter(model, Series(y)).mean - path).square().mean().sqrt()
    assert error < 1.25 * exact
    assert error < 0.8 * spoilt


def test_inflation_widens_the_prediction() -> None:
    plain = Ensemble(50).filter(case_4(), Series(CASE_4[:1]))
    wide = Ensemble(50, inflation=1.1).filter(case_4(), Series(CASE_4[:1]))
    torch.testing.assert_close(wide.predicted_cov, 1.21 * plain.predicted_cov)


def test_the_taper_is_a_smooth_correlation() -> None:
    grid = torch.linspace(0, 3, 61, dtype=torch.float64)
    taper = gaspari_cohn(grid)
    assert taper[0] == 1
    assert (taper[grid >= 2] == 0).all()
    assert (taper.diff() <= 0).all()
    torch.testing.assert_close(taper[20].item(), 5 / 24)
    matrix = gaspari_cohn(grid[:, None] - grid)
    assert torch.linalg.eigvalsh(matrix).min() > -1e-10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 1}, "`size` must be 2"),
        ({"inflation": 0.9}, "`inflation` must be 1"),
        ({"localization": (torch.ones(1), torch.ones(1))}, "`localization` does not fit"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ensemble(**options)  # type: ignore[arg-type]
