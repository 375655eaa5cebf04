"""Filled gaps and counterfactuals against exact conditioning."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from torch import Tensor

import deepssm as ds
from deepssm.api.validation import Labels
from deepssm.core.methods import Learned
from deepssm.core.model import LinearParameters, Series
from deepssm.core.results import Imputed
from deepssm.inference import LinearizedGuide, SmoothingGuide, active_units
from deepssm.inference.kalman.noises import completed_observations
from deepssm.inference.variational.active_units import divergence_by_component
from deepssm.inference.variational.amortized import Amortized

from .. import oracles
from ..deep_models import gappy_series, linear_deep, linear_parameters, neural_deep


def _conditioned(params: LinearParameters, series: Tensor) -> tuple[Tensor, Tensor]:
    """Moments of the missing entries, in order, by one dense Gaussian over all observations."""
    joint = oracles.joint(params, len(series))
    mean, cov, y = torch.as_tensor(joint.y_mean), torch.as_tensor(joint.y_cov), series.flatten()
    seen = ~torch.isnan(y)
    gain = cov[~seen][:, seen] @ torch.linalg.inv(cov[seen][:, seen])
    centre = mean[~seen] + gain @ (y[seen] - mean[seen])
    return centre, (cov[~seen][:, ~seen] - gain @ cov[seen][:, ~seen]).diagonal().sqrt()


def test_gaps_are_filled_as_by_one_dense_gaussian() -> None:
    """Correlated sensors, one silent at a time; 4000 draws, 5 standard errors."""
    model = ds.models.LinearGaussian(
        A=[[0.8, 0.3], [-0.2, 0.7]],
        Q=[[0.5, 0.2], [0.2, 0.4]],
        C=[[1.0, 0.4], [-0.3, 1.2]],
        R=[[0.6, 0.35], [0.35, 0.5]],
        b=[0.1, -0.2],
        d=[1.0, 2.0],
        m0=[0.3, -0.4],
        P0=[[1.0, 0.3], [0.3, 0.8]],
    )
    y = ds.simulate(model, 7, generator=torch.Generator().manual_seed(0)).y
    y[2, 0], y[4, 1], y[5] = torch.nan, torch.nan, torch.nan
    got = ds.impute(model, y, num_samples=4000, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        own = model.linear_parameters(None, None)
    centre, sd = _conditioned(own, y)
    missing = torch.isnan(y)
    assert ((got.mean[missing] - centre).abs() < 5 * sd / 4000**0.5).all()
    assert ((got.sd[missing] / sd - 1).abs() < 5 / 8000**0.5).all()
    assert torch.equal(got.mean[~missing], y[~missing])
    assert (got.sd[~missing] == 0).all()
    lower, upper = got.interval(0.9)
    assert (lower <= got.mean).all() and (got.mean <= upper).all()
    with pytest.raises(ValueError, match="`num_samples` must be at least 2"):
        ds.impute(model, y, num_samples=1)
    with pytest.raises(ValueError, match="`level` must lie strictly"):
        got.interval(1.0)


def test_deep_models_fill_gaps_component_by_component() -> None:
    model = linear_deep()
    series = gappy_series(model, time=6, batch=1)
    assert series.u is not None
    y = series.y[0].clone()
    y[2] = torch.tensor([torch.nan, 0.4])
    method = Amortized(LinearizedGuide())
    got = ds.impute(
        model, y, series.u[0], method=method, num_samples=4000,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    centre, sd = _conditioned(linear_parameters(model, series.u[0]), y)
    missing = torch.isnan(y)
    assert ((got.mean[missing] - centre).abs() < 5 * sd / 4000**0.5).all()


def test_the_same_inputs_give_the_same_readings_back() -> None:
    model = neural_deep()
    series = gappy_series(model, time=8, batch=2)
    assert series.u is not None
    method = Amortized(LinearizedGuide())
    again = ds.counterfactual(model, series.y, series.u, series.u, method=method, num_samples=5)
    seen = ~torch.isnan(series.y)
    torch.testing.assert_close(again.y[:, seen], series.y[seen].expand(5, -1))


def test_in_a_linear_model_only_the_difference_of_inputs_counts() -> None:
    """`z' - z` obeys `d_t = A d_{t-1} + B (u' - u)`, whatever the data."""
    model = linear_deep()
    series = gappy_series(model, time=8, batch=1)
    assert series.u is not None
    u, instead = series.u[0], series.u[0].clone()
    instead[4:] += 1.5
    method = Amortized(LinearizedGuide())
    generators = [torch.Generator().manual_seed(2) for _ in range(2)]
    was, now = (
        ds.counterfactual(model, series.y[0], u, v, method=method, num_samples=3, generator=g)
        for v, g in zip((u, instead), generators, strict=True)
    )
    weight = model.transition_net.get_parameter("linear.weight").detach()
    difference, expected = torch.zeros(2, dtype=torch.float64), []
    for t in range(8):
        if t:
            change = instead[t] - u[t]
            difference = weight[:, :2] @ difference + weight[:, 2:] @ change
        expected.append(difference)
    torch.testing.assert_close(now.z - was.z, torch.stack(expected).expand(3, 8, 2))
    seen = ~torch.isnan(series.y[0])
    assert seen[:4].any() and torch.equal(now.y[:, :4][:, seen[:4]], was.y[:, :4][:, seen[:4]])
    assert (now.y[:, 4:][:, seen[4:]] != was.y[:, 4:][:, seen[4:]]).all()
    with pytest.raises(ValueError, match="`u"):
        ds.counterfactual(model, series.y[0], u, instead[:5], method=method)


def test_noise_that_is_not_gaussian_is_refused() -> None:
    class Odd(ds.models.DeepMarkov):
        def transition(self, z, u=None, dt=None):  # noqa: ANN001, ANN202
            law = torch.distributions.Laplace(z, torch.ones_like(z))
            return torch.distributions.Independent(law, 1)

    model = Odd(1, 1, input_dim=1).double()
    u = torch.zeros(4, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match="a counterfactual needs a Gaussian one"):
        ds.counterfactual(model, u, u, u, method=Amortized(SmoothingGuide(1, 1, 1).double()))


def test_components_that_the_data_reach_are_active() -> None:
    """One state is seen, the other is noise of its own that nothing depends on."""
    model = linear_deep(state=2, obs=1, inputs=1, seed=3)
    with torch.no_grad():
        model.emission_net.get_parameter("linear.weight").copy_(torch.tensor([[1.0, 0.0, 0.0]]))
        weight = model.transition_net.get_parameter("linear.weight")
        weight.copy_(torch.tensor([[0.9, 0.0, 0.0], [0.0, 0.9, 0.0]]))
    g = torch.Generator().manual_seed(0)
    u = torch.zeros(20, 15, 1, dtype=torch.float64)
    series = Series(ds.simulate(model, 15, u=u, generator=g).y, u)
    assert active_units(model, LinearizedGuide(), series, 0.05).tolist() == [True, False]
    guide = SmoothingGuide(1, 2, 1, hidden=8).double()
    torch.nn.init.zeros_(guide.get_parameter("combiner.gain.weight"))
    found = divergence_by_component(model, guide, series)
    assert found.shape == (2,) and (found >= 0).all()
    heard, unheard = divergence_by_component(model, LinearizedGuide(), series).tolist()
    assert heard > 0.1 and abs(unheard) < 1e-9


def test_a_fit_asks_the_same_questions() -> None:
    """The shortcuts of a fit are the verbs with its model, data and method."""
    model = linear_deep()
    series = gappy_series(model, time=8, batch=2)
    learned = Learned(Amortized(LinearizedGuide()), 0.0, [], {}, {}, [])
    fit, g = ds.Fit(model, learned, series), torch.Generator
    assert series.u is not None
    instead = series.u + 0.5
    short = (
        fit.impute(num_samples=20, generator=g()),
        fit.counterfactual(instead, num_samples=20, generator=g()),
    )
    args = (model, series.y, series.u)
    long = (
        ds.impute(*args, num_samples=20, method=fit.method, generator=g()),
        ds.counterfactual(*args, instead, num_samples=20, method=fit.method, generator=g()),
    )
    for left, right in zip(short, long, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_classical_fits_answer_what_if_and_fill_gaps() -> None:
    """A diffuse regression whose matrix holds the inputs, without noise on the slopes.

    Its slopes stay, so a counterfactual moves `y` by slope times the change of the input.
    """
    model = ds.models.LocalLevel() + ds.models.Regression(2)
    g = torch.Generator().manual_seed(0)
    u = torch.randn(30, 2, generator=g, dtype=torch.float64)
    y = (u @ torch.tensor([1.0, -2.0]).double() + torch.randn(30, generator=g).double())[:, None]
    y[4:6] = torch.nan
    fit = ds.fit(model, y, u, progress=False)
    filled, exact = fit.impute(num_samples=4000, generator=g), fit.smooth()
    C = model.linear_parameters(u, None).emission.matrix
    noise = model.linear_parameters(u, None).emission.cov[..., 0, 0]
    centre = (C @ exact.mean[..., None])[..., 0].detach()
    sd = ((C @ exact.cov @ C.mT)[..., 0] + noise).sqrt().detach()
    assert ((filled.mean - centre)[4:6].abs() < 5 * sd[4:6] / 4000**0.5).all()
    assert ((filled.sd / sd)[4:6] - 1).abs().max() < 5 / 8000**0.5
    instead = u.clone()
    instead[10, 0] += 3.0
    other = fit.counterfactual(instead, num_samples=5, generator=g)
    change = torch.zeros(5, 30, 1, dtype=torch.float64)
    slope = fit.model.state_names.index("beta0") if "beta0" in model.state_names else 1
    change[:, 10, 0] = 3.0 * other.z[:, 10, slope]
    seen = ~torch.isnan(y)
    torch.testing.assert_close(other.y[:, seen], (y + change)[:, seen])
    with pytest.raises(ValueError, match="`u_instead` must hold one finite row"):
        fit.counterfactual(u[:5])


def test_filled_gaps_keep_the_rows_and_columns_of_a_frame() -> None:
    index = pd.date_range("2024-01-01", periods=6, freq="D")
    values = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)).numpy()
    frame = pd.DataFrame(values, index, ["a", "b"])
    frame.iloc[2, 1] = float("nan")
    method = Amortized(LinearizedGuide())
    filled = ds.impute(linear_deep(inputs=0), frame, method=method).to_frame()
    assert list(filled.columns) == ["a", "a_sd", "b", "b_sd"] and filled.index.equals(index)
    assert filled["b_sd"].gt(0).tolist() == [False, False, True, False, False, False]
    fit = ds.Fit(
        linear_deep(inputs=0),
        Learned(method, 0.0, [], {}, {}, []),
        Series(torch.ones(3, 2).double()),
    )
    assert (
        fit.labelled(Labels(index[:3], ("a", "b")))
        .impute(num_samples=2)
        .to_frame()
        .index.equals(index[:3])
    )
    with pytest.raises(ValueError, match="the model has no inputs to be other"):
        fit.counterfactual(torch.zeros(3, 1))


def test_noiseless_sensors_are_filled_by_exact_conditioning() -> None:
    """Two copies of one noise: the silent sensor is known, though `R` is singular."""
    model = ds.models.LinearGaussian(
        A=[[0.8]], Q=[[0.5]], C=[[1.0], [-0.5]], R=[[0.4, 0.8], [0.8, 1.6]], m0=[0.0], P0=[[1.0]]
    )
    g = torch.Generator().manual_seed(0)
    drawn = ds.simulate(model, 5, generator=g)
    y = drawn.y.clone()
    y[3, 1] = torch.nan
    z, filled = (
        drawn.z,
        completed_observations(model.linear_parameters(None, None).emission, drawn.z, y, g),
    )
    torch.testing.assert_close(filled[3, 1], -0.5 * z[3, 0] + 2.0 * (y[3, 0] - z[3, 0]))


def test_intervals_of_few_draws_hold_a_further_one_as_often_as_they_say() -> None:
    """39 draws and a 40th, 20000 times; 5 standard errors are 0.011."""
    g = torch.Generator().manual_seed(0)
    draws = torch.randn(40, 1, 20_000, generator=g, dtype=torch.float64)
    low, high = Imputed(draws[0], draws[0], draws[:39]).interval(0.9)
    inside = ((low < draws[39]) & (draws[39] < high)).double().mean()
    assert abs(float(inside) - 0.9) < 5 * (0.09 / 20_000) ** 0.5
    low, high = Imputed(draws[0], draws[0], draws[:2]).interval(0.9)
    assert torch.equal(low, draws[:2].amin(0)) and torch.equal(high, draws[:2].amax(0))
