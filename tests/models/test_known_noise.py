"""Error bars of single readings, against dense Gaussian process regression."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

import deepssm as ds

F64 = torch.float64


def test_a_gaussian_process_with_known_errors() -> None:
    """Route: the dense formulas of Rasmussen & Williams (2006), section 2.2."""
    rng = np.random.default_rng(0)
    s = np.sort(rng.uniform(0, 10, 40))
    error = rng.uniform(0.01, 1.0, 40)
    y = np.sin(s) + rng.normal(size=40) * np.sqrt(error)
    inner = ds.models.Matern(1.5, variance=1.3, length_scale=2.0, noise_variance=0.1)
    model, dt = ds.models.KnownNoise(inner), np.diff(s, prepend=s[0])
    smoothed = ds.smooth(model, y, error, dt=dt)
    scaled = math.sqrt(3) * np.abs(s[:, None] - s) / 2.0
    K = 1.3 * (1 + scaled) * np.exp(-scaled)
    S = K + np.diag(error + 0.1)
    np.testing.assert_allclose(smoothed.mean[:, 0], K @ np.linalg.solve(S, y), atol=1e-10)
    variance = np.diag(K - K @ np.linalg.solve(S, K))
    np.testing.assert_allclose(smoothed.cov[:, 0, 0], variance, atol=1e-10)
    total = y @ np.linalg.solve(S, y) + np.linalg.slogdet(S)[1] + 40 * math.log(2 * math.pi)
    found = ds.log_likelihood(model, y, error, dt=dt).sum()
    assert float(found) == pytest.approx(-total / 2, rel=1e-12)


def test_gaps_frames_batches_fits_and_forecasts() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(30, 1, generator=generator, dtype=F64).cumsum(0)
    error = torch.rand(30, 1, generator=generator, dtype=F64)
    x = torch.randn(30, 1, generator=generator, dtype=F64)
    y[4:7], error[4:6] = math.nan, math.nan
    model = ds.models.KnownNoise(ds.models.LocalLevel() + ds.models.Regression(1))
    u = torch.cat([x, error], -1)
    fit = ds.fit(model, y, u, progress=False)
    total = float(fit.log_likelihood().detach().sum())
    index = pd.date_range("2020-01-01", periods=30)
    frames = [pd.DataFrame(v.numpy(), index=index) for v in (y, u)]
    assert float(ds.log_likelihood(model, *frames).detach().sum()) == pytest.approx(total)
    filled = u.nan_to_num(0.0)
    both = ds.log_likelihood(model, y.expand(2, -1, -1), torch.stack([filled, filled + 0.1]))
    assert float(both[0].detach().sum()) == pytest.approx(total) != float(both[1].detach().sum())
    ahead = fit.forecast(2, u_future=[[0.0, 0.5], [0.0, 0.0]]).cov.detach()[:, 0, 0]
    level = fit.model.model.level.level_variance.detach()  # type: ignore[union-attr]
    assert float(ahead[0] - ahead[1]) == pytest.approx(float(0.5 - level))
    running = ds.online(model)
    for t in range(30):
        if t:
            running.predict(u=filled[t])
        running.update(y[t], u=filled[t])
    assert running.log_likelihood == pytest.approx(total)


def test_what_the_variances_must_be() -> None:
    model = ds.models.KnownNoise(ds.models.LocalLevel())
    with pytest.raises(ValueError, match="Square standard deviations"):
        ds.filter(model, [1.0, 2.0], [0.1, -0.1])
    with pytest.raises(ValueError, match="variance of every reading"):
        ds.filter(model, [1.0, 2.0], [0.1, math.nan])
    with pytest.raises(ValueError, match="must be linear and Gaussian"):
        ds.models.KnownNoise(ds.models.DeepMarkov(1, 1))


def test_other_filters_read_them_too() -> None:
    inner = ds.models.LinearGaussian([[0.9]], [[0.5]], [[1.0], [0.5]], [[0.2, 0.1], [0.1, 0.3]],
                                     P0=[[1.0]])  # fmt: skip
    model = ds.models.KnownNoise(inner)
    drawn = ds.simulate(model, 15, torch.full((15, 2), 0.3), generator=torch.Generator())
    u = torch.linspace(0.0, 1.0, 30, dtype=F64).reshape(15, 2)
    exact = ds.filter(model, drawn.y, u).log_likelihood
    other = ds.filter(model, drawn.y, u, method=ds.inference.Extended()).log_likelihood
    torch.testing.assert_close(exact, other)
