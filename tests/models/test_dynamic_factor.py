"""Common factors against Stata's maximum and the dense joint."""

from __future__ import annotations

import pytest
import torch

import deepssm as ds
from deepssm.core.model import Series
from deepssm.inference.estimation.maximum_likelihood import MaximumLikelihood
from deepssm.inference.kalman.method import Kalman
from deepssm.models.gaussian.dynamic_factor import DynamicFactor

from .. import oracles


def test_maximum_likelihood_reaches_statas_optimum() -> None:
    """One factor, AR(2), Lütkepohl's data: loadings, variances and likelihood as printed."""
    name = "statsmodels.tsa.statespace.tests.results"
    results = pytest.importorskip(f"{name}.results_dynamic_factor")
    data = pytest.importorskip(f"{name}.results_varmax").lutkepohl_data
    y = torch.tensor(data, dtype=torch.float64).log().diff(dim=0)[:75]
    model = DynamicFactor(3, 1, 2, mean=False)
    learned = MaximumLikelihood(Kalman()).fit(model, Series(y), progress=False)
    assert learned.objective == pytest.approx(594.0902026, abs=1e-4)
    case = torch.tensor(results.lutkepohl_dfm["params"], dtype=torch.float64)
    torch.testing.assert_close(model.loadings[:, 0].abs().detach(), case[:3], rtol=2e-3, atol=0)
    torch.testing.assert_close(model.noise_variance.detach(), case[3:6], rtol=5e-3, atol=0)
    torch.testing.assert_close(model.parts[0].coefficients.detach(), case[6:], rtol=5e-3, atol=0)


def test_moments_are_those_of_independent_autoregressions() -> None:
    """`Cov(y_t, y_{t-1}) = sum_i lambda_i lambda_i' gamma_i(1)`, plus noise at lag 0."""
    model = DynamicFactor(3, 2, 2)
    model.factor0.partial_autocorrelations = torch.tensor([0.6, -0.2])
    joint = oracles.joint(model.linear_parameters(), 4)
    cov = torch.as_tensor(joint.y_cov).reshape(4, 3, 4, 3)
    expected = torch.zeros(3, 3, dtype=torch.float64)
    for i, part in enumerate(model.parts):
        column = model.loadings[:, i].detach()
        expected += torch.outer(column, column) * part.start().cov[0, 1].item()
    torch.testing.assert_close(cov[3, :, 2], expected)
    spread = cov[3, :, 3] - torch.diag(model.noise_variance.detach())
    assert torch.linalg.matrix_rank(spread).item() == 2


def test_names_starts_and_errors() -> None:
    model = DynamicFactor(3, 1, 2)
    assert model.state_names == ("factor0", "factor0.lag1")
    y = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 5
    y[3, 1] = torch.nan
    model.initialize_from(Series(y))
    assert model.mean is not None
    torch.testing.assert_close(model.mean.detach(), y.nanmean(0))
    with pytest.raises(ValueError, match="`factors` must be between 1 and the 2 series"):
        DynamicFactor(2, 3)
    with pytest.raises(ValueError, match="`order` must be at least 1"):
        DynamicFactor(2, 1, 0)


def test_factors_come_with_bands_and_make_up_the_signal() -> None:
    model = DynamicFactor(3, 2, 2)
    y = torch.randn(30, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y[4:9, 1] = torch.nan
    smoothed = ds.smooth(model, y)
    factors = model.components(smoothed)
    given = oracles.smooth(model.linear_parameters(), y)
    emission = model.linear_parameters().emission
    signal = (emission.matrix @ given.mean[..., None])[..., 0] + emission.offset
    assert model.mean is not None
    torch.testing.assert_close(factors.mean @ model.loadings.mT + model.mean, signal)
    lower, upper = factors.band(0.9)
    sd = given.cov.diagonal(dim1=-2, dim2=-1)[:, ::2].sqrt()
    torch.testing.assert_close(upper - lower, 2 * 1.6448536269514722 * sd)
    assert list(factors.to_frame().columns[::4]) == ["factor0_mean", "factor1_mean"]
