"""Residual diagnostics and the summary table against Durbin & Koopman and statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

import deepssm as ds
from deepssm.api.summary import _interval, _rows
from deepssm.api.summary import summary_text as summary
from deepssm.core.methods import Learned
from deepssm.core.model import Readable, Series
from deepssm.evaluation.residuals import autocorrelation, residual_tests, residuals
from deepssm.inference.estimation.maximum_likelihood import MaximumLikelihood
from deepssm.inference.kalman.method import Kalman
from deepssm.models import LinearGaussian, LocalLevel, LocalLinearTrend
from deepssm.report.plots_residuals import plot_disturbances, plot_residuals

from .. import oracles

LEARNED = Learned(Kalman(), 0.0, [], {}, {}, [])


def nile() -> Tensor:
    datasets = pytest.importorskip("statsmodels.datasets")
    return torch.tensor(datasets.nile.load_pandas().data["volume"].values).double()[:, None]


def nile_residuals() -> Tensor:
    return residuals(LocalLevel(1469.1, noise_variance=15099.0), Series(nile()), Kalman())


def general(params: object) -> LinearGaussian:
    (m0, P0, _), (A, b, Q), (C, d, R) = params  # type: ignore[misc]
    return LinearGaussian(A, Q, C, R, b=b, d=d, m0=m0, P0=P0)


def test_nile_residuals_have_the_books_statistics() -> None:
    """Durbin & Koopman (2012), page 40: to the two digits printed."""
    tests = residual_tests(nile_residuals(), lags=9)
    assert tests.ljung_box[0].item() == pytest.approx(8.84, abs=5e-3)
    assert tests.jarque_bera[0].item() == pytest.approx(0.05, abs=5e-3)
    assert tests.skewness.item() == pytest.approx(-0.03, abs=5e-3)
    assert tests.kurtosis.item() == pytest.approx(3.09, abs=5e-3)
    assert tests.heteroskedasticity[0].item() == pytest.approx(0.61, abs=5e-3)


def test_statistics_and_p_values_are_those_of_statsmodels() -> None:
    diagnostic = pytest.importorskip("statsmodels.stats.diagnostic")
    stattools = pytest.importorskip("statsmodels.stats.stattools")
    e = nile_residuals()
    tests = residual_tests(e, lags=9)
    seen = e[1:, 0].numpy()
    expected = diagnostic.acorr_ljungbox(seen - seen.mean(), lags=[9]).iloc[0]
    assert tests.ljung_box[0].item() == pytest.approx(expected["lb_stat"], rel=1e-10)
    assert tests.ljung_box[1].item() == pytest.approx(expected["lb_pvalue"], rel=1e-10)
    statistic, p, skewness, kurtosis = stattools.jarque_bera(seen)
    assert tests.jarque_bera[0].item() == pytest.approx(statistic, rel=1e-10)
    assert tests.jarque_bera[1].item() == pytest.approx(p, rel=1e-10)


def test_residuals_of_the_right_model_are_the_oracles_whitening() -> None:
    """`e'e` over all steps is the quadratic form of the dense joint density."""
    params = oracles.random_linear_gaussian(3, 2, 12, seed=2, time_varying=True)
    _, y = oracles.sample(params, 12, seed=3)
    y = oracles.punch_holes(y, 0.2, seed=4)
    e = residuals(general(params), Series(y), Kalman())
    joint = oracles.joint(params, 12)
    seen = ~y.isnan().flatten().numpy()
    error = y.flatten().numpy()[seen] - joint.y_mean[seen]
    form = error @ np.linalg.solve(joint.y_cov[np.ix_(seen, seen)], error)
    assert e.square().nansum().item() == pytest.approx(form)
    assert torch.equal(e.isnan(), y.isnan())


def test_diffuse_steps_have_no_residual() -> None:
    y = torch.cat([torch.full((1, 1), torch.nan, dtype=torch.float64), nile()[:6]])
    model = LocalLinearTrend(1.0, 1.0, noise_variance=1.0)
    e = residuals(model, Series(y), Kalman())
    assert e[:3].isnan().all() and not e[3:].isnan().any()


def test_false_alarms_come_at_the_stated_rate() -> None:
    """4000 white series at 5 %: each share lies in 5 % +- 1.5 % (failure rate below 1e-4)."""
    e = torch.randn(4000, 200, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tests = residual_tests(e, lags=10)
    for _, p in (tests.ljung_box, tests.heteroskedasticity):
        assert abs((p < 0.05).double().mean().item() - 0.05) < 0.015
    assert 0.02 < (tests.jarque_bera[1] < 0.05).double().mean().item() < 0.065


def test_each_test_sees_its_own_fault() -> None:
    noise = torch.randn(300, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    correlated = noise.clone()
    correlated[1:] += 0.5 * noise[:-1]
    growing = noise * torch.linspace(0.5, 2, 300, dtype=torch.float64)[:, None]
    assert residual_tests(correlated).ljung_box[1].item() < 1e-6
    assert residual_tests(noise**3).jarque_bera[1].item() < 1e-6
    ratio, p = residual_tests(growing).heteroskedasticity
    assert ratio.item() > 4 and p.item() < 1e-6
    calm = residual_tests(noise)
    assert min(calm.ljung_box[1].item(), calm.heteroskedasticity[1].item()) > 0.05


def test_autocorrelation_pairs_what_was_seen_that_far_apart() -> None:
    e = torch.tensor([1.0, -1.0, torch.nan, 1.0, -1.0, 1.0], dtype=torch.float64)
    r, pairs = autocorrelation(e, 1)
    assert pairs.item() == 3
    centred = e - 0.2
    expected = (centred[0] * centred[1] + centred[3] * centred[4] + centred[4] * centred[5]) / 3
    assert r.item() == pytest.approx((expected / centred.square().nanmean()).item())


def test_residuals_need_a_linear_model() -> None:
    with pytest.raises(ValueError, match="need a linear-Gaussian model, got Module"):
        residuals(torch.nn.Module(), Series(nile()), Kalman())  # type: ignore[arg-type]


def test_summary_shows_estimates_errors_and_tests() -> None:
    model = LocalLevel()
    series = Series(nile())
    learned = MaximumLikelihood(inference=Kalman()).fit(model, series, progress=False)
    text = summary(model, learned, series)
    assert "-633.4646" in text and "1272.9291" in text
    level = next(line.split() for line in text.splitlines() if line.startswith("level_variance"))
    ratio = np.exp(1.959964 * 1280.3754 / 1469.1764)
    assert [float(x) for x in level[1:3]] == pytest.approx([1469.176, 1280.375], rel=1e-3)
    assert [float(x) for x in level[5:]] == pytest.approx(
        [1469.176 / ratio, 1469.176 * ratio], 1e-3
    )
    assert "Ljung-Box Q(9)" in text and "8.843" in text
    assert max(map(len, text.splitlines())) <= 90


def test_summary_carries_warnings_and_counts_alarms_over_many_series() -> None:
    model = LocalLinearTrend()
    series = Series(nile().expand(6, 100, 1))
    learned = MaximumLikelihood(inference=Kalman()).fit(model, series, progress=False)
    text = summary(model, learned, series)
    assert "Warning: `slope_variance` sits at its bound 0" in text
    assert "p < 0.05 in 0 of 6" in text
    assert "100 x 6 series" in text


def test_plot_has_four_panels_and_wants_one_series() -> None:
    figure = plot_residuals(nile_residuals())
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0].startswith("Standardised") and titles[3].startswith("Autocorrelations")
    assert len(figure.axes[3].patches) == 20
    with pytest.raises(ValueError, match="`standardized` must be one series"):
        plot_residuals(torch.zeros(3, 10))
    with pytest.raises(ValueError, match="at least 3 residuals"):
        plot_residuals(torch.full((9,), torch.nan))


def test_plot_of_disturbances_names_the_peaks() -> None:
    fit = ds.Fit(LocalLevel(1469.1, noise_variance=15099.0), LEARNED, Series(nile()))
    figure = fit.plot_disturbances(2.5)
    named = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert named == [["6", "42"], ["28"]]  # 1877 and 1913; of 1897 to 1899 only the last
    assert figure.axes[0].get_title().startswith("Auxiliary residuals of y")
    assert len(fit.plot_disturbances(columns=["level"]).axes) == 1
    assert len(fit.plot_residuals().axes) == 4
    dated = ds.disturbances(fit.model, ds.data.nile())
    assert [x.get_text() for x in plot_disturbances(dated).axes[0].texts] == ["1913"]


def test_plot_of_disturbances_wants_one_series_and_a_column() -> None:
    model = LocalLevel(1.0, noise_variance=1.0)
    with pytest.raises(ValueError, match="`disturbances` must be of one series"):
        plot_disturbances(ds.disturbances(model, torch.zeros(2, 5, 1)))
    with pytest.raises(ValueError, match=r"`columns` must be some of \['y', 'level'\]"):
        plot_disturbances(ds.disturbances(model, torch.zeros(5, 1)), columns=["slope"])


def test_summary_lists_constant_states_and_what_is_unusual() -> None:
    """The dam of 1899: the flow fell by 247.8, Cobb (1978), Biometrika 65, 243-251."""
    flow = ds.data.nile()
    step = torch.tensor([[float(date.year >= 1899)] for date in flow.index])
    model = LocalLevel(0.0) + ds.models.Regression(1)
    text = ds.fit(model, flow, step, progress=False).summary()
    assert "Sample: 1871-01-01 to 1970-01-01" in text and "Data: nile" in text
    effect = next(line.split() for line in text.splitlines() if line.startswith("regression"))
    mean = flow[:28].mean() - flow[28:].mean()
    assert float(effect[1]) == pytest.approx(-mean, abs=1e-3) and -247.9 < -mean < -247.7
    assert "nile, 1913-01-01                    -3.11" in text
    assert "level.level" not in text.split("Constant states")[0]


def test_summary_keeps_long_names_whole_and_its_columns_aligned() -> None:
    """Names that differ at their beginnings only, and one longer than a row."""
    names = ["first_of_two_very_long_names_of_columns", "second_of_two_very_long_names_of_columns"]
    names = [f"{name}.variance" for name in names] + ["x" * 90]
    rows = [Readable(name, torch.tensor([0.25, 4.0]), constraints.positive) for name in names]
    text = [_rows(row, torch.tensor([0.1, 1.0]), 30) for row in rows]
    for name, lines in zip(names, text, strict=True):
        assert "".join(lines).replace(" ", "").startswith(f"{name}[0]0.2500")
        numbers = [line for line in lines if "0.2500" in line or "4.0000" in line]
        assert len(numbers) == 2 and max(map(len, lines)) <= 90
        assert {len(line) for line in numbers} == {90}


def test_summary_counts_the_weights_of_networks() -> None:
    model = ds.models.DeepMarkov(1, 2, hidden=3)
    learned = ds.fit(
        model, np.arange(12.0), method=ds.inference.SVI(steps=1), progress=False
    ).learned
    text = summary(model, learned, Series(torch.zeros(12, 1)))
    assert "transition_net.layer.weight" in text and "3 x 2 values" in text
    assert "layer.weight[" not in text and "emission_net.raw_scale[0]" in text


def test_intervals_of_probabilities_stay_between_0_and_1() -> None:
    low, high = _interval(0.02, 0.015, constraints.unit_interval)
    logits = torch.logit(torch.tensor([low, 0.02, high], dtype=torch.float64))
    reach = 1.959964 * 0.015 / (0.02 * 0.98)
    assert logits.diff().tolist() == pytest.approx([reach, reach])
