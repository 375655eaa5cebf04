"""Physical constants and noises learnt through approximate likelihoods."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor
from torch.distributions import constraints

from deepssm.core.model import Series
from deepssm.inference.estimation.maximum_likelihood import MaximumLikelihood
from deepssm.inference.gaussian.filter import GaussianFilter
from deepssm.inference.gaussian.methods import Cubature, Extended, GaussHermite, Unscented
from deepssm.models.gaussian.nonlinear import NonlinearGaussian
from tests.nonlinear_models import matrix, pendulum

STEP, LENGTH, DAMPING, NOISE = 0.1, 1.5, 0.4, 0.02


class Physics(PyroModule):
    """A damped pendulum; length in m, damping in 1/s."""

    length: Tensor
    damping: Tensor

    def __init__(self, length: Any, damping: Any) -> None:  # noqa: ANN401
        super().__init__()
        self.length, self.damping = length, damping

    def forward(self, z: Tensor, u: Tensor | None, dt: Tensor | None) -> Tensor:
        angle, speed = z.unbind(-1)
        force = -9.81 / self.length * angle.sin() - self.damping * speed
        return torch.stack((angle + STEP * speed, speed + STEP * force), -1)


def _positive(value: float) -> PyroParam:
    return PyroParam(torch.tensor(value, dtype=torch.float64), constraints.positive)


def _model(length: object, damping: object, noise: object) -> NonlinearGaussian:
    model = pendulum(R=noise, P0=matrix([[0.05, 0.0], [0.0, 0.05]]))
    model.transition_function = Physics(length, damping)
    return model


def _swings() -> Series:
    """Fifty swings of 15 steps."""
    torch.manual_seed(0)
    length, damping = torch.tensor([LENGTH, DAMPING], dtype=torch.float64)
    model = _model(length, damping, [[NOISE]])
    z, observations = model.initial().sample((50,)), []
    for t in range(15):
        z = model.transition(z).sample() if t else z
        observations.append(model.emission(z).sample())
    return Series(torch.stack(observations, 1))


RULES = [Extended(), Unscented(), Cubature(), GaussHermite(3)]


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_length_damping_and_noise_are_found(rule: GaussianFilter) -> None:
    """Within 3.5 of the learner's own standard errors, from a start far away."""
    noise = PyroParam(matrix([[0.05]]), constraints.positive_definite)
    model = _model(_positive(1.2), _positive(0.2), noise)
    learner = MaximumLikelihood(inference=rule, max_iterations=20)
    learned = learner.fit(model, _swings(), progress=False)
    physics, errors = model.transition_function, learned.standard_errors
    assert isinstance(physics, Physics)
    truth = {
        "transition_function.length": (physics.length, LENGTH, 0.06),
        "transition_function.damping": (physics.damping, DAMPING, 0.12),
        "R": (model.R, NOISE, 0.004),
    }
    for name, (value, exact, sharp) in truth.items():
        assert errors[name].item() < sharp, name
        assert abs(value.item() - exact) < 3.5 * errors[name].item(), name


@pytest.mark.parametrize("rule", [Unscented()], ids=repr)
def test_a_prior_moves_the_estimate_to_where_both_slopes_cancel(rule: GaussianFilter) -> None:
    """Oracle: at the maximum of the posterior, slopes of likelihood and prior add up to zero."""
    series, estimates = Series(_swings().y[:8]), []
    damping = torch.tensor(DAMPING, dtype=torch.float64)
    for width in (0.02, 0.5):
        centre, sd = torch.tensor([0.0, width], dtype=torch.float64)
        prior = dist.LogNormal(centre, sd)
        model = _model(PyroSample(prior), damping, [[NOISE]])
        learner = MaximumLikelihood(inference=rule, max_iterations=20)
        learned = learner.fit(model, series, progress=False)
        assert "log_prior" in learned.diagnostics
        physics = model.transition_function
        assert isinstance(physics, Physics)
        estimates.append(physics.length.item())
        length = physics.length.detach().requires_grad_()
        fixed = _model(length, damping, [[NOISE]])
        total = rule.log_likelihood(fixed, series).sum() + prior.log_prob(length)
        (slope,) = torch.autograd.grad(total, length)
        assert abs(slope.item()) < 1e-3
    pulled, free = estimates
    assert 1.0 < pulled < free - 0.1
    assert abs(free - LENGTH) < 0.2


def test_parameters_of_a_pyro_module_belong_to_their_model() -> None:
    """Pyro keeps what a called module reads in a global store, by name: two models would share."""
    first, second = (_model(_positive(x), _positive(0.1), [[NOISE]]) for x in (0.9, 1.4))
    others = set(pyro.get_param_store().keys())
    z = torch.tensor([0.5, 0.1], dtype=torch.float64)
    expected = 0.1 - STEP * (9.81 / torch.tensor([0.9, 1.4]) * z[0].sin() + 0.1 * 0.1)
    got = torch.stack([model.transition(z).mean[1] for model in (first, second)])
    torch.testing.assert_close(got, expected.double(), rtol=1e-6, atol=0)
    assert set(pyro.get_param_store().keys()) == others
