from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

import deepssm as ds
from deepssm import evaluation as ev
from deepssm.api.validation import as_series

NAN = float("nan")


def _model(scale: float = 1.0) -> ds.models.LinearGaussian:
    A = torch.tensor([[0.9, 0.4], [-0.2, 0.7]])
    Q = scale * torch.tensor([[0.5, 0.1], [0.1, 0.3]])
    C = torch.tensor([[1.0, 0.5], [0.3, -1.0]])
    R = scale * torch.tensor([[0.4, 0.15], [0.15, 0.6]])
    P0 = scale * torch.tensor([[2.0, 0.3], [0.3, 1.0]])
    return ds.models.LinearGaussian(A, Q, C, R, m0=torch.tensor([1.0, -1.0]), P0=P0)


def _data(runs: int = 300, time: int = 40) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(11)
    z, y = ds.simulate(_model(), time, num_samples=(runs,), generator=generator)
    y[:, 5:9, 0] = y[:, 20] = NAN
    return z, y


def test_innovations_add_up_to_the_log_likelihood() -> None:
    """Oracle: -2 log p = NIS + log |S| + n log 2 pi, with the filter's own log-likelihood."""
    model, (_, y) = _model(), _data(3)
    filtered = ds.filter(model, y)
    found = ev.innovations(model, as_series(model, y), filtered)
    squared = ev.nis(found)
    for t in range(y.shape[1]):
        seen = ~y[0, t].isnan()
        log_det = found.cov[:, t][:, seen][:, :, seen].logdet()
        dof = seen.sum()
        assert (squared.dof[:, t] == dof).all()
        total = squared.value[:, t].nan_to_num() + log_det + dof * math.log(2 * math.pi)
        torch.testing.assert_close(-total / 2, filtered.log_likelihood[:, t])
    assert squared.value[:, 20].isnan().all()


@pytest.mark.parametrize(("scale", "verdict"), [(1.0, True), (0.7, False), (1.4, False)])
def test_nis_tells_a_right_filter_from_a_wrong_one(scale: float, verdict: bool) -> None:
    """At 0.9999 a right filter fails once in 1e4 random seeds."""
    model, (_, y) = _model(scale), _data()
    found = ev.innovations(model, as_series(model, y), ds.filter(model, y))
    judged = ev.consistency(ev.nis(found), 0.9999)
    assert judged.consistent is verdict
    assert judged.mean == pytest.approx(1 / scale, rel=0.02)
    assert judged.count == int((~y.isnan()).sum())


@pytest.mark.parametrize("smooth", [False, True])
def test_nees_of_one_step_of_many_runs_is_chi_square(smooth: bool) -> None:
    model, (z, y) = _model(), _data()
    result = ds.smooth(model, y) if smooth else ds.filter(model, y)
    squared = ev.nees(z, result.mean, result.cov)
    step = ev.Squared(squared.value[:, 8], squared.dof[:, 8])
    assert ev.consistency(step, 0.9999).consistent
    half = ev.nees(z, result.mean, result.cov / 2)
    torch.testing.assert_close(half.value, 2 * squared.value)


def test_the_band_is_that_of_the_chi_square() -> None:
    judged = ev.consistency(ev.Squared(torch.ones(10), torch.full((10,), 3)), 0.95)
    assert (judged.lower, judged.upper) == pytest.approx(tuple(chi2.ppf([0.025, 0.975], 30) / 30))
    assert judged.mean == pytest.approx(10 / 30) and not judged.consistent


def test_diffuse_steps_are_left_out() -> None:
    model = ds.models.LinearGaussian(
        torch.eye(1), torch.eye(1), torch.eye(1), torch.eye(1), initial="diffuse"
    )
    y = torch.tensor([[3.0], [4.0], [NAN], [2.0]])
    found = ev.innovations(model, as_series(model, y), ds.filter(model, y))
    squared = ev.nis(found)
    assert squared.dof.tolist() == [0, 1, 0, 1]
    assert found.standardized[:, 0].isnan().tolist() == [True, False, True, False]
    torch.testing.assert_close(found.standardized[1].square()[0], squared.value[1])


def test_parameters_that_are_learnt_can_be_judged() -> None:
    """A tensor with a gradient must not turn into a number by accident: that warns."""
    eye = torch.eye(1, dtype=torch.float64)
    model = ds.models.LinearGaussian(eye, eye, eye, torch.nn.Parameter(eye), P0=eye)
    y = torch.tensor([[3.0], [NAN], [2.0]], dtype=torch.float64)
    found = ev.innovations(model, as_series(model, y), ds.filter(model, y))
    assert found.cov.requires_grad
    assert ev.consistency(ev.nis(found)).count == 2
