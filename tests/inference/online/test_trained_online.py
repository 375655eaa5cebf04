"""A trained guide runs one observation at a time, as particles; the oracle is exact."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import deepssm as ds
from deepssm.core.model import Series
from deepssm.inference import SVI, Amortized, Kalman, LinearizedGuide
from tests.inference.gaussian.given_blind import Volatility, on_a_grid


class Untrained(nn.Module):
    """A guide that is no proposal: particles move by the model."""

    def forward(self, model: ds.StateSpaceModel, series: Series) -> Tensor:
        return series.y


@pytest.mark.parametrize("guide", [LinearizedGuide(), Untrained()], ids=["linearized", "own"])
def test_particles_equal_the_exact_filter(guide: nn.Module) -> None:
    """20000 particles, with a gap of two steps and one at the end; 5 standard errors."""
    line = ds.models.LinearGaussian([[0.9]], [[0.3]], [[1.0]], [[0.5]], m0=[0.2], P0=[[1.0]])
    model = ds.models.NonlinearGaussian(
        lambda z, u, dt: 0.9 * z, lambda z, u: z, Q=[[0.3]], R=[[0.5]], m0=[0.2], P0=[[1.0]]
    )
    y = ds.simulate(line, 12, generator=torch.Generator().manual_seed(3)).y
    y[4:6] = y[11] = torch.nan
    exact, running = (
        ds.filter(line, y, method=Kalman()),
        ds.online(
            model,
            Amortized(guide, num_particles=20_000),  # type: ignore[arg-type]
        ),
    )
    for t in range(12):
        if t:
            running.predict()
        running.update(y[t])
    torch.testing.assert_close(running.mean, exact.mean[-1], rtol=0, atol=0.03)
    torch.testing.assert_close(running.cov, exact.cov[-1], rtol=0.05, atol=0)
    assert running.log_likelihood == pytest.approx(float(exact.log_likelihood.sum()), abs=0.1)


def test_it_is_the_default_of_a_trained_model_and_goes_on_from_its_state() -> None:
    model = ds.models.DeepMarkov(1, 1, hidden=3)
    ds.fit(model, torch.randn(10, 1), method=SVI(steps=2), progress=False)
    running = ds.online(model)
    running.update([0.3])
    saved = running.state_dict()
    found = []
    for _ in range(2):
        running.load_state_dict(saved)
        running.predict()
        found.append((running.update([0.1]), float(running.mean)))
    assert found[0] == found[1]


def test_a_state_that_only_the_spread_reveals_is_followed_by_default() -> None:
    """Against quadrature; 1000 particles."""
    y = ds.simulate(Volatility(), 25, generator=torch.Generator().manual_seed(1)).y.detach()
    means, total = on_a_grid(Volatility(), y)
    running = ds.online(Volatility())
    for t, row in enumerate(y):
        if t:
            running.predict()
        running.update(row)
    assert abs(float(running.mean) - float(means[-1])) < 0.2
    assert running.log_likelihood == pytest.approx(float(total), abs=0.6)
