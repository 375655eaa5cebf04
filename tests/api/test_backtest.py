from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import deepssm as ds
from deepssm import evaluation as ev
from deepssm.core.methods import Learned
from deepssm.core.model import Series, StateSpaceModel
from deepssm.core.results import Forecast

NAN = float("nan")


def _model() -> ds.models.LinearGaussian:
    A = torch.tensor([[0.9, 0.4], [-0.2, 0.7]])
    C = torch.tensor([[1.0, 0.5], [0.3, -1.0], [0.0, 2.0]])
    eye = torch.eye(3)
    B = torch.tensor([[0.5], [1.0]])
    return ds.models.LinearGaussian(A, 0.3 * eye[:2, :2], C, 0.5 * eye, B=B, P0=eye[:2, :2])


def _data(time: int = 60) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    u = torch.randn(time, 1, generator=generator, dtype=torch.float64)
    _, y = ds.simulate(_model(), time, u=u, generator=generator)
    y[::7, 1] = y[41] = NAN
    return y, u


def _overall(found: ev.Backtest) -> dict[str, float]:
    return {str(k): float(v) for k, v in found.scores().iloc[0].items()}


def test_each_forecast_is_the_one_made_by_hand() -> None:
    model, (y, u) = _model(), _data()
    found = ds.backtest(model, y, u, start=30, horizon=5, stride=4)
    assert found.origins.tolist() == [30, 34, 38, 42, 46, 50, 54]
    for i, origin in enumerate(found.origins.tolist()):
        expected = ds.forecast(model, y[:origin], 5, u=u[:origin], u_future=u[origin : origin + 5])
        torch.testing.assert_close(found.forecast.mean[i], expected.mean)
        torch.testing.assert_close(found.forecast.cov[i], expected.cov)
        torch.testing.assert_close(found.y[i], y[origin : origin + 5], equal_nan=True)


def test_the_future_does_not_leak_into_a_forecast() -> None:
    model, (y, u) = _model(), _data()
    before = ds.backtest(model, y, u, start=30, horizon=5)
    y[30:] = 1e3
    after = ds.backtest(model, y, u, start=30, horizon=5)
    assert torch.equal(before.forecast.mean[0], after.forecast.mean[0])
    assert not torch.equal(before.forecast.mean[1], after.forecast.mean[1])


def test_the_table_averages_the_scores_that_exist() -> None:
    model, (y, u) = _model(), _data()
    found = ds.backtest(model, y, u, start=0.5, horizon=6, stride=6)
    forecast, held = found.forecast, found.y
    seen = ~held.isnan()
    sd = forecast.cov.diagonal(dim1=-2, dim2=-1).sqrt()
    crps = ev.crps_gaussian(held[seen], forecast.mean[seen], sd[seen])
    row = _overall(found)
    assert row["crps"] == pytest.approx(crps.mean().item())
    assert row["count"] == int(seen.sum()) == 5 * 6 * 3 - int((~seen).sum())
    lower, upper = forecast.interval(0.9)
    inside = (held[seen] > lower[seen]) & (held[seen] < upper[seen])
    assert row["cov90"] == pytest.approx(inside.double().mean().item())
    assert row["width90"] == pytest.approx((upper - lower)[seen].mean().item())
    scale = ev.naive_error(y[:30]).expand_as(held)[seen]
    expected = ((held - forecast.mean).abs()[seen] / scale).mean().item()
    assert row["mase"] == pytest.approx(expected)
    log = ev.log_score(held, forecast.mean, forecast.cov)
    assert row["log_score"] == pytest.approx(log.nanmean().item())
    assert {"cov50", "width50"} < set(found.scores(level=0.5).columns)


@pytest.mark.parametrize(("by", "rows"), [("horizon", 6), ("origin", 5), ("column", 3)])
def test_groups_average_to_the_whole(by: ev.Grouping, rows: int) -> None:
    model, (y, u) = _model(), _data()
    found = ds.backtest(model, y, u, start=30, horizon=6)
    table, whole = found.scores(by), _overall(found)
    assert len(table) == rows and int(table["count"].sum()) == whole["count"]
    assert ("log_score" in table) == (by != "column")
    for name in ("crps", "cov90", "width90", "mase"):
        # A group without observations has no score and no weight.
        total = (table[name].fillna(0) * table["count"]).sum()
        assert float(total) / whole["count"] == pytest.approx(whole[name])


def test_batches_are_scored_together() -> None:
    model, (y, u) = _model(), _data()
    both = ds.backtest(model, torch.stack([y, y]), torch.stack([u, u]), start=30, horizon=5)
    one = ds.backtest(model, y, u, start=30, horizon=5)
    assert both.y.shape == (6, 2, 5, 3)
    expected = {**_overall(one), "count": 2 * _overall(one)["count"]}
    assert _overall(both) == pytest.approx(expected)


def test_frames_label_origins_and_columns() -> None:
    index = pd.date_range("2020-01-05", periods=40, freq="W", name="week")
    walk = np.cumsum(np.random.default_rng(0).normal(size=(40, 2)), axis=0)
    frame = pd.DataFrame(walk, index, ["a", "b"])
    found = ds.backtest(ev.SeasonalNaive(), frame, start=20, horizon=10)
    assert list(found.scores("origin").index) == [index[19], index[29]]
    assert list(found.scores("column").index) == ["a", "b"]
    assert list(found.scores("horizon").index) == list(range(1, 11))
    assert found.forecast.samples is None


def test_a_function_is_a_forecaster_and_its_draws_are_kept() -> None:
    def guess(past: Tensor, horizon: int) -> Forecast:
        mean = past.nanmean(-2, keepdim=True).expand(horizon, 1)
        return Forecast(mean, torch.ones(horizon, 1, 1), mean + torch.randn(8, horizon, 1))

    y = torch.arange(20.0)
    found = ds.backtest(guess, y, start=10, horizon=2, stride=3)
    assert found.forecast.mean[:, 0, 0].tolist() == [4.5, 6.0, 7.5]
    assert found.forecast.samples is not None and found.forecast.samples.shape == (8, 3, 2, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 58, "horizon": 5}, "`start` must leave a past.*got 58 \\(58 steps of past\\)"),
        ({"start": 0.01, "horizon": 5}, "got 0.01 \\(0 steps of past\\)"),
        ({"start": 30, "horizon": 0}, "`horizon` and `stride` must be at least 1, got 0 and 0"),
        ({"start": 30, "horizon": 2, "stride": 0}, "got 2 and 0"),
    ],
)
def test_windows_that_score_nothing_are_refused(options: dict, message: str) -> None:
    y, u = _data()
    with pytest.raises(ValueError, match=message):
        ds.backtest(_model(), y, u, **options)


class _Shift(NamedTuple):
    """Learns the emission's offset as the mean of the data: enough to see who learnt what."""

    def fit(
        self,
        model: StateSpaceModel,
        series: Series,
        *,
        progress: bool = True,
        generator: torch.Generator | None = None,
    ) -> Learned:
        assert not progress
        with torch.no_grad():
            model.get_parameter("d").copy_(series.y.nanmean(0))
        return Learned(ds.inference.Kalman(), 0.0, [], {}, {}, [])


@pytest.mark.parametrize(
    ("refit", "levels"), [(False, [0.0, 0.0]), ("first", [9.5, 9.5]), (True, [9.5, 14.0])]
)
def test_a_copy_is_fitted_to_each_past(refit: ev.Refit, levels: list[float]) -> None:
    """White noise about a level: the forecast is the level, the mean of the past it has seen."""
    d, eye = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64)), torch.eye(1)
    model = ds.models.LinearGaussian(0 * eye, eye, eye, eye, d=d, P0=eye)
    y = torch.arange(30.0)
    found = ds.backtest(model, y, start=20, horizon=1, stride=9, refit=refit, learner=_Shift())
    assert found.forecast.mean[:, 0, 0].tolist() == levels
    assert model.get_parameter("d").item() == 0.0
