"""Steady steps in blocks of eight, for many series at once, against each series alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from deepssm.core.model import Series
from deepssm.inference.kalman.cpu import shared as shared
from deepssm.inference.kalman.cpu.problem import prepare
from deepssm.inference.kalman.cpu.run import shared_pattern
from deepssm.inference.kalman.cpu.vector import block_kernels as block_kernels
from deepssm.inference.kalman.cpu.vector import shared_kernels as shared_kernels
from deepssm.inference.kalman.method import Kalman
from tests import oracles
from tests.given import Given
from tests.inference.kalman.cases import close, rebuilt, tensors_of

from .cases import draw


def steady_blocks_of(given: Given, y: Tensor) -> shared.SteadyBlocks:
    problem = prepare(given.given, y)
    pattern = shared_pattern(problem)
    assert pattern is not None
    return shared.find_steady_blocks(problem, pattern)


def everything(given: Given, y: Tensor, weights: Tensor) -> list[Tensor]:
    """Moments of filter and smoother, and the gradient of a weighted log-likelihood."""
    filtered, smoothed = Kalman().filter(given, Series(y)), Kalman().smooth(given, Series(y))
    leaves = [x.clone().requires_grad_() for x in (y, *tensors_of(given.given))]
    model = Given(rebuilt(given.given, tuple(leaves[1:])))
    ll = Kalman().log_likelihood(model, Series(leaves[0]))
    plain = Kalman().log_likelihood(given, Series(y))
    close(ll.detach(), plain)
    grads = torch.autograd.grad((weights * ll.sum(-1)).sum(), leaves)
    return [plain, *filtered[:5], *smoothed[:4], *grads]


# Groups of eight that are full or not, wide and narrow models, more states than fill a vector.
SHAPES = [(37, 119, 4, 2), (17, 150, 9, 3), (8, 130, 1, 1), (2, 400, 3, 2)]


@pytest.mark.parametrize(("series", "time", "state", "obs"), SHAPES)
def test_all_series_equal_each_alone(series: int, time: int, state: int, obs: int) -> None:
    given = Given(oracles.random_linear_gaussian(state, obs, time, 2))
    y, weights = draw(series, time, obs), torch.linspace(0.5, 2.0, series, dtype=torch.float64)
    assert steady_blocks_of(given, y).blocks > 1
    batched = everything(given, y, weights)
    some = range(0, series, max(1, series // 5))
    alone = [everything(given, y[i], weights[i]) for i in range(series)]
    for k in range(11):  # series by series; the last is the gradient by the data
        for i in some:
            close(batched[k][i], alone[i][k], atol=1e-8)
    for k in range(11, len(batched)):
        total = torch.stack([one[k] for one in alone]).sum(0)
        close(batched[k], total, atol=1e-8 * max(1.0, float(total.abs().max())))


def test_threads_do_not_share_their_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scratch that takes a while lets all threads ask for it before the first one has it."""
    given = Given(oracles.random_linear_gaussian(4, 2, 2000, 2))
    y, weights = draw(80, 2000, 2), torch.linspace(0.5, 2.0, 80, dtype=torch.float64)
    alone = everything(given, y, weights)

    def slowly(make: Callable[..., object]) -> Callable[..., object]:
        def made(*sizes: int) -> object:
            time.sleep(0.02)
            return make(*sizes)

        return made

    monkeypatch.setattr(block_kernels, "innovation_space", slowly(block_kernels.innovation_space))
    monkeypatch.setattr(shared_kernels, "column_blocks", slowly(shared_kernels.column_blocks))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    for batched, one in zip(everything(given, y, weights), alone, strict=True):
        close(batched, one, atol=1e-9 * max(1.0, float(one.abs().max())))


def test_steady_blocks_agree_with_the_dense_gaussian() -> None:
    given = Given(oracles.random_linear_gaussian(2, 1, 70, 4))
    y = draw(40, 70, 1)
    assert steady_blocks_of(given, y).blocks > 1
    smoothed, filtered = Kalman().smooth(given, Series(y)), Kalman().filter(given, Series(y))
    for i in (0, 39):
        close(filtered.log_likelihood[i], oracles.log_likelihood(given.given, y[i]))
        close(filtered.mean[i], oracles.filtered(given.given, y[i]).mean)
        close(smoothed.mean[i], oracles.smooth(given.given, y[i]).mean)
        close(smoothed.cov[i], oracles.smooth(given.given, y[i]).cov)


@pytest.mark.parametrize("place", [(0, 0), (60, 0), (118, 1)])
def test_gaps_that_all_series_share(place: tuple[int, int]) -> None:
    """Before the steady blocks, within what would be one, and in the last number."""
    given = Given(oracles.random_linear_gaussian(3, 2, 119, 2))
    y, weights = draw(30, 119, 2), torch.ones(30, dtype=torch.float64)
    y[:, place[0], place[1]] = math.nan
    batched, alone = everything(given, y, weights), everything(given, y[29], weights[29])
    for k in range(11):
        close(batched[k][29], alone[k], atol=1e-8)


def test_one_gap_more_than_the_others_takes_another_path() -> None:
    given = Given(oracles.random_linear_gaussian(3, 2, 60, 2))
    y, weights = draw(12, 60, 2), torch.ones(12, dtype=torch.float64)
    y[7, 59, 1] = math.nan
    batched, alone = everything(given, y, weights), everything(given, y[7], weights[7])
    for k in range(11):
        close(batched[k][7], alone[k], atol=1e-8)


def test_inputs_and_short_series_have_no_steady_blocks() -> None:
    y = draw(20, 119, 2)
    varying = Given(oracles.random_linear_gaussian(3, 2, 119, 2, inputs=True))
    constant = Given(oracles.random_linear_gaussian(3, 2, 119, 2))
    assert steady_blocks_of(varying, y).blocks == 0
    assert steady_blocks_of(constant, y[:, :9]).blocks == 0
    weights = torch.ones(20, dtype=torch.float64)
    for given, data in ((varying, y), (constant, y[:, :9])):
        batched, alone = everything(given, data, weights), everything(given, data[3], weights[3])
        for k in range(11):
            close(batched[k][3], alone[k], atol=1e-8)


@pytest.mark.parametrize("shape", [(0, 90, 2), (20, 0, 2)])
def test_nothing_gives_nothing(shape: tuple[int, int, int]) -> None:
    given = Given(oracles.random_linear_gaussian(3, 2, 90, 2))
    y = torch.zeros(shape, dtype=torch.float64)
    smoothed = Kalman().smooth(given, Series(y))
    assert smoothed.mean.shape == (*shape[:2], 3)
    assert Kalman().log_likelihood(given, Series(y)).sum() == 0


def test_float32_in_and_out() -> None:
    given = Given(oracles.random_linear_gaussian(3, 2, 119, 2))
    y = draw(20, 119, 2).float()
    short, long = (Kalman().smooth(given, Series(x)) for x in (y, y.double()))
    assert short.mean.dtype == torch.float32
    torch.testing.assert_close(short.mean, long.mean.float(), rtol=1e-6, atol=1e-6)


def test_a_step_of_a_slow_model_is_the_same_in_a_longer_batch() -> None:
    """A filter does not look ahead, wherever blocks begin."""
    given, y = Given(oracles.random_linear_gaussian(4, 2, 200, 2)), draw(16, 200, 2)
    runs = [Kalman().filter(given, Series(y[:, :end])) for end in (160, 163, 200)]
    for one, other in pairwise(runs):
        close(one.mean, other.mean[:, : one.mean.shape[1]])
