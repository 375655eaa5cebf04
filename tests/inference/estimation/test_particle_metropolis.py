from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from deepssm.core.model import Series
from deepssm.inference.estimation.particle_metropolis import ParticleMetropolis
from deepssm.inference.gaussian.methods import Extended
from deepssm.inference.particles.filter import Particle
from deepssm.models.gaussian.nonlinear import NonlinearGaussian
from tests.nonlinear_models import case_4


class Decay(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, z: Tensor, u: Tensor | None, dt: Tensor | None) -> Tensor:
        return self.rate * z


def build() -> NonlinearGaussian:
    return NonlinearGaussian(Decay(), lambda z, u: z, Q=[[0.3]], R=[[0.2]], m0=[1.0], P0=[[0.5]])


def test_draws_have_the_posterior_of_a_grid() -> None:
    """A linear model, so that Kalman on a grid of the rate is exact; 5 se at about 100 draws."""
    model, prior = build(), torch.distributions.Normal(0.5, 0.5)
    g = torch.Generator().manual_seed(0)
    y = torch.randn(6, 1, generator=g, dtype=torch.float64).cumsum(0) * 0.5
    grid = torch.linspace(-1.5, 2.5, 81, dtype=torch.float64)
    logs = []
    for rate in grid:
        with torch.no_grad():
            model.transition_function.rate.copy_(rate)  # type: ignore[union-attr]
        logs.append(Extended().log_likelihood(model, Series(y)).sum().detach())
    weight = torch.softmax(torch.stack(logs) + prior.log_prob(grid), 0)
    mean = (weight * grid).sum()
    sd = (weight * (grid - mean).square()).sum().sqrt()
    model = build()
    method = ParticleMetropolis(
        Particle(50),
        num_samples=500,
        warmup=150,
        log_prior=lambda m: prior.log_prob(m.transition_function.rate),  # type: ignore[union-attr]
    )
    learned = method.fit(model, Series(y), progress=False)
    draws = torch.tensor([record["transition_function.rate"] for record in learned.history])
    assert abs(draws.mean() - mean) < 5 * sd / 100**0.5
    assert abs(draws.std() / sd - 1) < 0.4
    assert 0.1 < learned.diagnostics["acceptance"] < 0.8
    assert not learned.warnings
    rate = model.transition_function.rate.detach()  # type: ignore[union-attr]
    torch.testing.assert_close(rate, draws.double().mean(), rtol=1e-5, atol=1e-6)
    error = learned.standard_errors["transition_function.rate"]
    torch.testing.assert_close(error.item(), draws.std().item(), rtol=1e-5, atol=1e-6)


def test_a_model_without_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="no free parameter"):
        ParticleMetropolis().fit(case_4(), Series(torch.zeros(3, 2, dtype=torch.float64)))


def test_an_impossible_start_is_refused() -> None:
    model = build()
    y = torch.full((3, 1), 1e200, dtype=torch.float64)
    with pytest.raises(ValueError, match="not finite where the walk starts"):
        ParticleMetropolis(Particle(10)).fit(model, Series(y))
