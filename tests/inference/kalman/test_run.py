"""Runs of steps with one gain: whole blocks, few slots, many series, against other routes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from deepssm.core.model import Series
from deepssm.inference.kalman.method import Kalman
from deepssm.models.gaussian.linear_gaussian import LinearGaussian
from tests.given import Given
from tests.inference.kalman.cases import close, long_series, rebuilt, tensors_of


def slow_level(time: int) -> tuple[LinearGaussian, Tensor]:
    """A level that moves so little that its gain is steady after far more than `time` steps."""
    y = torch.randn(time, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return LinearGaussian([[1.0]], [[1e-7]], [[1.0]], [[1.0]], P0=[[1.0]]), y


def test_more_factors_than_there_is_room_for() -> None:
    """A gap after the end makes room for all from the start, and may change nothing before it."""
    model, y = slow_level(400)
    longer = torch.cat([y, torch.full((1, 1), math.nan, dtype=torch.float64)])
    method = Kalman()
    for verb in (method.filter, method.smooth):
        short, long = verb(model, Series(y)), verb(model, Series(longer))
        for one, other in zip(short[:-1], long[:-1], strict=True):
            close(one, other[:400])


@pytest.mark.parametrize("gap", [False, True])
def test_many_long_series_equal_each_alone(gap: bool) -> None:
    case = long_series()
    y = 2 * torch.randn(5, 130, 2, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    if gap:
        y[:, 80, 0] = math.nan
    weights = torch.linspace(0.5, 2.0, 5, dtype=torch.float64)
    answers = []
    for split in (False, True):
        leaves = [x.clone().requires_grad_() for x in (y, *tensors_of(case.model.given))]
        given = Given(rebuilt(case.model.given, tuple(leaves[1:])))
        parts = leaves[0].unbind() if split else [leaves[0]]
        ll = [Kalman().log_likelihood(given, Series(x)).sum(-1).reshape(-1) for x in parts]
        grads = torch.autograd.grad((weights * torch.cat(ll)).sum(), leaves)
        results = [Kalman().filter(given, Series(x.detach())) for x in parts]
        fields = [torch.cat([r[f].reshape(-1) for r in results]) for f in range(5)]
        answers.append([torch.cat(ll), *grads, *fields])
    for batched, alone in zip(*answers, strict=True):
        close(batched, alone, atol=1e-8)


def test_many_series_with_gaps_of_their_own_equal_each_alone() -> None:
    """They are filtered 16 at a time; 37 leave a remainder, and each starts somewhere else."""
    given, generator = long_series().model.given, torch.Generator().manual_seed(7)
    y = torch.randn(37, 9, 2, generator=generator, dtype=torch.float64)
    y[torch.rand(y.shape, generator=generator) < 0.3] = math.nan
    y[0, 4] = math.nan
    y[20, 3, 1] = 1e200  # its log-density is not finite: one mark of 37
    starts = torch.randn(
        37, given.initial.mean.shape[-1], generator=generator, dtype=torch.float64
    )
    batch = Given(given._replace(initial=given.initial._replace(mean=starts)))
    batched = Kalman().filter(batch, Series(y))
    for i in range(37):
        one = Given(given._replace(initial=given.initial._replace(mean=starts[i])))
        alone = Kalman().filter(one, Series(y[i]))
        assert all(torch.equal(x[i], other) for x, other in zip(batched, alone, strict=True))
    assert batched.ill_conditioned.nonzero().tolist() == [[20]]
