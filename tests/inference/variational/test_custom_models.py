"""Neural models of the user's own, which `SVI` trains without being told how."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, Poisson

import deepssm as ds
from deepssm.core.model import Series
from deepssm.inference import SVI, Amortized, LinearizedGuide, SmoothingGuide
from deepssm.models import DeepMarkov, NeuralTransition
from deepssm.models.deep.transitions import join, refuse_time_steps


class Pendulum(ds.StateSpaceModel):
    """Three distributions and a network."""

    state_dim, obs_dim = 2, 1

    def __init__(self, counts: bool = False) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
        self.raw, self.counts = nn.Parameter(torch.zeros(3)), counts

    def initial(self) -> Distribution:
        return Independent(Normal(torch.zeros(2), 1.0), 1)

    def transition(
        self, z: Tensor, u: Tensor | None = None, dt: Tensor | None = None
    ) -> Distribution:
        scale = nn.functional.softplus(self.raw[:2]) + 1e-2
        return Independent(Normal(z + self.net(z), scale), 1)

    def emission(self, z: Tensor, u: Tensor | None = None) -> Distribution:
        if self.counts:
            return Independent(Poisson(z[..., :1].clamp_max(10.0).exp()), 1)
        return Independent(Normal(z[..., :1], nn.functional.softplus(self.raw[2:]) + 1e-2), 1)


@pytest.mark.parametrize("counts", [False, True])
def test_a_model_of_three_distributions_and_a_network_trains(counts: bool) -> None:
    g = torch.Generator().manual_seed(0)
    wave = torch.sin(torch.arange(60) / 4)[:, None]
    y = wave + 0.1 * torch.randn(60, 1, generator=g)
    if counts:
        y = torch.poisson((1 + wave).exp(), generator=g)
    y[20:24] = torch.nan
    torch.manual_seed(0)
    model = Pendulum(counts)
    assert model.neural
    before = [p.clone() for p in model.net.parameters()]
    method = SVI(steps=80, window=30, report_every=20, hidden=8)
    fit = ds.fit(model, y, method=method, progress=False)
    elbos = [record["elbo"] for record in fit.learned.history]
    assert max(elbos) > elbos[0]
    assert all(not torch.equal(a, b) for a, b in zip(before, model.net.parameters(), strict=True))
    assert isinstance(fit.method, Amortized)
    assert isinstance(fit.method.guide, SmoothingGuide if counts else LinearizedGuide)
    assert torch.isfinite(fit.forecast(5, num_samples=20).mean).all()
    assert torch.isfinite(fit.log_likelihood()).all()
    assert torch.isfinite(fit.smooth().mean).all() and torch.isfinite(fit.impute(5).mean).all()


class Rotation(NeuralTransition):
    """A transition of one's own, from the docstring of its base class."""

    def __init__(self, input_dim: int) -> None:
        super().__init__(2, input_dim)
        self.net = nn.Linear(2 + input_dim, 2)

    def forward(self, z: Tensor, u: Tensor | None = None, dt: Tensor | None = None) -> Independent:
        refuse_time_steps(self, dt)
        return self.noise(z + torch.tanh(self.net(join(z, u))))


class Squared(nn.Module):
    """An emission of one's own, which tells nothing but its distribution."""

    def forward(self, z: Tensor, u: Tensor | None = None) -> Distribution:
        return Independent(Normal(z.square().sum(-1, keepdim=True), 0.5), 1)


def test_parts_of_your_own_train() -> None:
    g = torch.Generator().manual_seed(0)
    y, u = torch.rand(3, 20, 1, generator=g), torch.randn(3, 20, 1, generator=g)
    torch.manual_seed(0)
    model = DeepMarkov(1, 2, input_dim=1, transition=Rotation(1), emission=Squared())
    learned = SVI(steps=20, report_every=10).fit(model, Series(y, u), progress=False)
    assert learned.history[-1]["elbo"] > learned.history[0]["elbo"]
    assert model.image_size is None


def test_a_generator_of_amortized_wins_over_its_seed() -> None:
    model = Pendulum()
    series = Series(torch.zeros(12, 1))
    guide = LinearizedGuide()

    def level(method: Amortized) -> Tensor:
        return method.log_likelihood(model, series)

    def given(seed: int) -> Amortized:
        source = torch.Generator().manual_seed(seed)
        return Amortized(guide, seed=7, num_particles=20, generator=source)

    assert torch.equal(level(given(3)), level(given(3)))
    assert not torch.equal(level(given(3)), level(given(4)))
    by_seed = Amortized(guide, seed=7, num_particles=20)
    assert torch.equal(level(by_seed), level(by_seed))
    advancing = given(3)
    assert not torch.equal(level(advancing), level(advancing))
