"""Numbers from the literature, through the public verbs.

Source: Durbin & Koopman (2012), sections 2.2 to 2.10, on the Nile; digits from statsmodels 0.15.
"""

from __future__ import annotations

import math

import pytest
import torch

import deepssm as ds


def nile_model(noise: float = 15099.0, level: float = 1469.1) -> ds.models.LinearGaussian:
    return ds.models.LinearGaussian([[1.0]], [[level]], [[1.0]], [[noise]], initial="diffuse")


def with_gaps() -> torch.Tensor:
    y = torch.from_numpy(ds.data.nile().to_numpy().copy()).double()
    y[20:40] = math.nan
    y[60:80] = math.nan
    return y


def test_nile_filtered_moments() -> None:
    filtered = ds.filter(nile_model(), ds.data.nile())
    assert float(filtered.predicted_mean[1, 0]) == pytest.approx(1120.0, abs=1e-9)
    assert float(filtered.predicted_cov[1, 0, 0]) == pytest.approx(16568.1, abs=1e-6)
    assert float(filtered.predicted_cov[-1, 0, 0]) == pytest.approx(5501.257941809, abs=1e-6)
    assert float(filtered.mean[-1, 0]) == pytest.approx(798.3702926, abs=1e-6)
    assert float(filtered.cov[-1, 0, 0]) == pytest.approx(4032.157941809, abs=1e-6)
    assert bool(filtered.predicted_cov[0].isinf().all())
    gain = filtered.predicted_cov[-1, 0, 0] / (filtered.predicted_cov[-1, 0, 0] + 15099.0)
    assert float(gain) == pytest.approx(0.2670480126, abs=1e-9)


def test_nile_smoothed_moments() -> None:
    smoothed = ds.smooth(nile_model(), ds.data.nile())
    expected = [1111.66831913, 1110.85766462, 1105.26556731]
    assert smoothed.mean[:3, 0].tolist() == pytest.approx(expected, abs=1e-6)
    assert float(smoothed.cov[0, 0, 0]) == pytest.approx(4032.157941809, abs=1e-6)


def test_nile_forecasts() -> None:
    forecast = ds.forecast(nile_model(), ds.data.nile(), 30)
    assert forecast.mean[:, 0].tolist() == pytest.approx([798.3702926] * 30, abs=1e-6)
    assert float(forecast.cov[0, 0, 0]) == pytest.approx(20600.257941809, abs=1e-6)
    assert float(forecast.cov[29, 0, 0]) == pytest.approx(63204.157941809, abs=1e-6)


def test_nile_with_two_long_gaps() -> None:
    y = with_gaps()
    total = float(ds.log_likelihood(nile_model(), y).sum())
    assert total == pytest.approx(-381.5060013, abs=1e-6)
    filtered, smoothed = ds.filter(nile_model(), y), ds.smooth(nile_model(), y)
    assert float(filtered.mean[39, 0]) == pytest.approx(1026.14155507, abs=1e-6)
    assert float(filtered.cov[39, 0, 0]) == pytest.approx(33414.19616011, abs=1e-6)
    assert float(smoothed.mean[30, 0]) == pytest.approx(893.79194484, abs=1e-6)
    assert float(smoothed.cov[30, 0, 0]) == pytest.approx(9715.00554901, abs=1e-6)


def test_nile_likelihood_conventions() -> None:
    """Exact diffuse includes the `-1/2 log 2 pi` of the diffuse observation; a wide prior not."""
    optimum = nile_model(15098.5196, 1469.1760)
    diffuse = ds.log_likelihood(optimum, ds.data.nile()).sum()
    assert float(diffuse) == pytest.approx(-633.4645636, abs=1e-6)
    proper = ds.models.LinearGaussian([[1.0]], [[1469.1]], [[1.0]], [[15099.0]], P0=[[1e7]])
    wide = ds.log_likelihood(proper, ds.data.nile()).sum()
    assert float(wide) == pytest.approx(-641.5855785, abs=1e-6)
