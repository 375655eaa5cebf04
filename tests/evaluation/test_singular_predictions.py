"""Scores of predictions that leave nothing to chance in some direction, and of none at all."""

from __future__ import annotations

import math

import pytest
import torch

import deepssm as ds
from deepssm import evaluation as ev
from deepssm.core.results import Forecast
from deepssm.evaluation.residuals import residuals

F64 = torch.float64


def _twins(R: list[list[float]]) -> ds.models.LinearGaussian:
    """A walk read by two sensors without noise of their own, the second one twice the first."""
    return ds.models.LinearGaussian([[1.0]], [[0.5]], [[1.0], [2.0]], R, P0=[[1.0]])


def test_a_copy_of_a_sensor_adds_nothing_to_any_score() -> None:
    """Route: the model with the first sensor alone."""
    one = torch.tensor([[0.3], [1.1], [0.4], [-0.2]], dtype=F64)
    both = torch.cat([one, 2 * one], -1)
    both[2, 0] = math.nan
    single = ds.models.LinearGaussian([[1.0]], [[0.5]], [[1.0]], [[0.25]], P0=[[1.0]])
    twins, kalman = _twins([[0.25, 0.5], [0.5, 1.0]]), ds.inference.Kalman()
    series = [ds.as_series(twins, both), ds.as_series(single, one)]
    found = [
        ev.innovations(m, s, kalman.filter(m, s))
        for m, s in zip((twins, single), series, strict=True)
    ]
    scores = [ev.log_score(s.y, x.mean, x.cov) for s, x in zip(series, found, strict=True)]
    scores[1][2] += math.log(2)  # the density of the copy, whose unit is half as large
    torch.testing.assert_close(*scores)
    torch.testing.assert_close(scores[0], -ds.log_likelihood(twins, both))
    nis = [ev.nis(x) for x in found]
    torch.testing.assert_close(nis[0].value, nis[1].value)
    assert nis[0].dof.tolist() == [1, 1, 1, 1]
    white = residuals(twins, series[0], kalman)
    torch.testing.assert_close(white.nansum(-1), residuals(single, series[1], kalman)[:, 0])
    assert white.isnan().sum().item() == 4


def test_what_cannot_be_has_no_density() -> None:
    y = torch.tensor([[1.0, 2.5]], dtype=F64)
    cov = torch.tensor([[[1.0, 2.0], [2.0, 4.0]]], dtype=F64)
    assert ev.log_score(y, torch.zeros_like(y), cov).item() == math.inf
    assert ev.normalized_squared_error(y, cov).value.item() == math.inf
    assert ev.log_score(0 * y, 0 * y, 0 * cov).item() == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_density_on_the_support(dtype: torch.dtype) -> None:
    """Route: the density of the coordinates that span the support, in the order of components."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(50, 4, 2, generator=generator, dtype=dtype)
    e = torch.randn(50, 2, 1, generator=generator, dtype=dtype)
    error, cov = (root @ e)[..., 0], root @ root.mT
    first = root[:, :2].double()
    law = torch.distributions.MultivariateNormal(torch.zeros(2, dtype=F64), first @ first.mT)
    found = ev.log_score(error, torch.zeros_like(error), cov)
    loose = 1e-7 if dtype is F64 else 5e-2
    torch.testing.assert_close(
        found.double(), -law.log_prob(error[:, :2].double()), rtol=loose, atol=loose
    )
    assert ev.normalized_squared_error(error, cov).dof.tolist() == [2] * 50


def test_certain_and_infinitely_wide_forecasts() -> None:
    y = torch.tensor([1.0, 1.0, 1.0], dtype=F64)
    sd = torch.tensor([0.0, math.inf, 1.0], dtype=F64)
    mean = torch.tensor([0.5, 0.0, 1.0], dtype=F64)
    assert ev.crps_gaussian(y, mean, sd).isnan().tolist() == [False, True, False]
    assert ev.crps_gaussian(y, mean, sd)[0] == 0.5
    forecast = Forecast(mean[:, None], (sd * sd)[:, None, None])
    lower, upper = forecast.interval()
    assert ev.covered(y[:, None], lower, upper).isnan()[:, 0].tolist() == [False, True, False]
    assert ev.pit_gaussian(y, mean, sd).isnan().tolist() == [False, True, False]


def test_a_series_that_starts_late_is_scored_from_its_start() -> None:
    """Route: both series by themselves."""
    generator = torch.Generator().manual_seed(2)
    y = torch.randn(2, 40, 1, generator=generator, dtype=F64).cumsum(1)
    y[1, :20] = math.nan
    model = ds.models.LocalLevel(1.0, noise_variance=0.5)
    together = ds.backtest(model, y, start=10, horizon=2)
    table = together.scores()
    alone = [ds.backtest(model, s, start=10, horizon=2).scores() for s in y]
    # At the origin 20 the late series has not been seen yet.
    assert [int(x["count"].iloc[0]) for x in alone] == [30, 18]
    assert int(table["count"].iloc[0]) == 48
    for name in ("crps", "log_score", "cov90", "width90"):
        mixed = (30 * alone[0][name].iloc[0] + 18 * alone[1][name].iloc[0]) / 48
        assert table[name].iloc[0] == pytest.approx(mixed)
