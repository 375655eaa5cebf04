"""Eight series at a time, or eight stretches of one, against the scalar loop on each alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from deepssm.core.model import Series
from deepssm.inference.kalman.cpu import individual as individual
from deepssm.inference.kalman.cpu import problem as problem_module
from deepssm.inference.kalman.cpu.problem import Problem, prepare
from deepssm.inference.kalman.method import Kalman
from deepssm.models.gaussian.linear_gaussian import LinearGaussian
from tests.inference.kalman.cases import close


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_model(n: int, p: int, rank: int, *, diagonal: bool = False) -> LinearGaussian:
    """A model in generic position whose process noise has `rank` directions."""
    A = torch.linalg.qr(normal(n, n, seed=1)).Q * torch.linspace(0.8, 1.0, n, dtype=torch.float64)
    spread, noise = normal(n, rank, seed=2), normal(p, p, seed=3)
    R = torch.eye(p, dtype=torch.float64) if diagonal else noise @ noise.mT + 0.1 * torch.eye(p)
    b, d, m0 = normal(n, seed=4), normal(p, seed=5), normal(n, seed=6)
    C, P0 = normal(p, n, seed=7), 3.0 * torch.eye(n, dtype=torch.float64)
    return LinearGaussian(A, spread @ spread.mT, C, R, b=b, d=d, m0=m0, P0=P0)


def data(*shape: int, seed: int = 8) -> Tensor:
    y = 2.0 * normal(*shape, seed=seed)
    y[torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.3] = math.nan
    return y


def problem_of(model: LinearGaussian, y: Tensor) -> Problem:
    return prepare(model.linear_parameters(None, None), y)


@pytest.fixture(autouse=True)
def compile_for_any_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the scalar loop from being compiled for each of the models here."""
    monkeypatch.setattr(problem_module, "_STEPS_WORTH_COMPILING", 1_000_000)


def scalar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(individual, "has_individual_moments", lambda problem: False)


@pytest.mark.parametrize(("n", "p", "rank", "diagonal"), [(9, 3, 4, False), (2, 2, 2, True)])
def test_each_series_of_a_batch_equals_itself_alone(
    n: int, p: int, rank: int, diagonal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine states fill one vector of a row and part of the next; eleven series, two groups."""
    model, y = random_model(n, p, rank, diagonal=diagonal), data(11, 910, p)
    assert individual.has_individual_moments(problem_of(model, y))
    filtered, smoothed = Kalman().filter(model, Series(y)), Kalman().smooth(model, Series(y))
    ll = Kalman().log_likelihood(model, Series(y))
    scalar(monkeypatch)
    for i in (0, 7, 10):
        alone = Kalman().filter(model, Series(y[i])), Kalman().smooth(model, Series(y[i]))
        for batched, one in zip((filtered, smoothed), alone, strict=True):
            for x, other in zip(batched[:-1], one[:-1], strict=True):
                close(x[i], other, atol=1e-9)
            assert batched.ill_conditioned[i] == one.ill_conditioned
        close(ll[i], alone[0].log_likelihood, atol=1e-9)


def test_matrices_of_every_step_and_series(monkeypatch: pytest.MonkeyPatch) -> None:
    S, T, n, p = 9, 1_150, 2, 2
    A, Q = 0.4 * normal(S, T, n, n, seed=1), normal(S, T, n, 1, seed=2)
    R = normal(T, p, p, seed=3)
    model = LinearGaussian(
        A, Q @ Q.mT, normal(T, p, n, seed=4), R @ R.mT + 0.05 * torch.eye(p), P0=torch.eye(n)
    )
    y = data(S, T, p)
    answers = []
    for _ in range(2):
        answers.append([*Kalman().filter(model, Series(y)), *Kalman().smooth(model, Series(y))])
        scalar(monkeypatch)
    for x, other in zip(*answers, strict=True):
        close(x, other, atol=1e-9)


@pytest.mark.parametrize("series", [1, 3])
def test_stretches_of_few_long_series(series: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, y = random_model(3, 2, 2), data(series, 10_400 // series, 2)
    assert individual.plan_of(problem_of(model, y).sizes, late=True).seam[0] > 0
    assert individual.individual_smoother(problem_of(model, y)) is not None
    answers = []
    for _ in range(2):
        ll = Kalman().log_likelihood(model, Series(y))
        both = Kalman().filter(model, Series(y)), Kalman().smooth(model, Series(y))
        answers.append([ll, *both[0], *both[1]])
        scalar(monkeypatch)
    for x, other in zip(*answers, strict=True):
        close(x, other, atol=1e-9)


def test_stretches_are_refused_where_the_start_is_not_forgotten() -> None:
    """A state that never moves is known the better the longer it is seen."""
    model = LinearGaussian([[1.0]], [[0.0]], [[1.0]], [[1.0]], P0=[[4.0]])
    y = data(10_400, 1)
    for run in (individual.individual_log_likelihood, individual.individual_smoother):
        assert run(problem_of(model, y[None])) is None
    mean = Kalman().smooth(model, Series(y)).mean
    seen = y[~y.isnan()]
    close(mean, (seen.sum() / (len(seen) + 0.25)).expand_as(mean), atol=1e-9)


def test_redundant_components_are_left_to_the_scalar_loop() -> None:
    ones = torch.ones(2, 2, dtype=torch.float64)
    model = LinearGaussian(0.5 * torch.eye(2), torch.eye(2), torch.eye(2), ones, P0=torch.eye(2))
    assert individual.individual_filter(problem_of(model, data(10, 1_100, 2))) is None


def test_every_step_belongs_to_one_lane() -> None:
    model = random_model(3, 2, 2)
    for shape in ((1, 20_011), (2, 6_001), (3, 5_000), (5, 2_500), (19, 700)):
        for late in (False, True):
            plan = individual.plan_of(problem_of(model, data(*shape, 2)).sizes, late=late)
            times = torch.zeros(shape)
            for s, start, first, last in zip(*(x.ravel() for x in plan[:4]), strict=True):
                times[s, start + first : start + last] += 1
            assert (times == 1).all()
