"""Seeded experiments whose true states are known, for demonstrations and for checks."""

from __future__ import annotations

from collections.abc import Callable
from math import nan
from typing import NamedTuple

import torch
from torch import Tensor


class Experiment(NamedTuple):
    """One simulated record, float64.

    Attributes:
        z: True states, `(time, state)`.
        y: Noisy observations, `(time, obs)`; NaN where the sensor was silent.
        dt: Time steps, `(time,)`; entry `t` leads from `t-1` to `t`, entry 0 is unused.
        noiseless: What a perfect sensor would have read, `(time, obs)`.
    """

    z: Tensor
    y: Tensor
    dt: Tensor
    noiseless: Tensor


def radar(
    time: int = 200,
    *,
    dt: float = 1.0,
    jitter: float = 0.0,
    acceleration: float = 0.1,
    noise: float = 10.0,
    gaps: float = 0.0,
    polar: bool = False,
    seed: int = 0,
) -> Experiment:
    """Track a target that flies straight but for white-noise acceleration.

    `z = (east, east velocity, north, north velocity)`, the order of `models.ConstantVelocity`;
    the step is exact for any `dt`.

    Args:
        time: Number of sweeps.
        dt: Mean time between sweeps, s.
        jitter: Relative spread of the steps, in [0, 1): 0.5 draws them from 0.5 to 1.5 `dt`.
        acceleration: Square root of the acceleration's spectral density, m s^-3/2.
        noise: Standard deviation of an observation, m; bearings get `noise / 1000` rad.
        gaps: Probability that a sweep returns nothing.
        polar: Read (range, bearing) instead of (east, north). The radar stands at 0, 0; bearings
            are counted from east and do not wrap while the target stays north.
        seed: Of the random numbers.

    Source:
        Bar-Shalom, Li and Kirubarajan (2001), Estimation with Applications to Tracking and
        Navigation, section 6.2.2.
    """
    generator = torch.Generator().manual_seed(seed)
    steps = dt * (1 + jitter * (2 * _uniform(time, generator) - 1))
    z = torch.tensor([-1000.0, 4000.0, 10.0, 2.0], dtype=torch.float64)
    states = [z]
    for h, shock in zip(steps[1:], _normal((time - 1, 2, 2), generator), strict=True):
        position, velocity = z[:2], z[2:]
        # Factor of q [[h^3/3, h^2/2], [h^2/2, h]], the noise of an integrated Wiener process.
        drift = h**1.5 * (shock[0] / 3**0.5)
        speed = h**0.5 * (shock[0] * 3**0.5 / 2 + shock[1] / 2)
        position = position + h * velocity + acceleration * drift
        z = torch.cat([position, velocity + acceleration * speed])
        states.append(z)
    path = torch.stack(states)[:, [0, 2, 1, 3]]
    east, north = path[:, 0], path[:, 2]
    angle = torch.stack([east.hypot(north), north.atan2(east)], -1)
    seen = angle if polar else torch.stack([east, north], -1)
    scale = torch.tensor([noise, noise / 1000 if polar else noise], dtype=torch.float64)
    return _observe(path, seen, steps, scale, gaps, generator)


def pendulum(
    time: int = 400,
    *,
    dt: float = 0.02,
    process_noise: float = 0.1,
    noise: float = 0.3,
    gaps: float = 0.0,
    seed: int = 0,
) -> Experiment:
    """Swing a pendulum of 1 m, seen by its horizontal displacement.

    `z = (angle, angular velocity)`, `y = sin(angle) + v`; `z_t = rk4(pendulum_drift, z, dt) + w`.

    Args:
        time: Number of observations.
        dt: Time between observations, s.
        process_noise: Standard deviation of `w` per square root of a second, rad and rad/s.
        noise: Standard deviation of an observation, m.
        gaps: Probability of a missing observation.
        seed: Of the random numbers.

    Source:
        Särkkä (2013), Bayesian Filtering and Smoothing, example 5.1.
    """
    generator = torch.Generator().manual_seed(seed)
    z = _integrate(pendulum_drift, [1.5, 0.0], time, dt, process_noise, generator)
    return _observe(z, z[:, :1].sin(), _steps(time, dt), noise, gaps, generator)


def lorenz63(
    time: int = 500,
    *,
    dt: float = 0.02,
    process_noise: float = 0.0,
    noise: float = 1.0,
    gaps: float = 0.0,
    seed: int = 0,
) -> Experiment:
    """Run the Lorenz system (10, 28, 8/3) on its attractor, all three coordinates read.

    Args:
        time: Number of observations.
        dt: Time between observations.
        process_noise: Standard deviation of additive noise per square root of a time unit.
        noise: Standard deviation of an observation.
        gaps: Probability of a missing observation.
        seed: Of the random numbers.

    Source:
        Lorenz (1963), Deterministic nonperiodic flow, equations 25 to 27.
    """
    generator = torch.Generator().manual_seed(seed)
    start = (torch.ones(3, dtype=torch.float64) + _normal((3,), generator)).tolist()
    z = _integrate(lorenz63_drift, start, time + 500, dt, process_noise, generator)[500:]
    return _observe(z, z, _steps(time, dt), noise, gaps, generator)


def van_der_pol(
    time: int = 300,
    *,
    dt: float = 0.1,
    process_noise: float = 0.1,
    noise: float = 0.5,
    gaps: float = 0.0,
    seed: int = 0,
) -> Experiment:
    """Run the Van der Pol oscillator with `mu = 1`, its displacement read.

    Args:
        time: Number of observations.
        dt: Time between observations.
        process_noise: Standard deviation of additive noise per square root of a time unit.
        noise: Standard deviation of an observation.
        gaps: Probability of a missing observation.
        seed: Of the random numbers.

    Source:
        van der Pol (1926), On relaxation-oscillations, Philosophical Magazine 2(11).
    """
    generator = torch.Generator().manual_seed(seed)
    z = _integrate(van_der_pol_drift, [2.0, 0.0], time, dt, process_noise, generator)
    return _observe(z, z[:, :1], _steps(time, dt), noise, gaps, generator)


def pendulum_drift(z: Tensor) -> Tensor:
    """Return `dz/ds = (z2, -9.81 sin z1)`, `(*axes, 2)`."""
    return torch.stack([z[..., 1], -9.81 * z[..., 0].sin()], -1)


def lorenz63_drift(z: Tensor) -> Tensor:
    """Return `dz/ds = (10 (z2 - z1), z1 (28 - z3) - z2, z1 z2 - 8/3 z3)`, `(*axes, 3)`."""
    x, y, w = z.unbind(-1)
    return torch.stack([10 * (y - x), x * (28 - w) - y, x * y - 8 / 3 * w], -1)


def van_der_pol_drift(z: Tensor) -> Tensor:
    """Return `dz/ds = (z2, (1 - z1^2) z2 - z1)`, `(*axes, 2)`."""
    x, v = z.unbind(-1)
    return torch.stack([v, (1 - x**2) * v - x], -1)


def rk4(drift: Callable[[Tensor], Tensor], z: Tensor, dt: Tensor | float) -> Tensor:
    """Advance `dz/ds = drift(z)` by one Runge-Kutta step of fourth order.

    Args:
        drift: Maps `(*axes, state)` to `(*axes, state)`.
        z: `(*axes, state)`.
        dt: Step, a number or `(*axes, 1)`.
    """
    k1 = drift(z)
    k2 = drift(z + dt / 2 * k1)
    k3 = drift(z + dt / 2 * k2)
    k4 = drift(z + dt * k3)
    return z + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def _integrate(
    drift: Callable[[Tensor], Tensor],
    start: list[float],
    time: int,
    dt: float,
    process_noise: float,
    generator: torch.Generator,
) -> Tensor:
    states = [torch.tensor(start, dtype=torch.float64)]
    shocks = process_noise * dt**0.5 * _normal((time - 1, len(start)), generator)
    for shock in shocks:
        states.append(rk4(drift, states[-1], dt) + shock)
    return torch.stack(states)


def _observe(
    z: Tensor,
    noiseless: Tensor,
    dt: Tensor,
    noise: float | Tensor,
    gaps: float,
    generator: torch.Generator,
) -> Experiment:
    y = noiseless + noise * _normal(tuple(noiseless.shape), generator)
    silent = _uniform(len(y), generator) < gaps
    return Experiment(z, y.masked_fill(silent[:, None], nan), dt, noiseless)


def _steps(time: int, dt: float) -> Tensor:
    return torch.full((time,), dt, dtype=torch.float64)


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _uniform(size: int, generator: torch.Generator) -> Tensor:
    return torch.rand(size, generator=generator, dtype=torch.float64)
