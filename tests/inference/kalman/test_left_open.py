"""Directions that a diffuse start leaves open: 0 where they are not seen, infinite where they are.

Independent routes: the same model without the direction, and dense Gaussians.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import deepssm as ds
from deepssm import evaluation as ev
from deepssm.core.model import StateSpaceModel
from deepssm.evaluation.residuals import residual_tests, residuals
from deepssm.inference.kalman import forecasting
from deepssm.inference.kalman.backends import Backend

F64 = torch.float64
BACKENDS: list[Backend] = ["sequential", "scan"]


def _level() -> StateSpaceModel:
    return ds.models.LocalLevel(1.3, noise_variance=0.7)


def _with(columns: int) -> ds.models.Structural:
    return ds.models.LocalLevel(1.3, noise_variance=0.7) + ds.models.Regression(columns)


def _walk(*shape: int, seed: int = 0) -> Tensor:
    noise = torch.randn(*shape, 2, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return (noise[..., 0].cumsum(-1) + noise[..., 1])[..., None]


def _close(a: Tensor, b: Tensor, atol: float = 1e-9) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=atol, equal_nan=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch", [(), (2,)])
def test_an_input_that_was_not_on_yet_changes_nothing_else(
    backend: Backend, batch: tuple[int, ...]
) -> None:
    y, method = _walk(*batch, 30), ds.inference.Kalman(backend)
    y[..., 5:8, :] = math.nan
    u, model, plain = torch.zeros(30, 1, dtype=F64), _with(1), _level()
    found, expected = ds.filter(model, y, u, method=method), ds.filter(plain, y, method=method)
    assert not bool(found.ill_conditioned.any())
    _close(found.cov[..., :1, :1], expected.cov)
    assert bool(found.cov[..., 1, 1].isinf().all()) and bool((found.cov[..., 0, 1] == 0).all())
    _close(found.log_likelihood, expected.log_likelihood)
    ahead = ds.forecast(model, y, 3, u, u_future=[[0.0], [1.0], [0.0]], method=method)
    want = ds.forecast(plain, y, 3)
    _close(ahead.cov[..., [0, 2], :, :], want.cov[..., [0, 2], :, :])
    assert bool(ahead.cov[..., 1, 0, 0].isinf().all())
    smoothed = ds.smooth(model, y, u, method=method)
    parts = model.components(smoothed, u)
    _close(parts.variance[..., 0], ds.smooth(plain, y).cov[..., 0, 0])
    assert bool((parts.variance[..., 1] == 0).all())
    gaps, filled = ds.impute(model, y, u, num_samples=2), ds.impute(plain, y, num_samples=2)
    _close(gaps.sd, filled.sd)
    _close(gaps.mean, filled.mean)
    assert bool(gaps.samples.isfinite().all())


def test_residuals_scores_and_running_filters_keep_every_step() -> None:
    y, u = _walk(40, seed=1), torch.zeros(40, 1, dtype=F64)
    model, plain, kalman = _with(1), _level(), ds.inference.Kalman()
    pairs = [(model, ds.as_series(model, y, u)), (plain, ds.as_series(plain, y))]
    ours, theirs = (residuals(m, s, kalman) for m, s in pairs)
    _close(ours, theirs)
    _close(residual_tests(ours).ljung_box[0], residual_tests(theirs).ljung_box[0])
    ours, theirs = (ev.innovations(m, s, kalman.filter(m, s)).standardized for m, s in pairs)  # type: ignore[arg-type]
    _close(ours, theirs)
    scores = [
        ds.backtest(model, y, u, start=10, horizon=2).scores(),
        ds.backtest(plain, y, start=10, horizon=2).scores(),
    ]
    assert abs(scores[0] - scores[1]).max().max() < 1e-9
    running = ds.online(model)
    for t in range(len(y)):
        if t:
            running.predict(u=u[t])
        running.update(y[t], u=u[t])
    assert running.log_likelihood == pytest.approx(float(ds.log_likelihood(plain, y).sum()))
    assert running.cov[1, 1] == math.inf and running.cov[0, 1] == 0


def test_draws_are_missing_only_where_there_is_nothing_to_draw_from() -> None:
    y, u, model = _walk(20), torch.zeros(20, 1, dtype=F64), _with(1)
    z = ds.sample_posterior(model, y, u, num_samples=3)
    assert bool(z[..., 0].isfinite().all()) and bool(z[..., 1].isnan().all())
    ahead = ds.forecast(model, y, 2, u, u_future=[[0.0], [1.0]], num_samples=4)
    assert ahead.samples is not None
    assert ahead.samples[:, :, 0].isnan().tolist() == [[False, True]] * 4
    assert ahead.interval()[0][1] == -math.inf and ahead.quantile(0.5).isfinite().all()
    on = torch.where(torch.arange(20) < 15, 0.0, 1.0)[:, None]
    answer = ds.counterfactual(model, y, u, on, num_samples=2)
    assert answer.y.isnan()[0, :, 0].tolist() == [False] * 15 + [True] * 5


def test_a_sum_is_known_where_its_terms_are_not() -> None:
    """A constant beside a level: both states are open, their sum is the level of one model."""
    y, one = _walk(25), torch.ones(25, 1, dtype=F64)
    model, plain = _with(1), _level()
    smoothed, expected = ds.smooth(model, y, one), ds.smooth(plain, y)
    assert bool(smoothed.cov.isinf().all())
    row = torch.ones(1, 1, 2, dtype=F64)
    _close(smoothed.image_cov(row), expected.cov)
    _close(smoothed.mean.sum(-1), expected.mean[:, 0])
    ahead = ds.forecast(model, y, 2, one, u_future=[[1.0], [2.0]])
    _close(ahead.cov[0], ds.forecast(plain, y, 2).cov[0])
    assert ahead.cov[1, 0, 0] == math.inf  # an input of 2 was never seen beside the level


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e7])
def test_redundant_inputs_add_nothing_to_the_likelihood(backend: Backend, scale: float) -> None:
    """Route: the model without them; a rank is one in the columns' own units."""
    y, method = _walk(60), ds.inference.Kalman(backend)
    x = torch.randn(60, 1, generator=torch.Generator().manual_seed(3), dtype=F64)
    one, days = torch.ones(60, 1, dtype=F64), torch.eye(7, dtype=F64)[torch.arange(60) % 7]
    base = float(ds.log_likelihood(_with(1), y, x).sum())
    cases = [
        (torch.cat([x, scale * x], -1), base),
        (torch.cat([x, scale * one], -1), base),
        (torch.cat([x, 0 * x], -1), base),
        (torch.cat([days[:, :6], scale * days[:, 6:]], -1), None),
    ]
    for u, expected in cases:
        model = _with(u.shape[-1])
        found = ds.filter(model, y, u, method=method)
        if expected is None:
            expected = float(ds.log_likelihood(_with(6), y, days[:, :6]).sum())
        assert float(found.log_likelihood.sum()) == pytest.approx(expected, abs=1e-7)
        assert not bool(found.ill_conditioned)
        # The likelihood is that of the columns which come first, in their units.
        turned = ds.filter(model, y, u.flip(-1), method=method).log_likelihood.sum()
        assert bool(turned.isfinite())


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_gradient_beside_a_redundant_input(backend: Backend) -> None:
    y, one = _walk(40), torch.ones(40, 1, dtype=F64)
    slopes = []
    for model, u in ((ds.models.LocalLevel(), None), (ds.models.LocalLevel(), one)):
        whole = model if u is None else model + ds.models.Regression(1)
        total = ds.log_likelihood(whole, y, u, method=ds.inference.Kalman(backend)).sum()
        total.backward()
        slopes.append(torch.stack([p.grad for p in whole.parameters() if p.grad is not None]))
    _close(slopes[0].sort().values, slopes[1].sort().values)


def test_a_fit_is_not_moved_by_an_input_given_twice() -> None:
    y = _walk(50)
    x = torch.randn(50, 1, generator=torch.Generator().manual_seed(3), dtype=F64)
    fits = [
        ds.fit(
            ds.models.LocalLevel() + ds.models.Regression(k), y, x.expand(50, k), progress=False
        )
        for k in (1, 2)
    ]
    objectives = [float(fit.log_likelihood().detach().sum()) for fit in fits]
    assert objectives[0] == pytest.approx(objectives[1], abs=1e-8)


def test_float32_models_leave_open_what_float64_ones_do() -> None:
    y, u = _walk(20), torch.zeros(20, 1, dtype=F64)
    single = ds.filter(_with(1).float(), y, u)
    assert single.cov.dtype == torch.float32
    torch.testing.assert_close(single.cov.double(), ds.filter(_with(1), y, u).cov)


@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_long_past_is_forecast_block_by_block(
    batch: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal to the forecast that holds every covariance, where a dummy is open or not."""
    y, u = _walk(*batch, 60), torch.zeros(60, 2, dtype=F64)
    u[20, 0] = 1.0
    later = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], dtype=F64)
    whole = ds.forecast(_with(2), y, 3, u, u_future=later)
    monkeypatch.setattr(forecasting, "_AT_ONCE", 2 * 9 * 7 * math.prod(batch))
    blocks = ds.forecast(_with(2), y, 3, u, u_future=later)
    _close(blocks.mean, whole.mean)
    _close(blocks.cov, whole.cov)
    assert bool(blocks.cov[..., 1, 0, 0].isinf().all())


def test_joint_draws_of_a_forecast_have_its_moments() -> None:
    """4000 draws; fails at a random seed about once in 1e4 for each of 6 numbers."""
    y, count = _walk(30), 4000
    generator = torch.Generator().manual_seed(0)
    ahead = ds.forecast(_level(), y, 3, num_samples=count, generator=generator)
    assert ahead.samples is not None and ahead.gaussian
    draws = ahead.samples[..., 0]
    sd = ahead.cov[:, 0, 0].sqrt()
    assert bool(((draws.mean(0) - ahead.mean[:, 0]).abs() < 4 * sd / count**0.5).all())
    assert bool(((draws.var(0) / sd.square() - 1).abs() < 4 * (2 / count) ** 0.5).all())
    exact = ds.forecast(_level(), y, 3)
    _close(torch.stack(ahead.interval()), torch.stack(exact.interval()))
    _close(ev.crps(ahead, exact.mean + 1), ev.crps(exact, exact.mean + 1))
