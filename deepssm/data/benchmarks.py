"""Seeded generators of the systems on which deep and switching state space models are compared."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Simulated series side by side, float64.

    Attributes:
        z: True states, `(series, time, state)`.
        y: Observations, `(series, time, obs)`; NaN where nothing was seen.
        mode: Active mode of each step, `(series, time)`, or `None`.
    """

    z: Tensor
    y: Tensor
    mode: Tensor | None = None


def krishnan_linear(series: int = 5000, time: int = 25, *, seed: int = 0) -> Batch:
    """Draw `z_1 ~ N(0, 1)`, `z_t ~ N(z_{t-1} + 0.05, 10)`, `y_t ~ N(z_t / 2, 20)` (variances).

    The exact likelihood of 25 steps is 3.0758 nats a step in expectation.

    Args:
        series: Number of series.
        time: Steps.
        seed: Of the random numbers.

    Source: Krishnan, Shalit, Sontag (2017), section 5.1, and their code ("synthetic9").
    """
    noise = torch.Generator().manual_seed(seed)
    z = _normal(series, 1, generator=noise)
    path = [z]
    for _ in range(time - 1):
        path.append(path[-1] + 0.05 + 10**0.5 * _normal(series, 1, generator=noise))
    states = torch.stack(path, dim=1)
    return Batch(states, 0.5 * states + 20**0.5 * _normal(series, time, 1, generator=noise))


def krishnan_nonlinear(series: int = 5000, time: int = 25, *, seed: int = 0) -> Batch:
    """Draw `z_1 ~ N(0, 0.01)`, `z_t ~ N(2 sin z_{t-1} + z_{t-1}, 5)`, `y_t ~ N(z_t / 2, 5)`.

    Args:
        series: Number of series.
        time: Steps.
        seed: Of the random numbers.

    Source: Krishnan, Shalit, Sontag (2017), section 5.1, and their code ("synthetic10").
    """
    noise = torch.Generator().manual_seed(seed)
    path = [0.1 * _normal(series, 1, generator=noise)]
    for _ in range(time - 1):
        z = path[-1]
        path.append(2 * z.sin() + z + 5**0.5 * _normal(series, 1, generator=noise))
    states = torch.stack(path, dim=1)
    return Batch(states, 0.5 * states + 5**0.5 * _normal(series, time, 1, generator=noise))


def bouncing_ball(
    series: int = 100,
    time: int = 100,
    *,
    size: float = 10.0,
    speed: float = 0.8,
    noise: float = 0.1,
    seed: int = 0,
) -> Batch:
    """Let a ball bounce between two walls: `z = (height, velocity)`, mode 0 up and 1 down.

    Args:
        series: Number of balls, each with its own start and speed.
        time: Steps.
        size: Distance of the walls.
        speed: Largest distance moved in a step; the smallest is half of it.
        noise: Standard deviation of an observation of the height.
        seed: Of the random numbers.

    Source: Dong, Seybold, Murphy, Bui (2020), Collapsed amortized variational inference for
    switching nonlinear dynamical systems, section 5.1.
    """
    generator = torch.Generator().manual_seed(seed)
    pace = speed * (0.5 + 0.5 * _uniform(series, generator))
    up = _uniform(series, generator) < 0.5
    # On a circle of twice the distance, a ball that bounces is one that runs round.
    start = size * _uniform(series, generator)
    phase = torch.where(up, start, 2 * size - start)[:, None] + pace[:, None] * torch.arange(time)
    phase = phase % (2 * size)
    down = phase >= size
    height = torch.where(down, 2 * size - phase, phase)
    velocity = torch.where(down, -pace[:, None], pace[:, None])
    z = torch.stack([height, velocity], dim=-1)
    y = height[..., None] + noise * _normal(series, time, 1, generator=generator)
    return Batch(z, y, down.long())


def three_modes(
    series: int = 100,
    time: int = 200,
    *,
    stay: float = 0.95,
    process_noise: float = 0.05,
    noise: float = 0.1,
    seed: int = 0,
) -> Batch:
    """Switch between three linear systems in the plane, all seen with noise.

    Mode 0 turns by 0.2 rad about the origin, mode 1 turns the other way about (2, 0), mode 2
    falls back towards (0, 2).

    Args:
        series: Number of series.
        time: Steps.
        stay: Probability that a mode goes on.
        process_noise: Standard deviation of the state's noise.
        noise: Standard deviation of an observation.
        seed: Of the random numbers.

    Source: after Ansari et al. (2021), Deep explicit duration switching models, section 5.1.
    """
    generator = torch.Generator().manual_seed(seed)
    turn = _rotation(0.2)
    matrices = torch.stack([turn, _rotation(-0.2), 0.9 * torch.eye(2, dtype=torch.float64)])
    centres = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    z = 2 * _normal(series, 2, generator=generator)
    mode = torch.randint(3, (series,), generator=generator)
    path, modes = [z], [mode]
    for _ in range(time - 1):
        leave = _uniform(series, generator) >= stay
        other = (mode + torch.randint(1, 3, (series,), generator=generator)) % 3
        mode = torch.where(leave, other, mode)
        centre = centres[mode]
        z = centre + (matrices[mode] @ (z - centre)[..., None])[..., 0]
        z = z + process_noise * _normal(series, 2, generator=generator)
        path.append(z)
        modes.append(mode)
    states = torch.stack(path, dim=1)
    y = states + noise * _normal(series, time, 2, generator=generator)
    return Batch(states, y, torch.stack(modes, dim=1))


def pendulum_images(
    series: int = 200,
    time: int = 30,
    *,
    size: int = 24,
    dt: float = 0.1,
    noise: float = 0.1,
    gaps: tuple[int, int] | None = None,
    seed: int = 0,
) -> Batch:
    """Film pendulums: a bright disc of a tenth of the side on a dark ground, pixels in [0, 1].

    `z = (angle from below, angular velocity)` with `d^2 angle / ds^2 = -9.81 sin(angle)`; angles
    start anywhere, velocities within 3 rad/s. One film in a row of `size * size` pixels a step.

    Args:
        series: Number of films.
        time: Frames.
        size: Pixels of a side.
        dt: Time between frames, s.
        noise: Standard deviation of a pixel; observations are cut to [0, 1].
        gaps: First missing frame and number of missing frames, the same in all films.
        seed: Of the random numbers.

    Returns:
        States and films; missing frames are NaN.

    Source: after Becker et al. (2019), Recurrent Kalman networks, section 4.1.
    """
    from .simulators import pendulum_drift, rk4

    generator = torch.Generator().manual_seed(seed)
    angle = torch.pi * (2 * _uniform(series, generator) - 1)
    z = torch.stack([angle, 6 * _uniform(series, generator) - 3], dim=-1)
    path = [z]
    for _ in range(time - 1):
        for _ in range(4):
            z = rk4(pendulum_drift, z, dt / 4)
        path.append(z)
    states = torch.stack(path, dim=1)
    film = draw_pendulum(states[..., 0], size)
    y = (film + noise * _normal(*film.shape, generator=generator)).clamp(0, 1)
    if gaps is not None:
        y[:, gaps[0] : gaps[0] + gaps[1]] = torch.nan
    return Batch(states, y)


def draw_pendulum(angle: Tensor, size: int = 24) -> Tensor:
    """Return noiseless pictures of the pendulum, `(*axes, size * size)`, row by row from the top.

    Args:
        angle: From below, in rad, `(*axes)`.
        size: Pixels of a side.
    """
    grid = (torch.arange(size, dtype=angle.dtype) + 0.5) / size * 2 - 1
    x = 0.7 * angle.sin()[..., None, None]
    down = 0.7 * angle.cos()[..., None, None]
    distance = ((grid - x).square() + (grid[:, None] - down).square()).sqrt()
    return torch.sigmoid((0.2 - distance) * 1.5 * size).flatten(-2)


def _rotation(angle: float) -> Tensor:
    c, s = torch.cos(torch.tensor(angle)).item(), torch.sin(torch.tensor(angle)).item()
    return torch.tensor([[c, -s], [s, c]], dtype=torch.float64)


def _normal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _uniform(size: int, generator: torch.Generator) -> Tensor:
    return torch.rand(size, generator=generator, dtype=torch.float64)
