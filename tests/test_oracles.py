"""The oracle itself, against numbers that statsmodels, Stata, R and books agree on."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor

from deepssm.core.model import GaussianInitial, LinearConditional, LinearParameters

from . import oracles


def tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


NAN = math.nan
CASE_4 = LinearParameters(
    GaussianInitial(tensor([0.5, -0.5]), tensor([[2, 0.3], [0.3, 1]])),
    LinearConditional(
        tensor([[[0.9, 0.1], [0, 0.8]]]),
        tensor([[0.05, 0.02]]),
        tensor([[[0.2, 0.05], [0.05, 0.3]]]),
    ),
    LinearConditional(
        tensor([[[1, 0.3], [0.5, 1]]]), tensor([[0.1, -0.2]]), tensor([[[0.5, 0.3], [0.3, 0.6]]])
    ),
)
CASE_4_Y = tensor([[1.2, 0.4], [NAN, 0.9], [2.1, NAN], [NAN, NAN], [1.7, 1.3], [0.6, 0.2]])
NILE_LIKE = tensor([[1120.0], [1160.0], [963.0], [1210.0], [1160.0], [1160.0], [813.0]])


def local_level(noise: float, level: float) -> LinearParameters:
    one, zero = torch.ones(1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    return LinearParameters(
        GaussianInitial(zero[0], zero, one[0]),
        LinearConditional(one, zero, level * one),
        LinearConditional(one, zero, noise * one),
    )


@pytest.mark.parametrize("digits", [None, 40])
def test_generic_position_case_has_the_published_likelihood(digits: int | None) -> None:
    steps = oracles.log_likelihood(CASE_4, CASE_4_Y, digits=digits)
    expected = [-2.5162437204, -1.2371375558, -1.3053137221, 0, -1.9578927784, -2.1992098813]
    assert steps.sum().item() == pytest.approx(-9.215797658164472, abs=1e-13)
    torch.testing.assert_close(steps, tensor(expected), rtol=0, atol=1e-10)


@pytest.mark.parametrize("digits", [None, 40])
def test_generic_position_case_has_the_published_smoothed_moments(digits: int | None) -> None:
    mean, cov, cross = oracles.smooth(CASE_4, CASE_4_Y, digits=digits)
    close = functools.partial(torch.testing.assert_close, rtol=0, atol=1e-10)
    close(mean[0], tensor([1.2203282676, 0.0770074836]))
    close(mean[3], tensor([1.2910067193, 0.4227929356]))
    expected = tensor([[0.3030645178, -0.0597290228], [-0.0597290228, 0.2869227066]])
    close(cov[0], expected)
    lagged = tensor([[0.2086549668, -0.0863491766], [-0.0552289632, 0.1521534353]])
    close(cross[1].mT, lagged)


def test_generic_position_case_has_the_published_forecasts() -> None:
    y = torch.cat([CASE_4_Y, torch.full((3, 2), NAN, dtype=torch.float64)])
    mean, cov = oracles.observations(CASE_4, y)
    expected = [[1.0844120452, 0.4703854587], [1.0566444413, 0.4378657696]]
    torch.testing.assert_close(mean[6:8], tensor(expected), rtol=0, atol=1e-10)
    first = tensor([[0.9640622563, 0.7094841679], [0.7094841679, 1.2299841558]])
    torch.testing.assert_close(cov[6], first, rtol=0, atol=1e-10)


def test_diffuse_likelihood_is_the_limit_of_a_wide_start() -> None:
    """With 60 digits a start variance of 1e8 is as good as infinite to 1e-5."""
    diffuse = oracles.random_linear_gaussian(3, 2, 6, seed=3, diffuse=2, time_varying=True)
    _, y = oracles.sample(diffuse._replace(initial=diffuse.initial._replace(diffuse=None)), 6, 0)
    y = oracles.punch_holes(y, 0.3, seed=2)
    m0, P0, X = diffuse.initial
    assert X is not None
    totals, smoothed = [], oracles.smooth(diffuse, y)
    for digits in (None, 40):
        totals.append(oracles.log_likelihood(diffuse, y, digits=digits).sum().item())
    # A variance of 1e8 keeps eight digits of P0 in float64; the arithmetic has 60.
    wide = diffuse._replace(initial=GaussianInitial(m0, P0 + 1e8 * X @ X.mT))
    limit = oracles.log_likelihood(wide, y, digits=60).sum().item() + math.log(1e8)
    assert totals[0] == pytest.approx(totals[1], abs=1e-10)
    assert totals[0] == pytest.approx(limit, abs=1e-5)
    near = oracles.smooth(wide, y, digits=60)
    torch.testing.assert_close(smoothed.mean, near.mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(smoothed.cov, near.cov, rtol=0, atol=1e-5)


def test_local_level_diffuse_steps_are_durbin_and_koopmans() -> None:
    """a_2 = y_1, P_2 = noise + level, and the first step leaves only -1/2 log 2 pi."""
    params = local_level(15099.0, 1469.1)
    steps = oracles.log_likelihood(params, NILE_LIKE)
    assert steps[0].item() == pytest.approx(-0.5 * math.log(2 * math.pi), abs=1e-12)
    mean, cov, _ = oracles.predicted(params, NILE_LIKE)
    assert torch.isnan(mean[0]).all()
    assert mean[1].item() == pytest.approx(1120.0)
    assert cov[1].item() == pytest.approx(16568.1)


@pytest.mark.parametrize("rank", [None, 1])
def test_batches_and_singular_matrices(rank: int | None) -> None:
    params = oracles.random_linear_gaussian(
        3, 2, 4, seed=1, batch=(2,), time_varying=True, process_rank=rank, initial_rank=rank
    )
    one = oracles._series_parameters(params, torch.Size([2]), (1,))
    _, y = oracles.sample(one, 4, seed=0)
    both = oracles.log_likelihood(params, y)
    torch.testing.assert_close(both[1], oracles.log_likelihood(one, y))
    assert both.shape == (2, 4) and not torch.allclose(both[0], both[1])


def test_a_redundant_noiseless_sensor_changes_nothing() -> None:
    params = oracles.random_linear_gaussian(2, 1, 3, seed=5)
    _, y = oracles.sample(params, 3, seed=1)
    twice = params._replace(
        emission=LinearConditional(
            params.emission.matrix.repeat(1, 2, 1),
            params.emission.offset.repeat(1, 2),
            params.emission.cov.repeat(1, 2, 2),
        )
    )
    torch.testing.assert_close(
        oracles.log_likelihood(twice, y.repeat(1, 2), digits=40), oracles.log_likelihood(params, y)
    )
