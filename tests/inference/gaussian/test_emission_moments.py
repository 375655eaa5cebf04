"""Emissions that are not Gaussian enter Gaussian filters by their mean and variance."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    NegativeBinomial,
    Normal,
    Poisson,
    StudentT,
)

from deepssm.core.model import Series, StateSpaceModel
from deepssm.inference.gaussian.filter import GaussianFilter
from deepssm.inference.gaussian.methods import Cubature, Extended, GaussHermite, Unscented

MEAN, SD = 0.3, 0.6


class Once(StateSpaceModel):
    """One state of a known Gaussian, read by any distribution."""

    state_dim = obs_dim = 1

    def __init__(self, emission_of: Callable[[Tensor], Distribution]) -> None:
        super().__init__()
        self.emission_of = emission_of

    def initial(self) -> Distribution:
        mean = torch.full((1,), MEAN, dtype=torch.float64)
        return Independent(Normal(mean, torch.full_like(mean, SD)), 1)

    def transition(
        self, z: Tensor, u: Tensor | None = None, dt: Tensor | None = None
    ) -> Distribution:
        return Independent(Normal(z, torch.full_like(z, 0.1)), 1)

    def emission(self, z: Tensor, u: Tensor | None = None) -> Distribution:
        return Independent(self.emission_of(z), 1)


EMISSIONS = {
    "Poisson": (lambda z: Poisson(z.exp()), 3.0),
    "Bernoulli": (lambda z: Bernoulli(logits=2 * z), 1.0),
    "negative binomial": (lambda z: NegativeBinomial(3.0, logits=z), 4.0),
    "Student-t": (lambda z: StudentT(5.0, z.sin(), 0.4), 1.2),
}


@pytest.mark.parametrize("name", EMISSIONS)
def test_the_update_is_the_best_linear_one(name: str) -> None:
    """Oracle: moments of state and observation by a dense grid over the state."""
    emission_of, observation = EMISSIONS[name]
    z = torch.linspace(MEAN - 8 * SD, MEAN + 8 * SD, 20_001, dtype=torch.float64)
    weight = torch.softmax(-0.5 * ((z - MEAN) / SD).square(), 0)
    mean, variance = emission_of(z).mean, emission_of(z).variance
    expected = (weight * mean).sum()
    S = (weight * (variance + (mean - expected).square())).sum()
    cross = (weight * (z - MEAN) * mean).sum()
    got = GaussHermite(25).filter(
        Once(emission_of), Series(torch.tensor([[observation]], dtype=z.dtype))
    )
    exact = MEAN + cross / S * (observation - expected)
    torch.testing.assert_close(got.mean[0, 0], exact, rtol=1e-6, atol=0)
    torch.testing.assert_close(got.cov[0, 0, 0], SD**2 - cross**2 / S, rtol=1e-6, atol=0)
    score = Normal(expected, S.sqrt()).log_prob(torch.tensor(observation))
    torch.testing.assert_close(got.log_likelihood[0], score, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", EMISSIONS)
@pytest.mark.parametrize("rule", [Extended(), Extended(iterations=3), Unscented(), Cubature()])
def test_cheap_rules_come_close(rule: GaussianFilter, name: str) -> None:
    emission_of, observation = EMISSIONS[name]
    y = torch.tensor([[observation], [float("nan")], [observation]], dtype=torch.float64)
    got, near = (
        rule.smooth(Once(emission_of), Series(y)),
        GaussHermite(15).smooth(Once(emission_of), Series(y)),
    )
    assert got.log_likelihood[1] == 0
    torch.testing.assert_close(got.mean, near.mean, rtol=0, atol=0.25)
    torch.testing.assert_close(got.cov, near.cov, rtol=0.5, atol=0)


def test_labels_have_no_mean() -> None:
    class Labels(Once):
        def emission(self, z: Tensor, u: Tensor | None = None) -> Distribution:
            return Independent(Categorical(logits=torch.stack((z, -z), -1)), 1)

    with pytest.raises(ValueError, match="`Categorical` observations have no mean"):
        Unscented().filter(Labels(Poisson), Series(torch.ones(2, 1, dtype=torch.float64)))
