from __future__ import annotations

import subprocess
import sys
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import deepssm as ds
from deepssm import evaluation as ev
from deepssm import report
from deepssm.api.validation import as_series
from deepssm.models.structural.decomposition import Decomposition
from deepssm.report.plots_canvas import positions

INDEX = pd.date_range("2020-01-01", periods=60, freq="D")


def _model() -> ds.models.LinearGaussian:
    eye = torch.eye(2)
    return ds.models.LinearGaussian(
        [[0.9, 0.4], [-0.2, 0.7]], 0.3 * eye, [[1.0, 0.5], [0.3, -1.0]], 0.5 * eye, P0=eye
    )


def _data() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    y = ds.simulate(_model(), 60, generator=generator).y
    y[10:14] = y[30] = float("nan")
    y[50, 0] = float("nan")
    return y


def _line(axes: Axes, label: str) -> np.ndarray:
    (found,) = [line for line in axes.lines if line.get_label() == label]
    return np.asarray(found.get_ydata())


def _band(axes: Axes, label: str) -> np.ndarray:
    """Extremes of a filled band, `(2,)`."""
    (found,) = [c for c in axes.collections if c.get_label() == label]
    points = np.asarray(found.get_paths()[0].vertices)[:, 1]
    return np.array([points.min(), points.max()])


def _draws(figure: Figure) -> None:
    figure.savefig(buffer := BytesIO(), format="svg")
    assert buffer.tell() > 1000


def test_states_show_the_moments_and_shade_the_gaps() -> None:
    y = _data()
    smoothed = ds.smooth(_model(), pd.DataFrame(y.numpy(), INDEX))
    figure = report.plot_states(smoothed, y=y, truth=smoothed.mean + 1)
    assert len(figure.axes) == 2
    for i, axes in enumerate(figure.axes):
        np.testing.assert_allclose(_line(axes, "smoothed"), smoothed.mean[:, i])
        np.testing.assert_allclose(_line(axes, "truth"), smoothed.mean[:, i] + 1)
        sd = smoothed.cov[:, i, i].sqrt()
        wide = _band(axes, "90 %")
        assert wide[0] == pytest.approx((smoothed.mean[:, i] - 1.6448536 * sd).min().item())
        assert wide[1] == pytest.approx((smoothed.mean[:, i] + 1.6448536 * sd).max().item())
        # Two runs of steps without any observation; the one with half of one is not shaded.
        assert len(axes.patches) == 2
    _draws(figure)


def test_filtered_states_may_start_diffuse() -> None:
    eye = torch.eye(1)
    model = ds.models.LinearGaussian(eye, eye, eye, eye, initial="diffuse")
    y = torch.tensor([float("nan"), 1.0, 2.0, 3.0])[:, None]
    figure = report.plot_states(ds.filter(model, y), components=(0,))
    assert len(_line(figure.axes[0], "filtered")) == 4
    _draws(figure)


def test_a_forecast_follows_its_past_in_time() -> None:
    y = _data()
    forecast = ds.forecast(_model(), pd.DataFrame(y.numpy(), INDEX, ["a", "b"]), 12)
    figure = report.plot_forecast(
        forecast, y, index=INDEX, truth=forecast.mean + 0.5, levels=(0.5, 0.8), past=20
    )
    assert [axes.get_title("left") for axes in figure.axes] == ["a", "b"]
    axes = figure.axes[1]
    np.testing.assert_allclose(_line(axes, "forecast"), forecast.mean[:, 1])
    np.testing.assert_allclose(_line(axes, "past"), y[-20:, 1])
    lower, upper = forecast.interval(0.8)
    np.testing.assert_allclose(
        _band(axes, "80 %"), [lower[:, 1].min().item(), upper[:, 1].max().item()]
    )
    past = next(line for line in axes.lines if line.get_label() == "past")
    assert np.asarray(past.get_xdata())[-1] == INDEX[-1].to_numpy()
    _draws(figure)


def test_a_forecast_without_labels_counts_steps_and_picks_a_series() -> None:
    y = torch.stack([_data(), _data() + 10])
    forecast = ds.forecast(_model(), y, 5, num_samples=40)
    figure = report.plot_forecast(forecast, y, series=1)
    line = next(line for line in figure.axes[0].lines if line.get_label() == "forecast")
    np.testing.assert_array_equal(np.asarray(line.get_xdata()), [1, 2, 3, 4, 5])
    np.testing.assert_allclose(np.asarray(line.get_ydata()), forecast.mean[1, :, 0])
    assert len(report.plot_forecast(forecast).axes) == 2
    with pytest.raises(ValueError, match="`series` must be below 2, the number of series, got 2"):
        report.plot_forecast(forecast, series=2)


def test_methods_stand_under_each_other_with_the_same_past_and_future() -> None:
    y = _data()
    past = pd.DataFrame(y.numpy(), INDEX, ["a", "b"])
    forecasts = {"exact": ds.forecast(_model(), past, 6)}
    forecasts["drawn"] = ds.forecast(_model(), past, 6, num_samples=50)
    truth = torch.ones(6, 2)
    figure = report.plot_methods(
        forecasts, y, index=INDEX, truth=truth, levels=(0.8,), past=20, component=1
    )
    assert [axes.get_title("left") for axes in figure.axes] == ["exact", "drawn"]
    for axes, forecast in zip(figure.axes, forecasts.values(), strict=True):
        np.testing.assert_allclose(_line(axes, "mean"), forecast.mean[:, 1])
        np.testing.assert_allclose(_line(axes, "past"), y[-20:, 1])
        np.testing.assert_allclose(_line(axes, "came true"), 1.0)
        assert axes.get_ylabel() == "b"
        lower, upper = forecast.interval(0.8)
        ends = [lower[:, 1].min().item(), upper[:, 1].max().item()]
        np.testing.assert_allclose(_band(axes, "80 %"), ends)
    _draws(figure)


def test_observations_are_shown_whole_and_where_most_are_missing() -> None:
    y = _data()[:, 0]
    figure = report.plot_observations(y, y.nan_to_num(), torch.ones(60), index=INDEX, rows=12)
    whole, close = figure.axes
    assert len(np.asarray(whole.lines[0].get_ydata())) == 60
    # The run of four missing observations starts at 10; windows of twelve that hold it start at 2.
    np.testing.assert_allclose(_line(close, "observation"), y[2:14])
    assert close.get_title("left") == "12 rows close up"
    _draws(figure)


def test_the_old_name_of_that_picture_warns() -> None:
    y = _data()[:, 0]
    with pytest.warns(DeprecationWarning, match="`plot_readings` is now `plot_observations`"):
        _draws(report.plot_readings(y, y.nan_to_num(), torch.ones(60), index=INDEX))


def test_components_are_named_panels() -> None:
    mean = torch.randn(60, 3, dtype=torch.float64)
    parts = Decomposition(mean, 0.1 + mean**2).labelled(INDEX, ("level", "season", "tide"))
    figure = report.plot_components(parts, _data()[:, :1])
    assert [axes.get_title("left") for axes in figure.axes] == ["level", "season", "tide"]
    np.testing.assert_allclose(_line(figure.axes[2], "mean"), mean[:, 2])
    _draws(figure)


def test_pit_bars_are_densities_with_the_binomial_band() -> None:
    pit = torch.cat([torch.full((30,), 0.05), torch.full((70,), 0.95), torch.tensor([np.nan])])
    figure = report.plot_pit(pit, bins=5)
    heights = [bar.get_height() for bar in figure.axes[0].patches[:5]]  # type: ignore[attr-defined]
    assert heights == pytest.approx([1.5, 0, 0, 0, 3.5])
    (band,) = [p for p in figure.axes[0].patches if p.get_label() == "chance, 90 %"]
    # Binomial(100, 1/5): 5 % and 95 % quantiles are 14 and 27.
    assert band.get_extents().height > 0
    assert (band.get_y(), band.get_height()) == pytest.approx((0.7, 0.65))  # type: ignore[attr-defined]
    _draws(figure)


def test_reliability_curves_lie_in_one_square() -> None:
    pit = torch.rand(500, dtype=torch.float64)
    curves = {"a": ev.reliability(pit), "b": ev.reliability(pit[:100])}
    figure = report.plot_reliability(curves)
    np.testing.assert_allclose(_line(figure.axes[0], "b"), curves["b"].coverage)
    assert _band(figure.axes[0], "chance")[1] == pytest.approx(curves["b"].upper.max().item())
    _draws(figure)


def test_coverage_and_crps_are_grouped_by_steps_ahead() -> None:
    """Oracle: the table of the backtest itself, step by step."""
    y = _data()[:, :1]
    runs = ds.backtest(ev.SeasonalNaive(7), y, start=0.5, horizon=6)
    figure = report.plot_horizons({"naive": runs}, level=0.8, groups=3)
    table = runs.scores("horizon", level=0.8)
    for axes, column in zip(figure.axes, ("cov80", "crps"), strict=True):
        shares = (table[column] * table["count"]).to_numpy().reshape(3, 2).sum(1)
        counts = table["count"].to_numpy().reshape(3, 2).sum(1)
        np.testing.assert_allclose(_line(axes, "naive"), shares / counts)
        np.testing.assert_allclose(np.asarray(axes.lines[0].get_xdata()), [1.5, 3.5, 5.5])
    assert "80 %" in figure.axes[0].get_title("left")
    _draws(figure)


def test_divergence_bars_are_sorted_and_marked() -> None:
    active = torch.tensor([False, True, True])
    figure = report.plot_divergence(torch.tensor([0.01, 0.5, 0.9]), active, ("a", "b", "c"))
    (axes,) = figure.axes
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([0.9, 0.5, 0.01])  # type: ignore[attr-defined]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["c", "b", "a"]
    assert axes.get_legend_handles_labels()[1] == ["active", "follows the prior"]
    _draws(figure)


def test_innovations_show_nis_and_autocorrelation() -> None:
    model, y = _model(), _data()
    found = ev.innovations(model, as_series(model, y), ds.filter(model, y))
    figure = report.plot_innovations(found, index=INDEX, component=1)
    nis, acf = figure.axes
    squared = ev.nis(found)
    keep = squared.dof > 0
    value, dof = squared.value[keep], squared.dof[keep]
    window = len(value) // 6
    means = [
        value[i : i + window].sum() / dof[i : i + window].sum()
        for i in range(len(value) - window + 1)
    ]
    np.testing.assert_allclose(np.asarray(nis.lines[0].get_ydata()), means)
    (bars,) = [c for c in acf.collections if hasattr(c, "get_segments")]
    e = found.standardized[:, 1] - found.standardized[:, 1].nanmean()
    expected = (e[3:] * e[:-3]).nanmean() / e.square().nanmean()
    assert bars.get_segments()[2][1][1] == pytest.approx(expected.item())  # type: ignore[attr-defined]
    _draws(figure)


def test_training_draws_the_objective_and_its_parts() -> None:
    history = [{"step": float(s), "objective": -100.0 / (s + 1), "kl": float(s)} for s in range(9)]
    history[4]["objective"] = float("nan")
    figure = report.plot_training(history, ("kl", "absent"))
    assert len(figure.axes) == 2 and len(_line(figure.axes[0], "objective")) == 8
    assert _line(figure.axes[1], "kl").tolist() == list(range(9))
    assert len(report.plot_training(history).axes) == 1
    _draws(figure)


@pytest.mark.parametrize(
    ("index", "kind"),
    [
        (pd.period_range("2020-01", periods=3, freq="M"), "M"),
        (pd.date_range("2020-01-01", periods=3, tz="Asia/Tokyo"), "M"),
        (pd.Index([2.0, 4.0, 6.0]), "f"),
        (pd.Index(["a", "b", "c"]), "i"),
        (None, "i"),
    ],
)
def test_labels_become_positions(index: pd.Index | None, kind: str) -> None:
    assert positions(index, 3).dtype.kind == kind


def test_plots_leave_pyplot_alone() -> None:
    code = (
        "import sys, torch, deepssm.report as r\n"
        "assert 'matplotlib' not in sys.modules\n"
        "r.plot_pit(torch.rand(50)).savefig('/dev/null', format='svg')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
