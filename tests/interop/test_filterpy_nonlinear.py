"""filterpy's nonlinear filters and ours on the same data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from filterpy.kalman import (
    CubatureKalmanFilter,
    EnsembleKalmanFilter,
    ExtendedKalmanFilter,
    IMMEstimator,
    InformationFilter,
    JulierSigmaPoints,
    MerweScaledSigmaPoints,
    SimplexSigmaPoints,
    SquareRootKalmanFilter,
    UnscentedKalmanFilter,
)
from filterpy.kalman.CubatureKalmanFilter import spherical_radial_sigmas
from scipy.linalg import sqrtm
from torch import Tensor

import deepssm as ds
from deepssm.interop.filterpy import from_filterpy, from_measurements
from tests.interop.filterpy_filters import assert_close, generic_filter, measurements

DT = 0.1


def fx(x: np.ndarray, dt: float) -> np.ndarray:
    """A pendulum with friction; filterpy's shape of a state is kept."""
    return np.array([x[0] + dt * x[1], x[1] - dt * (9.81 * np.sin(x[0]) + 0.3 * x[1])])


def hx(x: np.ndarray) -> np.ndarray:
    return np.array([np.sin(x[0]), x[0] * x[1]])


def f(z: Tensor, u: Tensor | None, dt: Tensor | None) -> Tensor:
    step = DT if dt is None else dt
    push = 9.81 * z[..., 0].sin() + 0.3 * z[..., 1]
    return torch.stack((z[..., 0] + step * z[..., 1], z[..., 1] - step * push), -1)


def h(z: Tensor, u: Tensor | None) -> Tensor:
    return torch.stack((z[..., 0].sin(), z[..., 0] * z[..., 1]), -1)


def settle(kf: Any, column: bool = False) -> Any:  # noqa: ANN401
    """Put a filter of two states and two observations in generic position."""
    kf.x = np.array([0.4, -0.3]).reshape((2, 1) if column else 2)
    kf.P = np.array([[0.3, 0.1], [0.1, 0.2]])
    kf.Q = np.array([[0.02, 0.01], [0.01, 0.05]])
    kf.R = np.array([[0.1, 0.03], [0.03, 0.2]])
    return kf


def run(kf: Any, zs: list[np.ndarray | None], **update: Any) -> tuple[np.ndarray, np.ndarray]:  # noqa: ANN401
    """Predict and update as filterpy's examples do."""
    means, covs = [], []
    for z in zs:
        kf.predict()
        kf.update(z, **update)
        means.append(np.array(kf.x).ravel())
        covs.append(np.array(kf.P))
    return np.stack(means), np.stack(covs)


POINTS = [
    MerweScaledSigmaPoints(2, 0.5, 2.0, 1.0),
    MerweScaledSigmaPoints(2, 1.0, 0.0, 0.0),
    JulierSigmaPoints(2, 1.0),
    SimplexSigmaPoints(2),
]


@pytest.mark.parametrize("points", POINTS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("torches", [False, True])
def test_the_unscented_filter_is_the_same(points: Any, torches: bool) -> None:  # noqa: ANN401
    """Its own NumPy functions or the same in torch; filter and smoother."""
    kf = settle(UnscentedKalmanFilter(2, 2, DT, hx, fx, points))
    options: Any = {"transition": f, "emission": h} if torches else {}
    model, method = from_filterpy(kf, **options)
    zs = measurements(time=12)
    filtered = ds.filter(model, from_measurements(zs, 2), method=method)
    means, covs = run(kf, zs)
    assert_close(filtered.mean, means)
    assert_close(filtered.cov, covs)
    smoothed = ds.smooth(model, from_measurements(zs, 2), method=method)
    expected, expected_cov, _ = kf.rts_smoother(means, covs)
    assert_close(smoothed.mean, expected)
    assert_close(smoothed.cov, expected_cov)


def test_time_steps_reach_the_filters_own_function() -> None:
    kf = settle(UnscentedKalmanFilter(2, 2, DT, hx, fx, POINTS[0]))
    model, method = from_filterpy(kf, update_first=True)
    zs, dts = measurements(time=8), np.linspace(0.05, 0.3, 8)
    filtered = ds.filter(model, from_measurements(zs, 2), dt=torch.from_numpy(dts), method=method)
    means = []
    for t, z in enumerate(zs):
        if t:
            kf.predict(dt=dts[t])
        else:
            kf.sigmas_f = kf.points_fn.sigma_points(kf.x, kf.P)
        kf.update(z)
        means.append(kf.x.copy())
    assert_close(filtered.mean, np.stack(means))


class _Redrawing(CubatureKalmanFilter):
    """filterpy's update reads the points it predicted with, which lack `Q`; this draws anew."""

    def predict(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().predict(*args, **kwargs)
        self.sigmas_f = spherical_radial_sigmas(self.x, self.P)


def test_the_cubature_filter_is_the_same_but_for_its_forgotten_noise() -> None:
    zs = measurements(column=True, time=12)
    kf = settle(_Redrawing(2, 2, DT, hx, fx), column=True)
    model, method = from_filterpy(kf)
    filtered = ds.filter(model, from_measurements(zs, 2), method=method)
    means, covs = run(kf, zs)
    assert_close(filtered.mean, means)
    assert_close(filtered.cov, covs)
    plain, _ = run(settle(CubatureKalmanFilter(2, 2, DT, hx, fx), column=True), zs)
    assert np.abs(plain - means).max() > 1e-3


@pytest.mark.parametrize("column", [False, True])
def test_the_extended_filter_is_the_same(column: bool) -> None:
    """`F x + B u` by default, and a transition of the user's own."""
    kf = settle(ExtendedKalmanFilter(2, 2, 1), column)
    kf.F, kf.B = np.array([[1.0, DT], [-0.3, 0.9]]), np.array([[0.1], [0.4]])
    u = np.random.default_rng(3).normal(size=(12, 1))
    model, method = from_filterpy(kf, emission=h, u0=u[0])
    zs = measurements(column, time=12)
    filtered = ds.filter(model, from_measurements(zs, 2), torch.from_numpy(u), method=method)
    means = []
    for z, push in zip(zs, u, strict=True):
        kf.predict(push[:, None] if column else push)
        kf.update(z, _slope, hx)
        means.append(kf.x.ravel())
    assert_close(filtered.mean, np.stack(means))
    assert_close(filtered.cov[-1], kf.P)


def _slope(x: np.ndarray) -> np.ndarray:
    first, second = x.ravel()
    return np.array([[np.cos(first), 0.0], [second, first]])


class _Pendulum(ExtendedKalmanFilter):
    def predict_x(self, u: Any = 0) -> None:  # noqa: ANN401
        first = self.x.ravel()[0]
        self.F = np.array([[1.0, DT], [-DT * 9.81 * np.cos(first), 1 - DT * 0.3]])
        self.x = fx(self.x, DT)


def test_an_overridden_prediction_needs_its_function() -> None:
    kf = settle(_Pendulum(2, 2))
    with pytest.raises(ValueError, match="_Pendulum overrides `predict_x`.*`transition=f`"):
        from_filterpy(kf, emission=h)
    model, method = from_filterpy(kf, emission=h, transition=f)
    zs = measurements(time=12)
    filtered = ds.filter(model, from_measurements(zs, 2), method=method)
    means, covs = run(kf, zs, HJacobian=_slope, Hx=hx)
    assert_close(filtered.mean, means)
    assert_close(filtered.cov, covs)


@pytest.mark.parametrize("update_first", [False, True])
def test_the_interacting_filters_are_the_same(update_first: bool) -> None:
    """Modes of different F, Q, R and start; inputs; the probabilities of the modes."""
    filters = [generic_filter(inputs=1), generic_filter(inputs=1), generic_filter(inputs=1)]
    for i, kf in enumerate(filters):
        kf.F, kf.Q, kf.R = kf.F * (1 - 0.1 * i), kf.Q * (1 + i), kf.R * (1 + 0.5 * i)
        kf.x, kf.P = kf.x + 0.3 * i, kf.P * (1 + 0.2 * i)
    M = np.array([[0.9, 0.06, 0.04], [0.1, 0.8, 0.1], [0.0, 0.2, 0.8]])
    imm = IMMEstimator(filters, np.array([0.5, 0.3, 0.2]), M)
    u = np.random.default_rng(4).normal(size=(15, 1))
    model, method = from_filterpy(imm, u0=u[0], update_first=update_first)
    zs = np.random.default_rng(1).normal(size=(15, 2))
    filtered = ds.filter(model, zs, torch.from_numpy(u), method=method)
    modes, means, covs = [], [], []
    for t, (z, push) in enumerate(zip(zs, u, strict=True)):
        if t or not update_first:
            imm.predict(push)
        imm.update(z)
        modes.append(imm.mu.copy())
        means.append(imm.x.copy())
        covs.append(imm.P.copy())
    assert_close(filtered.mean[:, :3], np.stack(modes))
    assert_close(filtered.mean[:, 3:], np.stack(means))
    assert_close(filtered.cov[:, 3:, 3:], np.stack(covs))


def test_the_ensemble_filter_is_the_same_in_distribution() -> None:
    """Means of 40 runs of 200 members each; 5 standard errors of their difference."""
    x, P = np.array([0.4, -0.3]), np.array([[0.3, 0.1], [0.1, 0.2]])
    zs = list(np.random.default_rng(1).normal(size=(5, 2)))
    np.random.seed(0)
    theirs, ours = [], []
    for seed in range(40):
        kf = settle(EnsembleKalmanFilter(x, P, 2, DT, 200, hx, _linear))
        kf.initialize(x, P)
        model, method = from_filterpy(kf)
        theirs.append(run(kf, zs))
        found = ds.filter(model, np.stack(zs), method=_seeded(method, seed))
        ours.append((found.mean.numpy(), found.cov.numpy()))
    for one, other in zip(zip(*theirs, strict=True), zip(*ours, strict=True), strict=True):
        a, b = np.stack(one), np.stack(other)
        se = np.sqrt((a.var(0) + b.var(0)) / 40)
        assert (np.abs(a.mean(0) - b.mean(0)) < 5 * se).all()


def _linear(x: np.ndarray, dt: float) -> np.ndarray:
    return np.array([x[0] + dt * x[1], 0.9 * x[1] - dt * x[0]])


def _seeded(method: Any, seed: int) -> Any:  # noqa: ANN401
    assert method == ds.inference.Ensemble(200, update="stochastic")
    return ds.inference.Ensemble(200, update="stochastic", seed=seed)


def test_the_square_root_filter_is_the_same() -> None:
    plain, zs = generic_filter(), measurements()
    root = SquareRootKalmanFilter(3, 2)
    root.x, root.F, root.H = plain.x, plain.F, plain.H
    root.P, root.Q, root.R = plain.P, plain.Q, plain.R
    filtered = ds.filter(from_filterpy(root), from_measurements(zs, 2))
    means, covs = run(root, zs)
    assert_close(filtered.mean, means)
    assert_close(filtered.cov, covs)


def test_functions_in_torch_let_constants_be_learnt() -> None:
    """NumPy functions have no slope, and say so instead of giving a wrong one."""
    kf = settle(UnscentedKalmanFilter(2, 2, DT, hx, fx, POINTS[0]))
    model, method = from_filterpy(kf)
    y = torch.zeros(3, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="`emission` of the filter is a NumPy function"):
        ds.filter(model, y, method=ds.inference.Extended())
    model.m0 = torch.nn.Parameter(model.m0)
    with pytest.raises(ValueError, match="has no derivative: pass `from_filterpy"):
        ds.log_likelihood(model, y, method=method)
    model, method = from_filterpy(kf, transition=f, emission=h)
    model.m0 = torch.nn.Parameter(model.m0)
    ds.log_likelihood(model, y, method=method).sum().backward()
    assert model.m0.grad is not None
    assert model.m0.grad.abs().min() > 0


def _angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a - b + np.pi) % (2 * np.pi) - np.pi


def test_angles_are_named() -> None:
    """A bearing that jumps from pi to -pi is a small step for both."""

    def bearing(x: np.ndarray) -> np.ndarray:
        return np.array([x[0]])

    kf = UnscentedKalmanFilter(2, 1, DT, bearing, _linear, POINTS[1], residual_z=_angles)
    kf.x, kf.P, kf.R = np.array([3.1, 0.5]), 0.1 * np.eye(2), np.eye(1)
    with pytest.raises(ValueError, match=r"differences of `z`.*`circular_obs=\(0,\)`"):
        from_filterpy(kf)
    model, method = from_filterpy(kf, circular_obs=(0,))
    zs = np.array([[3.1], [-3.1], [-3.0], [-3.05]])
    filtered = ds.filter(model, zs, method=method)
    means, covs = run(kf, list(zs))
    assert_close(filtered.mean, means)
    assert_close(filtered.cov, covs)


def test_what_cannot_move_is_named() -> None:
    turned = MerweScaledSigmaPoints(2, 0.5, 2.0, 1.0, sqrt_method=sqrtm)
    with pytest.raises(ValueError, match="simplex points with a Cholesky root, got Merwe"):
        from_filterpy(settle(UnscentedKalmanFilter(2, 2, DT, hx, fx, turned)))
    with pytest.raises(ValueError, match="`emission` is missing: an ExtendedKalmanFilter"):
        from_filterpy(settle(ExtendedKalmanFilter(2, 2)))
    with pytest.raises(ValueError, match="columns, 0, got 1"):
        from_filterpy(settle(ExtendedKalmanFilter(2, 2)), emission=h, u0=[1.0])
    with pytest.raises(ValueError, match="or IMMEstimator, got InformationFilter"):
        from_filterpy(InformationFilter(2, 2))  # type: ignore[call-overload]
    bank = [settle(ExtendedKalmanFilter(2, 2)), settle(ExtendedKalmanFilter(2, 2))]
    imm = IMMEstimator(bank, np.array([0.5, 0.5]), np.eye(2) * 0.8 + 0.1)
    with pytest.raises(ValueError, match="must be filterpy KalmanFilters, got Extended"):
        from_filterpy(imm)
    with pytest.raises(ValueError, match="`kf.x` must hold dim_x = 2"):
        kf = settle(UnscentedKalmanFilter(2, 2, DT, hx, fx, POINTS[0]))
        kf.x = np.zeros(3)
        from_filterpy(kf)
