"""An encoder, a combiner and objectives of one's own, from their contracts alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from deepssm.core.guides import CombinerStep
from deepssm.core.model import Series, StateSpaceModel
from deepssm.inference import SVI, SmoothingGuide, VariationalLoss
from deepssm.models.deep.deep_markov import DeepMarkov

from ...deep_models import gappy_series, linear_deep


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
