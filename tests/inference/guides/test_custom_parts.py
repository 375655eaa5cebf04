"""An encoder, a combiner and objectives of one's own, from their contracts alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from deepssm.core.guides import CombinerStep
from deepssm.core.model import Series, StateSpaceModel
from deepssm.core.pyro_sites import observed_steps
from deepssm.inference import (
    SVI,
    Amortized,
    FlowGuide,
    Path,
    SmoothingGuide,
    StepwisePosterior,
    VariationalLoss,
)
from deepssm.inference.guides.posterior import prior_of
from deepssm.models.deep.deep_markov import DeepMarkov

from ... import oracles
from ...deep_models import gappy_series, linear_deep, linear_parameters


class MeanEncoder(nn.Module):
    """An encoder: a context is what a step says and the mean of what follows."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.features, self.hidden = features, hidden
        self.now, self.later = nn.Linear(features, hidden), nn.Linear(features, hidden)

    def forward(self, features: Tensor, last: Tensor) -> Tensor:
        t = torch.arange(features.shape[-2])
        counted = (t <= last[..., None])[..., None]
        read = torch.where(counted, self.later(features), torch.zeros((), dtype=features.dtype))
        total = read.flip(-2).cumsum(-2).flip(-2) / (t.flip(0) + 1)[:, None]
        return torch.tanh(self.now(features) + total)

    def filtering(self, features: Tensor) -> Tensor:
        return torch.tanh(self.now(features) + self.later(features))


class AddingCombiner(nn.Module):
    """A combiner: the prior mean, moved by the context."""

    uses_innovation = False

    def __init__(self, state: int, hidden: int) -> None:
        super().__init__()
        self.hidden, self.move = hidden, nn.Linear(hidden, 2 * state)

    def forward(self, step: CombinerStep) -> tuple[Tensor, Tensor]:
        shift, raw = self.move(step.context).chunk(2, dim=-1)
        return step.mean + shift, step.scale * torch.sigmoid(raw)


class Tempered(VariationalLoss):
    """An objective: the bound with half of the divergence."""

    def objective(self, series: Series, kl_weight: float, scale: float) -> Tensor:
        posterior, z, prior = self.draw(series, self.num_particles)
        gap = posterior.divergence(prior).sum() / 2
        return scale * (gap - self.likelihood(z, series).sum()) / self.num_particles


class Following(Tempered):
    """The same with a number of its own, by the old name of its module."""

    def __init__(
        self, model: StateSpaceModel, guide: nn.Module, *, num_particles: int = 1
    ) -> None:
        super().__init__(model, guide, num_particles=num_particles)
        self.state = nn.ParameterList([nn.Parameter(torch.zeros(()))])


def test_parts_and_objectives_of_your_own_train() -> None:
    model = linear_deep()
    series = gappy_series(model)
    guide = SmoothingGuide(
        2, 2, 1, encoder=MeanEncoder(7, 5), combiner=AddingCombiner(2, 4)
    ).double()
    method = SVI(guide, steps=40, report_every=20, objective=Tempered, num_particles=2)
    learned = method.fit(model, series, progress=False)
    assert learned.history[-1]["elbo"] > learned.history[0]["elbo"]
    assert all(p.grad is not None for p in guide.parameters())
    found = learned.method.filter(model, series)
    assert torch.isfinite(found.log_likelihood).all()
    with pytest.warns(DeprecationWarning, match="`state` of a loss is now .*training_state"):
        SVI(guide, steps=1, objective=Following).fit(model, series, progress=False)


def test_parts_that_lack_something_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`encoder` must have the sizes .* got Linear"):
        SmoothingGuide(2, 2, 1, encoder=nn.Linear(7, 8))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`combiner` must have the size .* got Linear"):
        SmoothingGuide(2, 2, 1, combiner=nn.Linear(7, 8))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`transition` must be an `nn.Module`, got function"):
        DeepMarkov(2, 2, transition=lambda z, u=None, dt=None: Independent(Normal(z, 1.0), 1))


class Walk(StepwisePosterior):
    """A posterior of one's own: `q(z_t | z_{t-1}) = N(z_{t-1} / 2 + drive_t, 1/4)`."""

    def __init__(
        self,
        model: StateSpaceModel,
        series: Series,
        drive: Tensor,
        batch_shape: torch.Size | None = None,
    ) -> None:
        self.drive = drive
        super().__init__(model, series, observed_steps(series.y), batch_shape)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> Walk:
        return Walk(self.model, self.series, self.drive, torch.Size(batch_shape))

    def draw(
        self, sample_shape: torch.Size | tuple[int, ...] = (), *, beyond: bool = True
    ) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        z, path = self.drive.new_zeros(*shape, self.model.state_dim), []
        for drive in self.drive.unbind(-2):
            z = 0.5 * z + drive + 0.5 * torch.randn_like(z)
            path.append(z)
        self.path = self.conditionals(torch.stack(path, dim=-2))
        if beyond:
            self.path = self.conditionals(self._continued(self.path.z))
        return self.path.z

    def conditionals(self, value: Tensor) -> Path:
        before = nn.functional.pad(value[..., :-1, :], (0, 0, 1, 0))
        return Path(value, 0.5 * before + self.drive, torch.full_like(value, 0.5))

    def proposal(self, z: Tensor, prior: Distribution, t: int) -> Path:
        before = 0.5 * z if t else torch.zeros_like(z)
        return Path(z, before + self.drive[..., t, :], torch.full_like(z, 0.5))


class WalkGuide(nn.Module):
    """A guide whose steps are proposals too."""

    def __init__(self) -> None:
        super().__init__()
        self.drive = nn.Linear(2, 2)

    def forward(self, model: StateSpaceModel, series: Series) -> Walk:
        return Walk(model, series, self.drive(series.y.nan_to_num(0.0)))

    filtering = forward


def test_a_posterior_of_your_own_trains_and_proposes() -> None:
    """Its paths weigh the likelihood (5 standard errors), and its steps do so by particles."""
    model, guide = linear_deep(), WalkGuide().double()
    series = gappy_series(model, time=6, batch=2)
    SVI(guide, steps=100, report_every=50).fit(model.requires_grad_(False), series, progress=False)
    assert series.u is not None
    exact = torch.stack(
        [
            oracles.log_likelihood(linear_parameters(model, u), y).sum()
            for u, y in zip(series.u, series.y, strict=True)
        ]
    )
    found = Amortized(guide, num_particles=20_000).log_likelihood(model, series).sum(-1)
    torch.testing.assert_close(found, exact, rtol=0, atol=0.15)
    with torch.no_grad():
        posterior = guide(model, series).expand(torch.Size((4000, 2)))
        z = posterior.rsample()
        torch.testing.assert_close(posterior.log_prob(z), posterior.log_prob(z.clone()))
        gap = posterior.log_prob(z) - prior_of(posterior).log_prob(z)
        gap = gap - posterior.divergence(prior_of(posterior)).sum(-1)
        assert (gap.mean(0).abs() < 5 * gap.std(0) / 4000**0.5).all()
    SVI(FlowGuide(guide, 2, hidden=4).double(), steps=2).fit(model, series, progress=False)
