"""The batched engines, and how tests run and compare them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from deepssm.core.model import LinearParameters, Series
from deepssm.inference import Kalman
from deepssm.inference.kalman import backends
from deepssm.inference.kalman.parallel.adjoint import Engine, Run
from tests.given import Given

F64 = torch.float64
Batched = Literal["stationary", "scan"]
ENGINES: dict[Batched, Engine] = {"stationary": backends.STATIONARY, "scan": backends.SCAN}


def check_engine(backend: Batched, model: Given, y: Tensor) -> None:
    """Fail if the compiled loop took over: nothing would be tested."""
    run = backends.start(backend, model.given, y)
    assert isinstance(run, Run) and run.engine is ENGINES[backend]


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


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
