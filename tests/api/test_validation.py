"""Every malformed input is refused at the door by the name of its argument."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pyro.distributions import LogNormal
from pyro.nn import PyroSample

import deepssm as ds
from deepssm.api.validation import as_series

EYE = [[1.0, 0.0], [0.0, 1.0]]


def model(**changes: Any) -> ds.models.LinearGaussian:  # noqa: ANN401
    given: dict[str, Any] = {"A": EYE, "Q": EYE, "C": EYE, "R": EYE, "P0": EYE}
    return ds.models.LinearGaussian(**(given | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Q": [[1.0, 0.0], [0.0, -1.0]]}, "`Q` must be positive semi-definite"),
        ({"Q": [[1.0, 2.0], [2.0, 1.0]]}, "`Q` must be positive semi-definite"),
        ({"R": [[1.0, 0.5], [0.0, 1.0]]}, "`R` must be symmetric"),
        ({"P0": [[-1.0, 0.0], [0.0, 1.0]]}, "`P0` must be positive semi-definite"),
        ({"A": [[np.nan, 0.0], [0.0, 1.0]]}, "`A` must be finite"),
        ({"C": [[1.0, 0.0, 0.0]]}, r"`C` must have shape \(1, 2\)"),
        ({"m0": [0.0, 0.0, 0.0]}, r"`m0` must have shape \(2,\)"),
        ({"P0": None}, "`P0`, the covariance of the first state, is missing"),
        ({"initial": "stationary"}, "spectral radius 1"),
        ({"initial": "flat"}, '`initial` must be "known"'),
        ({"A": torch.eye(2, dtype=torch.float32, requires_grad=True)}, "torch.float64 while `A`"),
    ],
)
def test_malformed_models(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(**changes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"y": torch.zeros(5, 3)}, "the model observes 2 component"),
        ({"y": torch.zeros(5)}, "Time goes second to last"),
        ({"y": [[1.0, np.inf]]}, "`y` must be finite or NaN"),
        ({"y": [["a", "b"]]}, "`y` must hold numbers"),
        ({"y": torch.zeros(5, 2, dtype=torch.complex64)}, "`y` must be real"),
        ({"u": torch.zeros(5, 1)}, "`u` is given, but the model has 0"),
        ({"dt": torch.ones(4)}, "`dt` must be a number or have shape"),
        ({"dt": -1.0}, "`dt` must be finite and not negative"),
        ({"dt": torch.tensor([0.0, 1.0, np.nan, 1.0, 1.0])}, "`dt` must be finite"),
        ({"lengths": torch.tensor(7)}, "`lengths` must be whole numbers between 0 and time = 5"),
        ({"lengths": torch.tensor([2, 3])}, "`lengths` must have the batch shape"),
    ],
)
def test_malformed_data(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_series(model(), **({"y": torch.zeros(5, 2)} | arguments))


def test_malformed_inputs() -> None:
    driven = model(B=[[1.0], [0.0]])
    y = torch.zeros(5, 2)
    with pytest.raises(ValueError, match="`u` is missing"):
        ds.filter(driven, y)
    with pytest.raises(ValueError, match="`u` must end in"):
        ds.filter(driven, y, torch.zeros(4, 1))
    with pytest.raises(ValueError, match="`u` must be finite"):
        ds.filter(driven, y, torch.full((5, 1), np.nan))
    with pytest.raises(ValueError, match="`u_future` is missing"):
        ds.forecast(driven, y, 3, u=torch.zeros(5, 1))
    with pytest.raises(ValueError, match="`u_future` must end in"):
        ds.forecast(driven, y, 3, u=torch.zeros(5, 1), u_future=torch.zeros(2, 1))
    with pytest.raises(ValueError, match="`u_future` is given, but"):
        ds.forecast(model(), y, 3, u_future=torch.zeros(3, 1))


def test_malformed_requests() -> None:
    y = torch.zeros(5, 2)
    with pytest.raises(ValueError, match="`horizon` must be a whole number"):
        ds.forecast(model(), y, 0)
    with pytest.raises(ValueError, match="`dt` and `dt_future` must be given together"):
        ds.forecast(model(), y, 2, dt=torch.ones(5))
    with pytest.raises(ValueError, match="`num_samples` must be a whole number"):
        ds.sample_posterior(model(), y, num_samples=0)
    with pytest.raises(ValueError, match="`time` must be"):
        ds.simulate(model(), -1)
    with pytest.raises(ValueError, match="cannot be simulated"):
        ds.simulate(model(initial="diffuse"), 5)
    with pytest.raises(ValueError, match="has nothing to learn"):
        ds.fit(model(), y)
    with pytest.raises(ValueError, match="holds no observation"):
        ds.fit(model(), y * np.nan)
    with pytest.raises(ValueError, match="`level` must lie strictly"):
        ds.forecast(model(), y, 1).interval(1.0)
    with pytest.raises(ValueError, match="`q` must lie strictly"):
        ds.forecast(model(), y, 1).quantile(0.0)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (ds.inference.Kalman, "must infer states, .* got the class Kalman"),
        ("kalman", "must infer states, .* got str"),
        (ds.inference.MaximumLikelihood(), "must infer states, .* got MaximumLikelihood"),
    ],
)
def test_what_cannot_infer_is_no_method(method: Any, words: str) -> None:  # noqa: ANN401
    with pytest.raises(ValueError, match=f"`method` {words}"):
        ds.filter(model(), torch.zeros(5, 2), method=method)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (ds.inference.SVI, "got the class SVI"),
        (ds.inference.Unscented(), "MaximumLikelihood\\(inference=...\\).* got Unscented"),
    ],
)
def test_what_cannot_learn_is_no_learner(method: Any, words: str) -> None:  # noqa: ANN401
    with pytest.raises(ValueError, match=f"`method` must learn parameters, .*{words}"):
        ds.fit(ds.models.LocalLevel(), [1.0, 2.0], method=method)


def test_a_class_is_no_model() -> None:
    named: Any = ds.models.LocalLevel
    with pytest.raises(ValueError, match="`model` must be a model, got the class LocalLevel"):
        ds.filter(named, [1.0, 2.0])


def test_numbers_of_numpy_count() -> None:
    count: Any = [np.int64(x) for x in (3, 2, 0)]
    forecast = ds.forecast(model(), torch.zeros(5, 2), count[0], num_samples=count[1])
    assert forecast.mean.shape == (3, 2) and forecast.samples is not None
    with pytest.raises(ValueError, match="`horizon` must be a whole number"):
        ds.forecast(model(), torch.zeros(5, 2), count[2])


def test_lengths_make_the_padding_missing() -> None:
    y = torch.randn(2, 5, 2)
    padded = ds.log_likelihood(model(), y, lengths=torch.tensor([3, 5]))
    alone = ds.log_likelihood(model(), y[0, :3])
    assert torch.equal(padded[0], torch.cat((alone, torch.zeros(2).double())))


def test_a_scalar_series_may_drop_its_last_axis() -> None:
    scalar = ds.models.LinearGaussian([[1.0]], [[1.0]], [[1.0]], [[1.0]], P0=[[1.0]])
    assert ds.filter(scalar, [0.1, None, 0.3]).mean.shape == (3, 1)  # type: ignore[list-item]


def test_frames_go_in_and_come_out_with_their_dates() -> None:
    index = pd.date_range("2024-01-01", periods=6, freq="D")
    frame = pd.DataFrame({"a": range(6), "b": 1.0}, index=index, dtype=float)
    smoothed = ds.smooth(model(), frame).to_frame()
    assert smoothed.index.equals(index) and list(smoothed)[:2] == ["z0_mean", "z0_sd"]
    forecast = ds.forecast(model(), frame, 3).to_frame()
    assert list(forecast.index) == list(pd.date_range("2024-01-07", periods=3, freq="D"))
    assert list(forecast)[:4] == ["a_mean", "a_sd", "a_lower", "a_upper"]


def test_irregular_dates_need_their_time_steps() -> None:
    index = pd.DatetimeIndex(["2024-01-01", "2024-01-02", "2024-01-07", "2024-01-08"])
    frame = pd.DataFrame({"a": 1.0, "b": 2.0}, index=index)
    with pytest.raises(ValueError, match="irregular"):
        ds.filter(model(), frame)
    steps = [0.0, 1.0, 5.0, 1.0]
    moving = ds.models.ConstantVelocity(2, diffusion=1.0, noise_variance=1.0)
    assert ds.filter(moving, frame, dt=steps).mean.shape == (4, 4)
    with pytest.raises(ValueError, match="`dt` has steps of several lengths"):
        ds.filter(model(), frame, dt=steps)
    # Matrices of its own for each step may know what the steps are.
    varying = model(A=np.tile(EYE, (4, 1, 1)))
    assert ds.filter(varying, frame, dt=steps).mean.shape == (4, 2)


def test_simulations_follow_the_model() -> None:
    """Moments of 4000 draws; fails by chance with probability < 1e-5 (5 standard errors)."""
    stationary = model(A=[[0.9, 0.2], [0.0, 0.5]], initial="stationary", P0=None)
    drawn = ds.simulate(
        stationary, 4, num_samples=4000, generator=torch.Generator().manual_seed(1)
    )
    expected = stationary.initial().covariance_matrix + torch.eye(2)
    for t in (0, 3):
        error = torch.cov(drawn.y[:, t].T) - expected
        assert float((error.abs() / (expected.diagonal().max() * 2**0.5 / 4000**0.5)).max()) < 5


def test_a_prior_is_something_to_learn() -> None:
    """Nothing requires a gradient here, yet `NUTS` and maximum a posteriori have work to do."""
    level = ds.models.LocalLevel(1.0)
    prior = LogNormal(torch.tensor(0.0, dtype=torch.float64), 1.0)
    setattr(level, "noise_variance", PyroSample(prior))  # noqa: B010
    assert not any(p.requires_grad for p in level.parameters())
    y = torch.randn(30, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fit = ds.fit(level, y, progress=False)
    value = level.noise_variance.detach().requires_grad_()
    fixed = ds.models.LinearGaussian(
        [[1.0]], [[1.0]], [[1.0]], value.reshape(1, 1), initial="diffuse"
    )
    (slope,) = torch.autograd.grad(
        ds.log_likelihood(fixed, y).sum() + prior.log_prob(value), value
    )
    assert abs(float(slope)) < 1e-4 and fit.learned.objective < 0
