from __future__ import annotations

import pytest
import torch

from deepssm.core.model import Series
from deepssm.inference.gaussian.methods import Cubature, Extended, Unscented
from deepssm.inference.gaussian.posterior_linearization import PosteriorLinearization
from tests.nonlinear_models import CASE_4, case_4, observations, pendulum


@pytest.mark.parametrize("rule", [Extended(), Unscented(0.5, 2.0, 1.0), Cubature()], ids=repr)
@pytest.mark.parametrize("iterations", [1, 4])
def test_linear_models_are_exact_after_any_number_of_passes(
    rule: Extended | Unscented | Cubature, iterations: int
) -> None:
    method = PosteriorLinearization(rule, iterations)
    smoothed = method.smooth(case_4(), Series(CASE_4))
    exact = Extended().smooth(case_4(), Series(CASE_4))
    assert abs(smoothed.log_likelihood.sum().item() + 9.215797658164472) < 1e-9
    torch.testing.assert_close(smoothed.mean, exact.mean, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(smoothed.cov, exact.cov, rtol=1e-8, atol=1e-9)


def test_extended_passes_end_at_the_most_probable_path() -> None:
    """Oracle: the gradient of the log joint density of the whole path, by autograd."""
    model = pendulum().requires_grad_(False)
    y, u = observations(30), torch.randn(30, 1, dtype=torch.float64)
    y[7:10] = torch.nan
    dt = 0.03 + 0.04 * torch.rand(30, dtype=torch.float64)
    series = Series(y, u, dt)

    def slope(z: torch.Tensor) -> torch.Tensor:
        z = z.detach().requires_grad_()
        seen = ~torch.isnan(y[:, 0])
        joint = model.initial().log_prob(z[0])
        joint = joint + model.transition(z[:-1], u[1:], dt[1:]).log_prob(z[1:]).sum()
        joint = joint + model.emission(z[seen], u[seen]).log_prob(y[seen]).sum()
        return torch.autograd.grad(joint, z)[0].abs().max()

    path = PosteriorLinearization(max_iterations=50).smooth(model, series).mean
    assert slope(path) < 1e-5
    assert slope(Extended().smooth(model, series).mean) > 1e-2


def test_batches_are_independent() -> None:
    model, y = pendulum().requires_grad_(False), observations(15, 2)
    method = PosteriorLinearization(Cubature(), tolerance=0.0, max_iterations=5)
    both = method.smooth(model, Series(y))
    for i in range(2):
        alone = method.smooth(model, Series(y[i]))
        torch.testing.assert_close(both.mean[i], alone.mean, rtol=1e-9, atol=1e-10)


def test_linear_models_are_sent_to_the_exact_method() -> None:
    from tests import oracles
    from tests.nonlinear_models import Linear

    model = Linear(oracles.random_linear_gaussian(2, 1, 3, 0))
    with pytest.raises(ValueError, match="is linear already"):
        PosteriorLinearization().smooth(model, Series(torch.zeros(3, 1, dtype=torch.float64)))
