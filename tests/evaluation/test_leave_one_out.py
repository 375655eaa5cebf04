from __future__ import annotations

import pytest
import torch
from torch import Tensor

import deepssm as ds
from deepssm import evaluation as ev
from deepssm.api.validation import as_series
from deepssm.core.model import Series
from tests import oracles
from tests.inference.kalman.cases import make

NAN = float("nan")


def _case(time: int = 9) -> tuple[ds.models.LinearGaussian, Series]:
    generator = torch.Generator().manual_seed(3)
    A = torch.tensor([[0.9, 0.4], [-0.2, 0.7]])
    C = torch.tensor([[1.0, 0.5], [0.3, -1.0]])
    R = torch.tensor([[0.4, 0.15], [0.15, 0.6]])
    P0 = torch.tensor([[2.0, 0.3], [0.3, 1.0]])
    model = ds.models.LinearGaussian(
        A, 0.3 * torch.eye(2), C, R, m0=torch.tensor([1.0, -1.0]), P0=P0, d=torch.tensor([3.0, 0])
    )
    y = torch.randn(time, 2, generator=generator, dtype=torch.float64)
    y[2, 0] = y[5] = NAN
    return model, as_series(model, y)


def _masked(y: Tensor, t: int) -> Tensor:
    return torch.where(torch.arange(len(y))[:, None] == t, NAN, y)


def test_each_step_is_judged_by_a_smoother_that_never_saw_it() -> None:
    model, series = _case()
    found = ev.leave_one_out(model, series)
    emission = model.linear_parameters(None, None).emission
    for t in range(series.time):
        blind = ds.smooth(model, _masked(series.y, t))
        C, d, R = emission.matrix[0], emission.offset[0], emission.cov[0]
        mean, cov = C @ blind.mean[t] + d, C @ blind.cov[t] @ C.mT + R
        expected = -ev.log_score(series.y[t], mean, cov).nan_to_num()
        torch.testing.assert_close(found.log_density[t], expected, rtol=1e-10, atol=1e-12)
        if not series.y[t].isnan().any():
            torch.testing.assert_close(found.error[t], series.y[t] - mean)
            torch.testing.assert_close(found.cov[t], cov)


def test_it_is_not_the_one_step_density() -> None:
    model, series = _case()
    found = ev.leave_one_out(model, series).log_density
    one_step = ds.log_likelihood(model, series.y)
    assert found[5] == one_step[5] == 0
    torch.testing.assert_close(found[-1], one_step[-1])
    assert ((found[:5] - one_step[:5]).abs() > 1e-3).all()


@pytest.mark.parametrize("name", ["constant", "time-varying", "rank-1 Q", "one diffuse state"])
def test_gaps_and_diffuse_starts(name: str) -> None:
    """Oracle: the dense Gaussian over the other steps."""
    model, y = make(name, time=8)
    found = ev.leave_one_out(model, Series(y))
    for t in range(8):
        mean, cov = oracles.observations(model.given, _masked(y, t))
        expected = -ev.log_score(y[t], mean[t], cov[t]).nan_to_num()
        torch.testing.assert_close(found.log_density[t], expected, rtol=1e-8, atol=1e-8)
        seen = ~y[t].isnan()
        torch.testing.assert_close(found.error[t][seen], (y[t] - mean[t])[seen])
        torch.testing.assert_close(found.cov[t][seen][:, seen], cov[t][seen][:, seen])


def test_a_walk_seen_without_noise_is_interpolated() -> None:
    """Between neighbours the mean is their average and the variance half a step's."""
    model = ds.models.LinearGaussian([[1.0]], [[2.0]], [[1.0]], [[0.0]], initial="diffuse")
    y = torch.tensor([[1.0], [4.0], [3.0], [5.0]], dtype=torch.float64)
    found = ev.leave_one_out(model, as_series(model, y))
    expected = y - torch.tensor([[4.0], [2.0], [4.5], [3.0]], dtype=torch.float64)
    torch.testing.assert_close(found.error, expected)
    variances = torch.tensor([2.0, 1.0, 1.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(found.cov[:, 0, 0], variances)


def test_a_step_that_alone_fixes_a_diffuse_state_has_no_density() -> None:
    model = ds.models.LocalLevel(0.5, noise_variance=1.0) + ds.models.Regression(1)
    u = torch.zeros(7, 1, dtype=torch.float64)
    u[4] = 1.0
    y = torch.randn(7, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = ev.leave_one_out(model, as_series(model, y, u))
    assert torch.nonzero(found.log_density.isnan()).flatten().tolist() == [4]
    without = ev.leave_one_out(
        ds.models.LocalLevel(0.5, noise_variance=1.0),
        as_series(ds.models.LocalLevel(), torch.where(u == 1, torch.nan, y)),
    )
    others = torch.arange(7) != 4
    torch.testing.assert_close(found.log_density[others], without.log_density[others])


def test_copies_without_noise_are_refused() -> None:
    eye, two = torch.eye(1), torch.ones(2, 1)
    model = ds.models.LinearGaussian(eye, eye, two, torch.zeros(2, 2), P0=eye)
    with pytest.raises(ValueError, match="not copies of each other"):
        ev.leave_one_out(model, as_series(model, torch.ones(3, 2)))
