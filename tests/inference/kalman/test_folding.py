"""Diffuse coefficients become part of the covariance once known: nothing else may change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import deepssm as ds
from deepssm.core.model import StateSpaceModel
from deepssm.inference.kalman.cpu import folding
from deepssm.inference.kalman.cpu.problem import prepare
from deepssm.inference.kalman.cpu.run import folded

MODELS = {
    "trend": lambda: ds.models.LocalLinearTrend(),
    "trend and season": lambda: ds.models.LocalLinearTrend() + ds.models.DummySeasonal(12),
    "slow harmonics": lambda: ds.models.LocalLevel() + ds.models.Seasonal(60.5, 6),
}


def data(batch: tuple[int, ...], rate: float) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    noise = torch.randn((*batch, 200, 1), generator=generator, dtype=torch.float64)
    y = 30 + noise + noise.cumsum(-2) / 4
    holes = torch.rand(y.shape, generator=generator, dtype=torch.float64) < rate
    return torch.where(holes, torch.nan, y)


def everything(model: StateSpaceModel, y: Tensor) -> list[Tensor]:
    model.zero_grad()
    ds.log_likelihood(model, y).sum().backward()
    grads = [x.grad.clone() for x in model.parameters() if x.grad is not None]
    with torch.no_grad():
        found, smoothed = ds.filter(model, y), ds.smooth(model, y)
        ll = ds.log_likelihood(model, y)
    moments = [found.mean, found.cov, found.predicted_mean, found.predicted_cov]
    return [ll, found.log_likelihood, *moments, *smoothed[:4], *grads]


@pytest.mark.parametrize("batch", [(), (3,)], ids=["one series", "a batch"])
@pytest.mark.parametrize("rate", [0.0, 0.2], ids=["complete", "gaps"])
@pytest.mark.parametrize("name", MODELS)
def test_folding_changes_no_answer(
    name: str, rate: float, batch: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other route carries all coefficients to the last step."""
    model, y = MODELS[name](), data(batch, rate)
    monkeypatch.setattr(folding, "_WORTH", 0)
    assert folded(prepare(model.linear_parameters(None, None), y)) is not None
    results = everything(model, y)
    monkeypatch.setattr(folding, "_WORTH", 10**12)
    for x, other in zip(results, everything(model, y), strict=True):
        # Where a direction is only just open, round-off decides about infinities.
        known = x.isfinite() & other.isfinite()
        assert known.double().mean() > 0.7
        error = torch.where(known, x - other, 0.0).abs() / (1 + other.abs())
        assert bool((error < 1e-5).all()), float(error.max())


def test_what_no_data_fix_is_never_folded() -> None:
    """A level and a seasonal of period one are one and the same to the data."""
    model, y = ds.models.LocalLevel() + ds.models.LocalLevel(), data((), 0.0)
    assert folded(prepare(model.linear_parameters(None, None), y)) is None


def test_a_head_ends_as_soon_as_all_series_know_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: a trend is fixed by two observations, here the second and the fourth."""
    monkeypatch.setattr(folding, "_WORTH", 0)
    y = data((2,), 0.0)
    y[0, [0, 2]] = torch.nan
    parameters = ds.models.LocalLinearTrend().linear_parameters(None, None)
    parts = folded(prepare(parameters, y))
    assert parts is not None and parts.length == 4
    assert np.isfinite(parts.tail.start[1]).all() and parts.tail.sizes.k == 0
