"""The batched Kalman backends against the dense Gaussian, the compiled loop and each other."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from deepssm.base import LinearParameters, Series, StateSpaceModel
from deepssm.inference import Kalman
from deepssm.inference import kalman_backends as backends
from deepssm.inference.kalman_adjoint import Engine
from tests import oracles

F64 = torch.float64
Batched = Literal["stationary", "scan"]
ENGINES: dict[Batched, Engine] = {"stationary": backends.STATIONARY, "scan": backends.SCAN}
CONSTANT: dict[str, dict[str, Any]] = {
    "constant": {},
    "inputs": {"inputs": True},
    "batch of parameters": {"batch": (2,)},
    "rank-1 Q": {"process_rank": 1},
    "P0 = 0": {"initial_rank": 0},
    "singular Q, R and P0": {"process_rank": 2, "noise_rank": 1, "initial_rank": 1},
}
VARYING: dict[str, dict[str, Any]] = {
    "varying": {"time_varying": True},
    "Q = 0": {"process_rank": 0},
    "varying, rank-1 Q, P0 = 0": {"time_varying": True, "process_rank": 1, "initial_rank": 0},
    "varying, batch": {"time_varying": True, "batch": (2,)},
}
CASES: list[tuple[Batched, str]] = [
    *(("stationary", name) for name in CONSTANT),
    *(("scan", name) for name in CONSTANT | VARYING),
]


class Given(StateSpaceModel):
    """A model that is its matrices."""

    def __init__(self, parameters: LinearParameters) -> None:
        super().__init__()
        self.given = parameters
        self.register_buffer("like", parameters.initial.mean[..., :0])
        self.obs_dim, self.state_dim = parameters.emission.matrix.shape[-2:]

    def linear_parameters(self, u: Tensor | None, dt: Tensor | None) -> LinearParameters:
        return self.given


def make(name: str, time: int, *, obs: int = 2, series: int = 2) -> tuple[Given, Tensor]:
    """A model and series with gaps after which the gains settle again, each in its own places."""
    options = (CONSTANT | VARYING)[name]
    parameters = oracles.random_linear_gaussian(3, obs, time, 1, **options)
    y = 2 * torch.randn(series, time, obs, dtype=F64)
    y[..., time // 2, 0], y[..., time // 2 + 2, :] = math.nan, math.nan
    y[0, time // 2 + 3, 1], y[-1, time - 4 :] = math.nan, math.nan
    return Given(parameters), y


def check_engine(backend: Batched, model: Given, y: Tensor) -> None:
    """Fail if the compiled loop took over: nothing would be tested."""
    run = backends.start(backend, model.given, y)
    assert run is not None and run.engine is ENGINES[backend]


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("backend", "name"), CASES)
def test_likelihood_and_smoother_are_the_joint_gaussian(backend: Batched, name: str) -> None:
    model, y = make(name, 180 if backend == "stationary" else 30)
    check_engine(backend, model, y)
    smoothed, expected = Kalman(backend).smooth(model, Series(y)), oracles.smooth(model.given, y)
    close(smoothed.mean, expected.mean)
    close(smoothed.cov, expected.cov)
    close(smoothed.cross_cov, expected.cross_cov)
    close(smoothed.log_likelihood, oracles.log_likelihood(model.given, y))


@pytest.mark.parametrize(("backend", "name"), CASES)
def test_filter_and_gradient_equal_the_compiled_loop(backend: Batched, name: str) -> None:
    model, y = make(
        name, 200 if backend == "stationary" else 37, series=3 if "batch" not in name else 2
    )
    check_engine(backend, model, y)
    ours, theirs = (Kalman(b).filter(model, Series(y)) for b in (backend, "sequential"))
    for actual, expected in zip(ours, theirs, strict=True):
        close(actual.double(), expected.double())
    weight = torch.linspace(0.5, 2.0, len(y), dtype=F64)
    grads = [gradient(b, model, y, weight) for b in (backend, "sequential")]
    for actual, expected in zip(*grads, strict=True):
        close(actual, expected, 1e-9)


def gradient(
    backend: backends.Backend, model: Given, y: Tensor, weight: Tensor
) -> tuple[Tensor, ...]:
    start, transition, emission = model.given
    given = (y, start.mean, start.cov, *transition, *emission)
    leaves = [x.clone().requires_grad_() for x in given]
    ll = Kalman(backend).log_likelihood(Given(rebuilt(model.given, leaves)), Series(leaves[0]))
    return torch.autograd.grad((weight * ll.sum(-1)).sum(), leaves)


def rebuilt(given: LinearParameters, leaves: list[Tensor]) -> LinearParameters:
    start, transition, emission = given
    return LinearParameters(
        start._replace(mean=leaves[1], cov=leaves[2]),
        transition._make(leaves[3:6]),
        emission._make(leaves[6:9]),
    )
