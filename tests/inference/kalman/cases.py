"""Models in generic position with their data, and how tests take them apart and compare."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deepssm.core.model import LinearParameters
from tests import oracles
from tests.given import Given

CASES: dict[str, dict[str, Any]] = {
    "constant": {},
    "time-varying": {"time_varying": True},
    "inputs": {"inputs": True},
    "batch of parameters": {"batch": (2,)},
    "rank-1 Q": {"process_rank": 1},
    "Q = 0": {"process_rank": 0},
    "P0 = 0": {"initial_rank": 0},
    "one diffuse state": {"diffuse": 1},
    "all diffuse": {"diffuse": 3, "initial_rank": 0},
    "diffuse and rank-1 Q, varying": {"diffuse": 2, "process_rank": 1, "time_varying": True},
}


class Case(NamedTuple):
    model: Given
    y: Tensor


def make(
    name: str, *, state: int = 3, obs: int = 2, time: int = 7, seed: int = 1, gaps: float = 0.3
) -> Case:
    parameters = oracles.random_linear_gaussian(state, obs, time, seed, **CASES[name])
    lead = CASES[name].get("batch", ())
    generator = torch.Generator().manual_seed(seed)
    y = 2 * torch.randn(*lead, time, obs, generator=generator, dtype=torch.float64)
    return Case(Given(parameters), oracles.punch_holes(y, gaps, seed))


def close(actual: Tensor, expected: Tensor, atol: float = 1e-9) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=atol)


def tensors_of(given: LinearParameters) -> list[Tensor]:
    return [given.initial.mean, given.initial.cov, *given.transition, *given.emission]


def rebuilt(given: LinearParameters, leaves: tuple[Tensor, ...]) -> LinearParameters:
    mean, cov, *rest = leaves
    return LinearParameters(
        given.initial._replace(mean=mean, cov=cov),
        given.transition._make(rest[:3]),
        given.emission._make(rest[3:]),
    )


def generic_position() -> Case:
    """The stress case that the literature's numbers belong to."""
    from deepssm.models import LinearGaussian

    nan = math.nan
    model = LinearGaussian(
        A=[[0.9, 0.1], [0.0, 0.8]],
        Q=[[0.2, 0.05], [0.05, 0.3]],
        C=[[1.0, 0.3], [0.5, 1.0]],
        R=[[0.5, 0.3], [0.3, 0.6]],
        b=[0.05, 0.02],
        d=[0.1, -0.2],
        m0=[0.5, -0.5],
        P0=[[2.0, 0.3], [0.3, 1.0]],
    )
    rows = [[1.2, 0.4], [nan, 0.9], [2.1, nan], [nan, nan], [1.7, 1.3], [0.6, 0.2]]
    return Case(model, torch.tensor(rows, dtype=torch.float64))  # type: ignore[arg-type]


def long_series(diffuse: int = 0) -> Case:
    """Long enough for gains in the steady state, with gaps that interrupt them twice."""
    parameters = oracles.random_linear_gaussian(3, 2, 160, 5, diffuse=diffuse)
    y = 2 * torch.randn(160, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    y[70:73] = math.nan
    y[120, 1] = math.nan
    return Case(Given(parameters), y)


def draw(series: int, steps: int, obs: int, seed: int = 3) -> Tensor:
    """Data of no model, far from every mean."""
    generator = torch.Generator().manual_seed(seed)
    return 3 + 2 * torch.randn(series, steps, obs, generator=generator, dtype=torch.float64)
