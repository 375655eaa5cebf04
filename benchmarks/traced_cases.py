"""The models of `traced.py`, in numbers and in whatever library of arrays is given: numpy's names.

Pendulum (2 states, 1 observation), coordinated turn (6, 2), Lorenz-96 (40, 40).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Array = Any  # of torch, jax or numpy


class Case(NamedTuple):
    """A model: `transition(xp, z)` and `emission(xp, z)` on the last axis, and its numbers."""

    transition: Callable[[Any, Array], Array]
    emission: Callable[[Any, Array], Array]
    Q: np.ndarray
    R: np.ndarray
    m0: np.ndarray
    P0: np.ndarray


def swing(xp: Any, z: Array) -> Array:  # noqa: ANN401
    angle, speed = z[..., 0], z[..., 1]
    return xp.stack((angle + 0.05 * speed, speed - 0.05 * 9.81 * xp.sin(angle)), -1)


def turn(xp: Any, z: Array) -> Array:  # noqa: ANN401
    x, y, vx, vy, rate, change = (z[..., i] for i in range(6))
    s, c = xp.sin(0.1 * rate), xp.cos(0.1 * rate)
    moved = (x + 0.1 * vx, y + 0.1 * vy, c * vx - s * vy, s * vx + c * vy)
    return xp.stack((*moved, rate + 0.1 * change, 0.9 * change), -1)


def radar(xp: Any, z: Array) -> Array:  # noqa: ANN401
    x, y = z[..., 0], z[..., 1]
    return xp.stack((xp.sqrt(x * x + y * y), x / 10.0), -1)


def weather(xp: Any, z: Array) -> Array:  # noqa: ANN401
    def slope(x: Array) -> Array:
        return (xp.roll(x, -1, -1) - xp.roll(x, 2, -1)) * xp.roll(x, 1, -1) - x + 8.0

    h = 0.05
    first = slope(z)
    second = slope(z + 0.5 * h * first)
    third = slope(z + 0.5 * h * second)
    return z + (h / 6.0) * (first + 2.0 * second + 2.0 * third + slope(z + h * third))


def cases() -> dict[str, Case]:
    """Return the models by name."""
    z = 8.0 + np.sin(np.arange(40.0))
    return {
        "pendulum": Case(
            swing, lambda xp, z: xp.sin(z[..., :1]),
            np.array([[1e-4, 2e-5], [2e-5, 1e-2]]), np.array([[0.1]]),
            np.array([1.2, 0.0]), np.array([[0.2, 0.02], [0.02, 0.1]]),
        ),
        "coordinated turn": Case(
            turn, radar, np.diag([1e-4, 1e-4, 1e-3, 1e-3, 1e-5, 1e-5]), np.diag([0.04, 0.01]),
            np.array([10.0, 5.0, 1.0, 0.5, 0.1, 0.0]), 0.1 * np.eye(6),
        ),
        "Lorenz-96": Case(weather, lambda xp, z: z, 0.01 * np.eye(40), np.eye(40), z, np.eye(40)),
    }  # fmt: skip


def simulated(case: Case, batch: int, time: int) -> np.ndarray:
    """Draw observations, `(batch, time, obs)`."""
    rng, z = np.random.default_rng(0), case.m0 + np.zeros((batch, 1))
    LQ, LR = np.linalg.cholesky(case.Q), np.linalg.cholesky(case.R)
    z = z + rng.normal(size=z.shape) @ np.linalg.cholesky(case.P0).T
    rows = []
    for t in range(time):
        z = case.transition(np, z) + rng.normal(size=z.shape) @ LQ.T if t else z
        noise = rng.normal(size=(batch, len(LR))) @ LR.T
        rows.append(case.emission(np, z) + noise)
    return np.stack(rows, 1)
