"""Physical constants and noises learnt through approximate likelihoods."""

from __future__ import annotations

import pytest
import torch
from pyro.nn import PyroParam
from torch.distributions import constraints

from deepssm.base import Series
from deepssm.inference.gaussian_filters import Cubature, Extended
from deepssm.inference.maximum_likelihood import MaximumLikelihood
from tests.inference.nonlinear_models import Pendulum, matrix, pendulum


def _swings(count: int, time: int) -> Series:
    """Draws of the pendulum with gravity over length 9.81 and noise variance 0.02."""
    torch.manual_seed(0)
    model = pendulum(R=[[0.02]])
    with torch.no_grad():
        z = model.initial().sample((count,))
        readings = []
        for t in range(time):
            z = model.transition(z).sample() if t else z
            readings.append(model.emission(z).sample())
    return Series(torch.stack(readings, 1))


@pytest.mark.parametrize("rule", [Extended(), Cubature()], ids=repr)
def test_gravity_and_noise_are_found(rule: Extended) -> None:
    """Within 4 of the learner's own standard errors, from a start far away."""
    noise = PyroParam(matrix([[0.1]]), constraints.positive_definite)
    model = pendulum(7.0, R=noise)
    learner = MaximumLikelihood(inference=rule, max_iterations=30)
    learned = learner.fit(model, _swings(10, 50), progress=False)
    law = model.transition_function
    assert isinstance(law, Pendulum)
    gap = (law.stiffness - 9.81).abs().item()
    error = learned.standard_errors["transition_function.stiffness"].item()
    assert error < 0.5
    assert gap < 4 * error
    assert 0.014 < model.R.item() < 0.028
