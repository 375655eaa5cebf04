"""Angles, noise inside functions and other distributions, and filterpy run on the same model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from deepssm.core.model import Series
from deepssm.inference.gaussian.filter import GaussianFilter
from deepssm.inference.gaussian.methods import Cubature, Extended, GaussHermite, Simplex, Unscented
from deepssm.inference.simulation.angles import circular, identity
from deepssm.models.gaussian.nonlinear import NonlinearGaussian
from tests.nonlinear_models import observations, pendulum

RULES = [
    Extended(),
    Extended(iterations=2),
    Unscented(),
    Unscented(0.1, 2.0),
    Cubature(),
    Simplex(),
    GaussHermite(3),
]


def bearing_only(offset: float) -> NonlinearGaussian:
    """A target that passes by a sensor whose zero bearing points in some direction."""
    A = torch.eye(4, dtype=torch.float64)
    A[0, 2] = A[1, 3] = 1.0
    wrap = circular((0,), 1)
    return NonlinearGaussian(
        lambda z, u, dt: z @ A.mT,
        lambda z, u: wrap(torch.atan2(z[..., 1], z[..., 0])[..., None] + offset),
        Q=torch.diag(torch.tensor([1e-4, 1e-4, 1e-3, 1e-3], dtype=torch.float64)),
        R=[[4e-3]],
        m0=[-4.0, 2.0, 0.4, -0.25],
        P0=torch.diag(torch.tensor([0.5, 0.5, 0.01, 0.01], dtype=torch.float64)),
        circular_obs=(0,),
    )


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_bearing_only_tracking_does_not_see_the_cut(rule: GaussianFilter) -> None:
    """Turning the sensor changes nothing, wherever the cut at +-pi then lies."""
    time = torch.arange(16, dtype=torch.float64)
    x, y = -4.0 + 0.4 * time, 2.0 - 0.25 * time
    noise = 0.05 * torch.randn(16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    angle = (torch.atan2(y, x) + noise)[:, None]
    wrap = circular((0,), 1)
    answers = [
        rule.smooth(bearing_only(offset), Series(wrap(angle + offset)))
        for offset in (0.3, 1.0, 2.0, 2.6, 3.0)
    ]
    for other in answers[1:]:
        for got, expected in zip(other, answers[0], strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)
    error = (answers[0].mean[:, :2] - torch.stack((x, y), -1)).norm(dim=-1)
    assert error.max() < 2.0


def _heading(offset: float) -> NonlinearGaussian:
    """A heading kept in [-pi, pi) by its own transition, read by a compass and a rate gyro."""

    def f(z: Tensor, u: Tensor | None, dt: Tensor | None) -> Tensor:
        angle = z[..., 0] + 0.3 * z[..., 1]
        return torch.stack((torch.atan2(angle.sin(), angle.cos()), z[..., 1]), -1)

    def h(z: Tensor, u: Tensor | None) -> Tensor:
        return torch.stack((torch.atan2(z[..., 0].sin(), z[..., 0].cos()), z[..., 1]), -1)

    return NonlinearGaussian(
        f,
        h,
        Q=[[0.01, 0.0], [0.0, 0.02]],
        R=[[0.3, 0.05], [0.05, 0.2]],
        m0=[offset, 1.0],
        P0=[[0.4, 0.1], [0.1, 0.2]],
        circular_state=(0,),
        circular_obs=(0,),
    )


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_headings_wrap_in_states_too(rule: GaussianFilter) -> None:
    """Going round once more leaves every covariance and likelihood as it was."""
    g = torch.Generator().manual_seed(1)
    y = torch.stack((0.3 * torch.arange(20.0), torch.ones(20)), -1).double()
    y = y + 0.4 * torch.randn(20, 2, generator=g, dtype=torch.float64)
    wrap = circular((0,), 2)
    answers = []
    for offset in (0.0, 1.7, 3.0):
        shift = torch.tensor([offset, 0.0], dtype=torch.float64)
        answers.append(rule.smooth(_heading(offset), Series(wrap(y + shift))))
        back = wrap(answers[-1].mean - shift - answers[0].mean)
        torch.testing.assert_close(back, torch.zeros_like(back), rtol=0, atol=1e-8)
        torch.testing.assert_close(answers[-1].cov, answers[0].cov, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(
            answers[-1].log_likelihood, answers[0].log_likelihood, rtol=1e-8, atol=1e-9
        )


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_noise_inside_linear_functions_is_noise_added(rule: GaussianFilter) -> None:
    """`f = A z + G w` is the additive model with `Q = G G'`, singular here."""
    A = torch.tensor([[0.9, 0.2], [-0.1, 0.8]], dtype=torch.float64)
    G = torch.tensor([[0.5], [0.3]], dtype=torch.float64)
    C = torch.tensor([[1.0, 0.4], [0.3, 1.0]], dtype=torch.float64)
    H = torch.tensor([[0.6, 0.0, 0.2], [0.1, 0.5, 0.0]], dtype=torch.float64)
    W, V = torch.eye(1).double() * 2.0, torch.eye(3).double() * 0.5
    start: dict[str, Any] = dict(m0=[0.5, -0.5], P0=[[2.0, 0.3], [0.3, 1.0]])
    within = NonlinearGaussian(
        lambda z, u, dt, w: z @ A.mT + w @ G.mT,  # type: ignore[arg-type]
        lambda z, u, v: z @ C.mT + v @ H.mT,  # type: ignore[arg-type]
        Q=W,
        R=V,
        noise="inside",
        **start,
    )
    added = NonlinearGaussian(
        lambda z, u, dt: z @ A.mT, lambda z, u: z @ C.mT, Q=G @ W @ G.mT, R=H @ V @ H.mT, **start
    )
    y = torch.randn(7, 2, dtype=torch.float64)
    y[2, 0] = y[5] = math.nan
    assert within.obs_dim == 2
    for got, expected in zip(
        rule.smooth(within, Series(y)), Extended().smooth(added, Series(y)), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-9)
    assert within.transition(torch.zeros(5, 2).double()).sample().shape == (5, 2)


def test_multiplicative_noise_has_the_right_moments() -> None:
    """`y = z exp(v)` with log-normal noise: Gauss-Hermite against the closed form."""
    model = NonlinearGaussian(
        lambda z, u, dt, w: z + w,  # type: ignore[arg-type]
        lambda z, u, v: z * v.exp(),  # type: ignore[arg-type]
        Q=[[0.1]],
        R=[[0.09]],
        m0=[2.0],
        P0=[[0.25]],
        noise="inside",
    )
    nothing = Series(torch.full((1, 1), math.nan, dtype=torch.float64))
    forecast = GaussHermite(15).forecast(model, nothing, 1)
    mean = 2.0 * math.exp(0.045)
    square = (4.0 + 0.25) * math.exp(0.18)
    torch.testing.assert_close(forecast.mean.item(), mean, rtol=1e-10, atol=0)
    torch.testing.assert_close(forecast.cov.item(), square - mean**2, rtol=1e-9, atol=0)


@pytest.mark.parametrize("rule", [Extended(), Unscented(kappa=1.0), GaussHermite(3), Cubature()])
def test_one_hot_noise_adds_up_to_the_multinomial(rule: GaussianFilter) -> None:
    """Law of total covariance: `Cov(y) = diag(p) - p p'` at the mean probabilities."""

    def conditional(z: Tensor) -> torch.distributions.Distribution:
        logits = torch.stack((z[..., 0], z[..., 1], 0 * z[..., 0]), -1)
        return torch.distributions.OneHotCategorical(logits=logits)

    mean, factor = (
        torch.tensor([0.3, -0.5]).double(),
        torch.tensor([[0.6, 0], [0.2, 0.4]]).double(),
    )
    step = rule.moments(2)(conditional, mean, factor, identity)
    cov = step.slope @ step.slope.mT + step.spread @ step.spread.mT
    p = step.mean
    torch.testing.assert_close(p.sum().item(), 1.0)
    if isinstance(rule, Extended):
        cov = cov - step.slope @ step.slope.mT
    torch.testing.assert_close(cov, torch.diag(p) - p[:, None] * p, rtol=1e-7, atol=1e-8)


def _numpy_pendulum(z: np.ndarray, dt: float) -> np.ndarray:
    return np.array([z[0] + dt * z[1], z[1] - dt * 9.81 * np.sin(z[0])])


@pytest.mark.parametrize(
    ("rule", "points", "options"),
    [
        (Unscented(), "MerweScaledSigmaPoints", (1.0, 0.0, 0.0)),
        (Unscented(0.3, 2.0, 1.0), "MerweScaledSigmaPoints", (0.3, 2.0, 1.0)),
        (Unscented(kappa=0.7), "JulierSigmaPoints", (0.7,)),
        (Simplex(), "SimplexSigmaPoints", ()),
    ],
)
def test_sigma_points_agree_with_filterpy(
    rule: GaussianFilter, points: str, options: tuple[float, ...]
) -> None:
    """filterpy draws no new points before an update unless told; both do here."""
    import filterpy.kalman
    from filterpy.kalman import UnscentedKalmanFilter

    model, y = pendulum().requires_grad_(False), observations(50)
    drawn: Any = getattr(filterpy.kalman, points)(2, *options)
    peer = UnscentedKalmanFilter(2, 1, 0.05, lambda z: np.sin(z[:1]), _numpy_pendulum, drawn)
    peer.x, peer.P = model.m0.numpy().copy(), model.P0.numpy().copy()
    peer.Q, peer.R = model.Q.numpy(), model.R.numpy()
    means, covs = [], []
    for t, observation in enumerate(y.numpy()):
        if t:
            peer.predict()
        peer.sigmas_f = drawn.sigma_points(peer.x, peer.P)
        peer.update(observation)
        means.append(peer.x.copy())
        covs.append(peer.P.copy())
    got = rule.filter(model, Series(y))
    np.testing.assert_allclose(got.mean.numpy(), np.array(means), rtol=0, atol=1e-8)
    np.testing.assert_allclose(got.cov.numpy(), np.array(covs), rtol=0, atol=1e-8)
    smoothed, covariances, _ = peer.rts_smoother(np.array(means), np.array(covs))
    ours = rule.smooth(model, Series(y))
    np.testing.assert_allclose(ours.mean.numpy(), smoothed, rtol=0, atol=1e-8)
    np.testing.assert_allclose(ours.cov.numpy(), covariances, rtol=0, atol=1e-8)


def test_extended_agrees_with_filterpy() -> None:
    from filterpy.kalman import ExtendedKalmanFilter

    model, y = pendulum().requires_grad_(False), observations(50)
    peer = ExtendedKalmanFilter(2, 1)
    peer.x, peer.P = model.m0.numpy()[:, None].copy(), model.P0.numpy().copy()
    peer.Q, peer.R = model.Q.numpy(), model.R.numpy()
    means, covs = [], []
    for t, observation in enumerate(y.numpy()):
        if t:
            angle = peer.x[0, 0]
            peer.F = np.array([[1, 0.05], [-0.05 * 9.81 * np.cos(angle), 1]])
            peer.x = _numpy_pendulum(peer.x[:, 0], 0.05)[:, None]
            peer.P = peer.F @ peer.P @ peer.F.T + peer.Q
        peer.update(
            observation[:, None],
            lambda z: np.array([[np.cos(z[0, 0]), 0.0]]),
            lambda z: np.sin(z[:1]),
        )
        means.append(peer.x[:, 0].copy())
        covs.append(peer.P.copy())
    got = Extended().filter(model, Series(y))
    np.testing.assert_allclose(got.mean.numpy(), np.array(means), rtol=0, atol=1e-8)
    np.testing.assert_allclose(got.cov.numpy(), np.array(covs), rtol=0, atol=1e-8)


def test_cubature_agrees_with_filterpy() -> None:
    from filterpy.kalman import CubatureKalmanFilter
    from filterpy.kalman.CubatureKalmanFilter import spherical_radial_sigmas

    model, y = pendulum().requires_grad_(False), observations(50)
    peer = CubatureKalmanFilter(
        2, 1, 0.05, lambda z: np.sin(z[:1]), lambda z, dt: _numpy_pendulum(z.ravel(), dt)
    )
    peer.x, peer.P = model.m0.numpy()[:, None].copy(), model.P0.numpy().copy()
    peer.Q, peer.R = model.Q.numpy(), model.R.numpy()
    means, covs = [], []
    for t, observation in enumerate(y.numpy()):
        if t:
            peer.predict()
        peer.sigmas_f = spherical_radial_sigmas(peer.x, peer.P)
        peer.update(observation[:, None])
        means.append(peer.x.ravel().copy())
        covs.append(peer.P.copy())
    got = Cubature().filter(model, Series(y))
    np.testing.assert_allclose(got.mean.numpy(), np.array(means), rtol=0, atol=1e-8)
    np.testing.assert_allclose(got.cov.numpy(), np.array(covs), rtol=0, atol=1e-8)
