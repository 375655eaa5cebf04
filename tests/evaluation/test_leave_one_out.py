from __future__ import annotations

import pytest
import torch
from torch import Tensor

import deepssm as ds
from deepssm import evaluation as ev
from deepssm.base import Series
from deepssm.checks import as_series

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
    found = ev.leave_one_out(model, series, ds.smooth(model, series.y))
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
    found = ev.leave_one_out(model, series, ds.smooth(model, series.y)).log_density
    one_step = ds.log_likelihood(model, series.y)
    assert found[5] == one_step[5] == 0
    torch.testing.assert_close(found[-1], one_step[-1])
    assert ((found[:5] - one_step[:5]).abs() > 1e-3).all()


def test_noiseless_readings_cannot_be_left_out() -> None:
    eye = torch.eye(1)
    model = ds.models.LinearGaussian(eye, eye, eye, 0 * eye, P0=eye)
    series = as_series(model, torch.ones(3, 1))
    with pytest.raises(ValueError, match="Leave-one-out needs a positive definite `R`"):
        ev.leave_one_out(model, series, ds.smooth(model, series.y))
