"""Statistical tests run at fixed seeds; at a random seed each would fail once in 1e4 runs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.stats import chi2

from deepssm import data


@pytest.mark.parametrize("make", [data.radar, data.pendulum, data.lorenz63, data.van_der_pol])
def test_a_seed_fixes_the_experiment(make: Callable[..., data.Experiment]) -> None:
    first, again, other = make(50, seed=3), make(50, seed=3), make(50, seed=4)
    for a, b in zip(first, again, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not torch.equal(first.y, other.y)
    assert len(first.z) == len(first.y) == len(first.dt) == 50


@pytest.mark.parametrize("make", [data.radar, data.pendulum, data.lorenz63, data.van_der_pol])
def test_gaps_silence_whole_readings_and_leave_the_truth_alone(
    make: Callable[..., data.Experiment],
) -> None:
    full, gappy = make(1000, seed=1), make(1000, seed=1, gaps=0.3)
    torch.testing.assert_close(full.z, gappy.z, rtol=0, atol=0)
    silent = gappy.y.isnan()
    assert torch.equal(silent.all(-1), silent.any(-1))
    assert abs(silent[:, 0].double().mean().item() - 0.3) < 3.9 * (0.21 / 1000) ** 0.5
    torch.testing.assert_close(full.y[~silent], gappy.y[~silent], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("drift", "start"),
    [
        (data.pendulum_drift, [1.5, 0.3]),
        (data.lorenz63_drift, [1.0, 2.0, 20.0]),
        (data.van_der_pol_drift, [2.0, -0.4]),
    ],
)
def test_runge_kutta_agrees_with_scipy_to_fifth_order(
    drift: Callable[[torch.Tensor], torch.Tensor], start: list[float]
) -> None:
    z = torch.tensor(start, dtype=torch.float64)

    def slope(_: float, x: np.ndarray) -> np.ndarray:
        return drift(torch.as_tensor(x)).numpy()

    errors = []
    for h in (0.04, 0.02):
        exact = solve_ivp(slope, (0, h), start, method="DOP853", rtol=1e-13, atol=1e-13).y[:, -1]
        errors.append((data.rk4(drift, z, h) - torch.as_tensor(exact)).norm().item())
    assert 2**4.5 < errors[0] / errors[1] < 2**5.5


def test_radar_steps_are_those_of_an_integrated_wiener_process() -> None:
    q, found = 0.4, data.radar(4000, jitter=0.6, acceleration=0.4, seed=2)
    assert found.dt.min() >= 0.4 and found.dt.max() <= 1.6 and found.dt.std() > 0.2
    h = found.dt[1:]
    position, velocity = found.z[:, ::2], found.z[:, 1::2]
    jump = position[1:] - position[:-1] - h[:, None] * velocity[:-1]
    residual = torch.stack([jump, velocity[1:] - velocity[:-1]], -1)
    cov = torch.stack([torch.stack([h**3 / 3, h**2 / 2], -1), torch.stack([h**2 / 2, h], -1)], -2)
    weighted = torch.linalg.solve((q**2 * cov)[:, None], residual[..., None])[..., 0]
    total = (residual * weighted).sum().item()
    low, high = chi2.ppf([5e-5, 1 - 5e-5], residual.numel())
    assert low < total < high


@pytest.mark.parametrize("polar", [False, True])
def test_radar_reads_with_the_stated_noise(polar: bool) -> None:
    found = data.radar(3000, noise=7.0, polar=polar, seed=5)
    if polar:
        east = found.noiseless[:, 0] * found.noiseless[:, 1].cos()
        torch.testing.assert_close(east, found.z[:, 0])
    scale = torch.tensor([7.0, 0.007 if polar else 7.0], dtype=torch.float64)
    total = ((found.y - found.noiseless) / scale).square().sum().item()
    low, high = chi2.ppf([5e-5, 1 - 5e-5], found.y.numel())
    assert low < total < high


def test_lorenz_starts_on_its_attractor() -> None:
    z = data.lorenz63(2000, seed=8).z
    assert z[:, :2].abs().max() < 30 and 0 < z[:, 2].min() < z[:, 2].max() < 60
    assert z[:, 0].min() < -5 < 5 < z[:, 0].max()
