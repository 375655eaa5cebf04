"""Complete steps of many series, eight series to a SIMD vector, against each series alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from deepssm.core.model import LinearParameters, Series
from deepssm.inference.kalman.cpu import run as run
from deepssm.inference.kalman.cpu import shared as shared
from deepssm.inference.kalman.cpu.problem import Problem, prepare
from deepssm.inference.kalman.cpu.run import shared_pattern
from deepssm.inference.kalman.cpu.vector import shared_simd as shared_simd
from deepssm.inference.kalman.method import Kalman
from deepssm.ops.memory import lines
from tests import oracles
from tests.given import Given
from tests.inference.kalman.cases import close, draw


def first_complete(problem: Problem) -> int:
    pattern = shared_pattern(problem)
    assert pattern is not None
    return shared._first_complete(problem, pattern)


def same_as_alone(parameters: LinearParameters, y: torch.Tensor) -> None:
    """The first, the last and a middle series are what each is alone."""
    given = Given(parameters)
    batched = Kalman().filter(given, Series(y))
    plain = Kalman().log_likelihood(given, Series(y))
    for i in {0, len(y) // 2, len(y) - 1}:
        alone = Kalman().filter(given, Series(y[i]))
        for one, other in zip(batched[:5], alone[:5], strict=True):
            close(one[i], other)
        close(plain[i], alone.log_likelihood)


@pytest.mark.parametrize("sizes", [(1, 1), (2, 1), (3, 3), (5, 2), (7, 4), (8, 5)])
@pytest.mark.parametrize(("series", "time"), [(9, 40), (3, 43)])
def test_rows_in_fours_pairs_and_alone(sizes: tuple[int, int], series: int, time: int) -> None:
    parameters, y = oracles.random_linear_gaussian(*sizes, time, 5), draw(series, time, sizes[1])
    assert first_complete(prepare(parameters, y)) == time % 8
    same_as_alone(parameters, y)


def test_sizes_that_are_compiled_for() -> None:
    parameters, y = oracles.random_linear_gaussian(3, 1, 520, 5), draw(21, 520, 1)
    assert prepare(parameters, y).sizes.constants is not None
    same_as_alone(parameters, y)


def test_dense_gaussian() -> None:
    parameters, y = oracles.random_linear_gaussian(3, 2, 16, 8), draw(9, 16, 2)
    found = Kalman().filter(Given(parameters), Series(y))
    for i in (0, 8):
        dense = oracles.filtered(parameters, y[i])
        close(found.mean[i], dense.mean)
        close(found.cov[i], dense.cov)
        close(found.log_likelihood[i], oracles.log_likelihood(parameters, y[i]))


@pytest.mark.parametrize("last", [0, 4, 20, 39])
def test_steps_after_the_last_gap_go_in_simd_vectors(last: int) -> None:
    parameters, y = oracles.random_linear_gaussian(3, 2, 40, 5), draw(11, 40, 2)
    y[:, last, 1] = math.nan
    assert first_complete(prepare(parameters, y)) == 8 * ((last + 8) // 8)
    same_as_alone(parameters, y)


def test_a_model_that_varies_does_not_go_in_simd_vectors() -> None:
    parameters, y = oracles.random_linear_gaussian(3, 2, 40, 5, inputs=True), draw(11, 40, 2)
    assert first_complete(prepare(parameters, y)) == 40
    same_as_alone(parameters, y)


@pytest.mark.parametrize("time", [48, 50, 51])
def test_results_past_the_caches(monkeypatch: pytest.MonkeyPatch, time: int) -> None:
    """Only where each series is whole cache lines, of 2 steps of 4 numbers."""
    parameters, y = oracles.random_linear_gaussian(4, 2, time, 5), draw(19, time, 2)
    plain = Kalman().filter(Given(parameters), Series(y))
    monkeypatch.setattr(shared_simd, "_STREAM_BYTES", 0)
    ways: list[int] = []
    way_of = shared_simd.way_of

    def noted(out: np.ndarray, first: int, wanted: bool) -> int:
        ways.append(way_of(out, first, wanted))
        return ways[-1]

    monkeypatch.setattr(shared_simd, "way_of", noted)
    streamed = Kalman().filter(Given(parameters), Series(y))
    expected = shared_simd.STREAM if time % 2 == 0 else shared_simd.WRITE
    assert ways == [expected, expected, shared_simd.SKIP]
    for one, other in zip(streamed[:5], plain[:5], strict=True):
        assert torch.equal(one, other)


def test_room_begins_with_a_cache_line() -> None:
    for size in range(1, 20):
        room = lines(size, 3)
        assert room.shape == (size, 3)
        assert room.ctypes.data % 64 == 0


@pytest.mark.parametrize("converges", [True, False])
def test_moments_of_the_first_steps_stand_for_all(*, converges: bool) -> None:
    """A gain that is not steady in time is computed for every step."""
    parameters, y = oracles.random_linear_gaussian(2, 1, 700, 5), draw(2, 700, 1)
    if not converges:
        slow = 0.9999 * torch.eye(2, dtype=torch.float64)[None]
        noise = 1e-8 * parameters.transition.cov
        transition = parameters.transition._replace(matrix=slow, cov=noise)
        parameters = parameters._replace(transition=transition)
    problem = prepare(parameters, y)
    pattern, first = shared_pattern(problem), run._first_series(problem)
    assert pattern is not None
    assert (run._start_alone(first) is not None) == converges
    whole = run._run(first, store=True)
    assert (pattern.slot == whole.slot).all()
    assert (pattern.F[0, pattern.slot[0]] == whole.F[0, whole.slot[0]]).all()
