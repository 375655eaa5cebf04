from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from filterpy import kalman

import deepssm as ds
from deepssm.interop.filterpy import from_filterpy, from_measurements, to_filterpy
from tests.interop.filterpy_filters import assert_close, generic_filter, measurements


@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("update_first", [False, True])
def test_filter_and_smoother_equal_those_of_filterpy(column: bool, update_first: bool) -> None:
    kf, zs = generic_filter(column), measurements(column)
    model, y = from_filterpy(kf, update_first=update_first), from_measurements(zs, 2)
    means, covs, prior_means, prior_covs = kf.batch_filter(zs, update_first=update_first)
    filtered = ds.filter(model, y)
    assert_close(filtered.mean, means)
    assert_close(filtered.cov, covs)
    if update_first:
        # filterpy then stores the prediction of the next step.
        assert_close(filtered.predicted_mean[1:], prior_means[:-1])
        assert_close(filtered.predicted_cov[1:], prior_covs[:-1])
    else:
        assert_close(filtered.predicted_mean, prior_means)
        assert_close(filtered.predicted_cov, prior_covs)
    smoothed = ds.smooth(model, y)
    expected, expected_cov, *_ = kf.rts_smoother(means, covs)
    assert_close(smoothed.mean, expected)
    assert_close(smoothed.cov, expected_cov)


def test_log_likelihood_equals_that_of_a_loop() -> None:
    kf, zs = generic_filter(), measurements()
    found = ds.log_likelihood(from_filterpy(kf), from_measurements(zs, 2))
    for t, z in enumerate(zs):
        kf.predict()
        kf.update(z)
        if z is not None:
            assert found[t].item() == pytest.approx(kf.log_likelihood, rel=1e-10)
        else:
            assert found[t].item() == 0.0


@pytest.mark.parametrize("inputs", [1, 2])
def test_inputs_drive_the_same_steps(inputs: int) -> None:
    kf, zs = generic_filter(inputs=inputs), measurements()
    u = np.random.default_rng(2).normal(size=(20, inputs))
    model = from_filterpy(kf, u0=u[0])
    means, covs, prior_means, _ = kf.batch_filter(zs, us=list(u))
    filtered = ds.filter(model, from_measurements(zs, 2), torch.from_numpy(u))
    assert_close(filtered.mean, means)
    assert_close(filtered.cov, covs)
    assert_close(filtered.predicted_mean, prior_means)


@pytest.mark.parametrize("inputs", [0, 2])
def test_there_and_back_again(inputs: int) -> None:
    kf = generic_filter(inputs=inputs)
    again = to_filterpy(from_filterpy(kf, update_first=True))
    for name in ("x", "P", "F", "H", "Q", "R", "B"):
        if getattr(kf, name) is not None:
            np.testing.assert_allclose(getattr(again, name), getattr(kf, name), rtol=1e-14)
    assert (again.B is None) == (kf.B is None)


def test_a_model_of_ours_runs_in_filterpy() -> None:
    eye = torch.eye(2)
    model = ds.models.LinearGaussian(
        [[0.9, 0.2], [0.0, 0.7]], 0.3 * eye, [[1.0, 0.5]], [[0.4]], m0=[1.0, -1.0], P0=2 * eye
    )
    y = torch.randn(12, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    means, covs, *_ = to_filterpy(model).batch_filter(y.numpy(), update_first=True)
    filtered = ds.filter(model, y)
    assert_close(filtered.mean, means)
    assert_close(filtered.cov, covs)


def test_the_filter_is_only_read() -> None:
    kf = generic_filter()
    before = {name: np.copy(getattr(kf, name)) for name in ("x", "P", "F", "H", "Q", "R")}
    model = from_filterpy(kf)
    with torch.no_grad():
        for tensor in (model.A, model.Q, model.C, model.R, model.m0, model.P0):
            tensor.zero_()
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(kf, name), value)


def test_other_filters_are_refused_with_a_way_out() -> None:
    fading = kalman.FadingKalmanFilter.__new__(kalman.FadingKalmanFilter)
    with pytest.raises(ValueError, match="got FadingKalmanFilter.*with the same matrices"):
        from_filterpy(fading)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"H": np.eye(2)}, r"`kf.H` must be \(dim_z, dim_x\) = \(2, 3\), got \(2, 2\)"),
        ({"F": np.eye(2)}, r"`kf.F` must be its square shape = \(3, 3\)"),
        ({"x": np.zeros(2)}, r"`kf.x` must hold dim_x = 3 numbers, got shape \(2,\)"),
        ({"alpha": 1.02}, "`kf.alpha` must be 1, got 1.02"),
        ({"M": np.ones((3, 2))}, "`kf.M` must be zero"),
    ],
)
def test_what_a_model_cannot_express_is_named(change: dict, message: str) -> None:
    kf = generic_filter()
    for name, value in change.items():
        setattr(kf, name, value)
    with pytest.raises(ValueError, match=message):
        from_filterpy(kf)


def test_inputs_must_fit() -> None:
    with pytest.raises(ValueError, match="as many numbers as `kf.B` has columns, 0, got 1"):
        from_filterpy(generic_filter(), u0=[1.0])
    with pytest.raises(ValueError, match="2, got 1"):
        from_filterpy(generic_filter(inputs=2), u0=[1.0])
    with pytest.raises(
        ValueError, match=r"`zs` must hold `None` or 2 number\(s\).*got 3 at step 1"
    ):
        from_measurements([None, [1.0, 2.0, 3.0]], 2)


_EYE = torch.eye(1, dtype=torch.float64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial": "diffuse"}, "`model` starts diffuse"),
        ({"P0": _EYE, "b": torch.ones(1)}, "`model` has offsets"),
        ({"P0": _EYE, "d": torch.ones(1)}, "`model` has offsets"),
        ({"P0": _EYE, "D": _EYE}, r"inputs in its emission \(`D`\)"),
        ({"P0": _EYE, "A": torch.ones(4, 1, 1).double()}, "one set of constant matrices"),
        ({"P0": _EYE, "R": torch.ones(4, 1, 1).double()}, "one set of constant matrices"),
    ],
)
def test_what_filterpy_cannot_express_is_named(options: dict, message: str) -> None:
    matrices: dict[str, Any] = {"A": _EYE, "Q": _EYE, "C": _EYE, "R": _EYE} | options
    with pytest.raises(ValueError, match=message):
        to_filterpy(ds.models.LinearGaussian(**matrices))
