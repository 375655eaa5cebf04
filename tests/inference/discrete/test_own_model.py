"""A stranger's own discrete model: three distributions, and the members of `DiscreteModel`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, OneHotCategorical

import deepssm as ds
from deepssm.core.model import Series
from deepssm.inference import BaumWelch, ForwardBackward, MaximumLikelihood
from deepssm.models import ClosedFormEM, DiscreteModel


class Levels(ds.StateSpaceModel):
    """Two levels under unit noise, left with one learnt probability."""

    state_dim, obs_dim = 2, 1

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.tensor([-1.0, 2.0], dtype=torch.float64))
        self.stay = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def log_initial(self) -> Tensor:
        return torch.full_like(self.levels, 0.5).log()

    def log_transition(self, u: Tensor | None = None, dt: Tensor | None = None) -> Tensor:
        return torch.log_softmax(self.stay * torch.eye(2).to(self.levels), -1)

    def log_emission(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        density = Normal(self.levels, 1.0).log_prob(torch.nan_to_num(y))
        return torch.where(torch.isnan(y), 0.0, density)

    def initial(self) -> Distribution:
        return OneHotCategorical(logits=self.log_initial())

    def transition(
        self, z: Tensor, u: Tensor | None = None, dt: Tensor | None = None
    ) -> Distribution:
        return OneHotCategorical(probs=z @ self.log_transition().exp())

    def emission(self, z: Tensor, u: Tensor | None = None) -> Distribution:
        return Independent(Normal((z @ self.levels)[..., None], 1.0), 1)


def data() -> Tensor:
    y = ds.simulate(Levels(), 60, generator=torch.Generator().manual_seed(0)).y.detach()
    y[7:9] = torch.nan
    return y


def test_it_is_filtered_smoothed_forecast_and_drawn() -> None:
    model, y = Levels(), data()
    assert isinstance(model, DiscreteModel) and not isinstance(model, ClosedFormEM)
    smoothed = ds.smooth(model, y)
    torch.testing.assert_close(smoothed.mean.sum(-1), torch.ones(60, dtype=torch.float64))
    assert ds.filter(model, y).mean.shape == (60, 2)
    paths = ds.sample_posterior(model, y, num_samples=3_000, generator=seed())
    torch.testing.assert_close(paths.mean(0), smoothed.mean, rtol=0, atol=0.05)
    forecast = ds.forecast(model, y, 3, generator=seed())
    assert forecast.mean.shape == (3, 1)
    scan = ds.smooth(model, y, method=ForwardBackward("scan"))
    torch.testing.assert_close(scan.mean, smoothed.mean)


def test_it_runs_online() -> None:
    model, y = Levels(), data()
    running = ds.online(model)
    running.update(y[0])
    for step in y[1:]:
        running.predict()
        running.update(step)
    batch = ds.filter(model, y)
    torch.testing.assert_close(running.mean, batch.mean[-1])
    assert running.log_likelihood == pytest.approx(batch.log_likelihood.sum().item())


def test_it_is_learnt_by_maximum_likelihood() -> None:
    model, y = Levels(), data()
    before = ds.log_likelihood(model, y).sum().item()
    fit = ds.fit(model, y, method=MaximumLikelihood(), progress=False)
    assert fit.learned.objective > before and isinstance(fit.method, ForwardBackward)
    assert fit.learned.diagnostics["gradient_norm"] < 1e-6
    with pytest.raises(ValueError, match="lacks members of `deepssm.models.ClosedFormEM`"):
        BaumWelch().fit(model, Series(y))


def test_other_models_are_told_what_is_missing() -> None:
    model = ds.models.LocalLevel()
    with pytest.raises(ValueError, match="the members of `deepssm.models.DiscreteModel`"):
        ds.filter(model, [0.0, 1.0], method=ForwardBackward())


def seed() -> torch.Generator:
    return torch.Generator().manual_seed(1)
