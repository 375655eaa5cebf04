from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from filterpy import kalman
from filterpy.kalman import KalmanFilter

import deepssm as ds
from deepssm.interop.filterpy import from_filterpy, from_measurements, to_filterpy

NONE_AT = (0, 4, 5, 11)


def _filter(column: bool = False, inputs: int = 0) -> KalmanFilter:
    kf = KalmanFilter(dim_x=3, dim_z=2, dim_u=inputs)
    rng = np.random.default_rng(0)
    kf.F = np.array([[0.9, 0.3, 0.0], [-0.2, 0.8, 0.1], [0.0, 0.4, 0.5]])
    kf.H = rng.normal(size=(2, 3))
    for name, size in (("Q", 3), ("R", 2), ("P", 3)):
        root = rng.normal(size=(size, size))
        setattr(kf, name, root @ root.T + 0.2 * np.eye(size))
    kf.x = rng.normal(size=(3, 1) if column else 3)
    if inputs:
        setattr(kf, "B", rng.normal(size=(3, inputs)))  # noqa: B010
    return kf


def _measurements(column: bool = False, time: int = 20) -> list[np.ndarray | None]:
    rng = np.random.default_rng(1)
    zs = rng.normal(size=(time, 2, 1) if column else (time, 2))
    return [None if t in NONE_AT else z for t, z in enumerate(zs)]


def _close(ours: torch.Tensor, theirs: np.ndarray) -> None:
    np.testing.assert_allclose(
        ours.detach().numpy(), theirs.reshape(ours.shape), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("update_first", [False, True])
def test_filter_and_smoother_equal_those_of_filterpy(column: bool, update_first: bool) -> None:
    kf, zs = _filter(column), _measurements(column)
    model, y = from_filterpy(kf, update_first=update_first), from_measurements(zs, 2)
    means, covs, prior_means, prior_covs = kf.batch_filter(zs, update_first=update_first)
    filtered = ds.filter(model, y)
    _close(filtered.mean, means)
    _close(filtered.cov, covs)
    if update_first:
        # filterpy then stores the prediction of the next step.
        _close(filtered.predicted_mean[1:], prior_means[:-1])
        _close(filtered.predicted_cov[1:], prior_covs[:-1])
    else:
        _close(filtered.predicted_mean, prior_means)
        _close(filtered.predicted_cov, prior_covs)
    smoothed = ds.smooth(model, y)
    expected, expected_cov, *_ = kf.rts_smoother(means, covs)
    _close(smoothed.mean, expected)
    _close(smoothed.cov, expected_cov)


def test_log_likelihood_equals_that_of_a_loop() -> None:
    kf, zs = _filter(), _measurements()
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
    kf, zs = _filter(inputs=inputs), _measurements()
    u = np.random.default_rng(2).normal(size=(20, inputs))
    model = from_filterpy(kf, u0=u[0])
    means, covs, prior_means, _ = kf.batch_filter(zs, us=list(u))
    filtered = ds.filter(model, from_measurements(zs, 2), torch.from_numpy(u))
    _close(filtered.mean, means)
    _close(filtered.cov, covs)
    _close(filtered.predicted_mean, prior_means)


@pytest.mark.parametrize("inputs", [0, 2])
def test_there_and_back_again(inputs: int) -> None:
    kf = _filter(inputs=inputs)
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
    _close(filtered.mean, means)
    _close(filtered.cov, covs)


def test_the_filter_is_only_read() -> None:
    kf = _filter()
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
    kf = _filter()
    for name, value in change.items():
        setattr(kf, name, value)
    with pytest.raises(ValueError, match=message):
        from_filterpy(kf)


def test_inputs_must_fit() -> None:
    with pytest.raises(ValueError, match="as many numbers as `kf.B` has columns, 0, got 1"):
        from_filterpy(_filter(), u0=[1.0])
    with pytest.raises(ValueError, match="2, got 1"):
        from_filterpy(_filter(inputs=2), u0=[1.0])
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
