"""Exactly diffuse starts in the batched backends: slopes as columns, equations by a scan."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from deepssm.core.model import LinearParameters, Series
from deepssm.inference import Kalman
from deepssm.inference.kalman import backends as backends
from deepssm.inference.kalman.parallel.adjoint import Run
from tests import oracles
from tests.given import Given

from .batched import ENGINES, F64, Batched, check_engine, close, gradient

STARTS: dict[str, dict[str, Any]] = {
    "one direction of three": {"diffuse": 1},
    "mixed, P0 of rank 1, inputs": {"diffuse": 2, "initial_rank": 1, "inputs": True},
    "all directions, P0 = 0, rank-1 Q": {"diffuse": 3, "initial_rank": 0, "process_rank": 1},
    "a batch of parameters": {"diffuse": 2, "batch": (2,)},
    "varying": {"diffuse": 2, "time_varying": True},
}
CASES: list[tuple[Batched, str, bool]] = [
    *(("scan", name, False) for name in STARTS),
    *(("stationary", name, False) for name in list(STARTS)[1:-1]),
    ("scan", "mixed, P0 of rank 1, inputs", True),
    ("scan", "varying", True),
    ("stationary", "all directions, P0 = 0, rank-1 Q", True),
]


def make(backend: Batched, name: str, *, alike: bool) -> tuple[Given, Tensor]:
    """A model and series with gaps in the first steps, in the same places if `alike`."""
    time = 110 if backend == "stationary" else 11
    given = oracles.random_linear_gaussian(3, 2, time, 1, **STARTS[name])
    y = 2 * torch.randn(2, time, 2, generator=torch.Generator().manual_seed(3), dtype=F64)
    y[..., 1, 0], y[..., 2, :], y[0, 0, 1] = math.nan, math.nan, math.nan
    y[-1, time - 4 :] = math.nan
    if alike:
        y = torch.where(y[:1].isnan(), math.nan, y.nan_to_num(0.5))
    return Given(given), y


@pytest.mark.parametrize(("backend", "name", "alike"), CASES)
def test_diffuse_starts_are_the_joint_gaussian(backend: Batched, name: str, alike: bool) -> None:
    """The filter and the gradient too, against the compiled loop."""
    model, y = make(backend, name, alike=alike)
    check_engine(backend, model, y)
    smoothed, expected = Kalman(backend).smooth(model, Series(y)), oracles.smooth(model.given, y)
    for actual, exact in zip(smoothed[:3], expected, strict=True):
        close(actual, exact, 1e-9)
    # Before all directions are determined, only the sum over steps is a density.
    total = oracles.log_likelihood(model.given, y).sum(-1)
    close(smoothed.log_likelihood.sum(-1), total, 1e-10)
    ours, theirs = (Kalman(b).filter(model, Series(y)) for b in (backend, "sequential"))
    for actual, other in zip(ours, theirs, strict=True):
        close(actual.double(), other.double(), 1e-8)
    weight = torch.tensor([0.5, 2.0], dtype=F64)
    grads = [gradient(b, model, y, weight) for b in (backend, "sequential")]
    for actual, other in zip(*grads, strict=True):
        close(actual, other, 1e-8)


@pytest.mark.parametrize("backend", ENGINES)
def test_a_trend_far_from_zero_keeps_its_digits(backend: Batched) -> None:
    """A level of 1e6, and gaps before the slope is determined."""
    A = torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=F64)
    start, transition, emission = oracles.random_linear_gaussian(2, 1, 1, 1, diffuse=2)
    start = start._replace(mean=0 * start.mean, cov=0 * start.cov, diffuse=torch.eye(2).double())
    transition = transition._replace(matrix=A[None], offset=0 * transition.offset)
    emission = emission._replace(matrix=torch.tensor([[[1.0, 0.0]]]).double())
    model = Given(LinearParameters(start, transition, emission))
    walk = torch.randn(2, 200, 1, generator=torch.Generator().manual_seed(1), dtype=F64)
    y = 1e6 + walk.cumsum(1)
    y[:, 0], y[0, 2:5] = math.nan, math.nan
    check_engine(backend, model, y)
    ours, theirs = (Kalman(b).smooth(model, Series(y)) for b in (backend, "sequential"))
    close(ours.mean, theirs.mean, 1e-8)  # of deviations near 1: the 14th digit of the level
    close(ours.cov, theirs.cov, 1e-8)
    close(ours.log_likelihood, theirs.log_likelihood, 1e-7)


@pytest.mark.parametrize("backend", ENGINES)
def test_a_direction_that_no_data_fix_is_infinite_and_no_round_off(backend: Batched) -> None:
    given = oracles.random_linear_gaussian(3, 2, 1, 2, diffuse=2)
    A = given.transition.matrix.clone()
    A[..., :2, 2], C = 0.0, given.emission.matrix.clone()
    C[..., 2] = 0.0  # nothing leads from the third state to the data
    hidden = given._replace(
        initial=given.initial._replace(diffuse=torch.eye(3, dtype=F64)[:, 1:]),
        transition=given.transition._replace(matrix=A),
        emission=given.emission._replace(matrix=C),
    )
    y = torch.randn(120, 2, generator=torch.Generator().manual_seed(5), dtype=F64)
    ours, theirs = (Kalman(b).filter(Given(hidden), Series(y)) for b in (backend, "sequential"))
    assert not bool(ours.ill_conditioned) and not bool(theirs.ill_conditioned)
    assert bool((ours.cov[:30].isinf() == theirs.cov[:30].isinf()).all())
    assert bool(ours.cov[:30, 2, 2].isinf().all())
    close(ours.log_likelihood, theirs.log_likelihood, 1e-9)


@pytest.mark.parametrize("backend", ENGINES)
def test_draws_from_a_diffuse_start(backend: Batched) -> None:
    """Equal to those of the compiled loop with the same noise, one column for each draw."""
    model, y = make(backend, "mixed, P0 of rank 1, inputs", alike=False)
    draws = [
        Kalman(b).sample_posterior(model, Series(y), 3, torch.Generator().manual_seed(1))
        for b in (backend, "sequential")
    ]
    close(draws[0], draws[1], 1e-9)


def test_the_choice_of_engine_does_not_depend_on_the_start() -> None:
    model, y = make("scan", "varying", alike=False)
    run = backends.start("scan", model.given, y)
    assert (
        isinstance(run, Run)
        and run.known is not None
        and run.known.hardly_determined.shape == (2,)
    )
