"""Closed forms of steps in continuous time, against the series of Van Loan and against mpmath."""

from __future__ import annotations

import mpmath
import pytest
import torch

import deepssm as ds
from deepssm.models.continuous.closed_forms import decay_integral, decay_integrals
from deepssm.models.continuous.tracking import ContinuousTime

STEPS = torch.tensor([0.0, 1e-6, 1e-3, 0.1, 1.0, 1.9, 2.1, 30.0, 300.0], dtype=torch.float64)
MODELS = {
    "OU": lambda: ds.models.OrnsteinUhlenbeck(),
    "Matern 3/2": lambda: ds.models.Matern(1.5),
    "Matern 5/2": lambda: ds.models.Matern(2.5),
    "velocity": lambda: ds.models.ConstantVelocity(1),
    "acceleration": lambda: ds.models.ConstantAcceleration(1),
}


@pytest.mark.parametrize("name", MODELS)
def test_steps_are_those_of_the_series(name: str) -> None:
    """The series is squared up to nine times, which costs it three or four digits."""
    model = MODELS[name]()
    A, Q = model.step(STEPS)
    expected_A, expected_Q = ContinuousTime.step(model, STEPS)
    torch.testing.assert_close(A, expected_A, rtol=1e-12, atol=1e-12)
    deviation = expected_Q.diagonal(dim1=-2, dim2=-1).sqrt()
    scale = (deviation[..., :, None] * deviation[..., None, :]).clamp_min(1e-300)
    assert ((Q - expected_Q).abs() / scale).max() < 1e-11


@pytest.mark.parametrize("name", MODELS)
def test_derivatives_are_those_of_the_series(name: str) -> None:
    model, steps = MODELS[name](), STEPS[1:-2].clone().requires_grad_()
    leaves = [x for x in model.parameters() if x is not model.noise_variance_unconstrained]
    weights = [
        torch.randn(len(steps), 3, 3, generator=torch.Generator().manual_seed(i)).double()
        for i in (1, 2)
    ]
    found = []
    for step in (model.step, lambda h: ContinuousTime.step(model, h)):
        total = torch.zeros(()).double() + sum(
            (x * w[:, : x.shape[1], : x.shape[2]]).sum()
            for x, w in zip(step(steps), weights, strict=True)
        )
        found.append(torch.autograd.grad(total, [*leaves, steps]))
    for x, y in zip(*found, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-11)


def test_integrals_keep_every_digit() -> None:
    """Oracle: quadrature with 30 digits."""
    rate = torch.tensor(0.7, dtype=torch.float64)
    found = decay_integrals(rate, STEPS[1:], 5)
    with mpmath.workdps(30):
        for m in (0, 2, 4):
            truth = [
                float(mpmath.gammainc(m + 1, 0, 1.4 * h) / mpmath.mpf(1.4) ** (m + 1))
                for h in STEPS[1:].tolist()
            ]
            torch.testing.assert_close(
                found[m], torch.tensor(truth, dtype=torch.float64), rtol=2e-14, atol=0
            )


def test_integrals_can_be_differentiated_twice() -> None:
    rate = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    h = STEPS[3:7].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda r, t: decay_integral(r, t, 2), (rate, h))
    assert torch.autograd.gradgradcheck(lambda r, t: decay_integral(r, t, 2), (rate, h))


def test_equal_steps_make_a_constant_model() -> None:
    """So that a regular series given with its times settles as fast as any other."""
    model = ds.models.Matern(1.5, length_scale=3.0)
    regular = model.linear_parameters(None, torch.full((50,), 0.5, dtype=torch.float64))
    once = model.linear_parameters(None, torch.tensor(0.5, dtype=torch.float64))
    assert regular.transition.matrix.shape == (1, 2, 2)
    torch.testing.assert_close(regular.transition.cov, once.transition.cov)
