"""Models that the tests of nonlinear methods share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from deepssm.core.model import LinearParameters, StateSpaceModel
from deepssm.models.gaussian.nonlinear import NonlinearGaussian

NAN = float("nan")
CASE_4 = torch.tensor(
    [[1.2, 0.4], [NAN, 0.9], [2.1, NAN], [NAN, NAN], [1.7, 1.3], [0.6, 0.2]], dtype=torch.float64
)


class Linear(StateSpaceModel):
    """Any linear-Gaussian model, given by its matrices."""

    def __init__(self, parameters: LinearParameters) -> None:
        super().__init__()
        self.numbers = parameters
        self.state_dim = parameters.initial.mean.shape[-1]
        self.obs_dim = parameters.emission.offset.shape[-1]

    def linear_parameters(self, u: Tensor | None, dt: Tensor | None) -> LinearParameters:
        return self.numbers


def matrix(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def case_4() -> NonlinearGaussian:
    """The generic-position model of statsmodels' and the dense answer, as plain functions."""
    A, C = matrix([[0.9, 0.1], [0.0, 0.8]]), matrix([[1.0, 0.3], [0.5, 1.0]])
    b, d = matrix([[0.05, 0.02]])[0], matrix([[0.1, -0.2]])[0]
    return NonlinearGaussian(
        lambda z, u, dt: z @ A.mT + b,
        lambda z, u: z @ C.mT + d,
        Q=matrix([[0.2, 0.05], [0.05, 0.3]]),
        R=matrix([[0.5, 0.3], [0.3, 0.6]]),
        m0=matrix([[0.5, -0.5]])[0],
        P0=matrix([[2.0, 0.3], [0.3, 1.0]]),
    )


class Pendulum(nn.Module):
    """Angle and angular velocity under gravity, with a learnable gravity over length."""

    def __init__(self, stiffness: float = 9.81) -> None:
        super().__init__()
        self.stiffness = nn.Parameter(torch.tensor(stiffness, dtype=torch.float64))

    def forward(self, z: Tensor, u: Tensor | None, dt: Tensor | None) -> Tensor:
        step = torch.as_tensor(0.05 if dt is None else dt, dtype=z.dtype)
        push = 0.0 if u is None else u[..., 0]
        angle, speed = z.unbind(-1)
        force = push - self.stiffness * torch.sin(angle)
        return torch.stack((angle + step * speed, speed + step * force), -1)


def pendulum(stiffness: float = 9.81, **changes: object) -> NonlinearGaussian:
    numbers: dict[str, Any] = dict(
        Q=matrix([[1e-4, 2e-5], [2e-5, 1e-2]]),
        R=matrix([[0.1]]),
        m0=torch.tensor([1.2, 0.0], dtype=torch.float64),
        P0=matrix([[0.2, 0.02], [0.02, 0.1]]),
    )
    return NonlinearGaussian(
        Pendulum(stiffness), lambda z, u: torch.sin(z[..., :1]), **{**numbers, **changes}
    )


def observations(time: int, *batch: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    t = 0.05 * torch.arange(time, dtype=torch.float64)
    noise = torch.randn(*batch, time, generator=g, dtype=torch.float64)
    return (torch.sin(1.2 * torch.cos(3.1 * t)) + 0.3 * noise)[..., None]
