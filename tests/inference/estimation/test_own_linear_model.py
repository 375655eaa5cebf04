"""A stranger's own linear model: `linear_parameters` beside the three distributions."""

from __future__ import annotations

import pytest
import torch
from pyro.distributions import MultivariateNormal
from torch import Tensor, nn

import deepssm as ds
from deepssm.core.model import GaussianInitial, LinearConditional, LinearParameters, Series
from deepssm.inference import Kalman, MaximumLikelihood
from deepssm.models import LinearGaussianModel


class Decay(ds.StateSpaceModel):
    """A scalar that decays at a learnt rate, seen with noise."""

    state_dim, obs_dim = 1, 1

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def linear_parameters(self, u: Tensor | None, dt: Tensor | None) -> LinearParameters:
        one = torch.ones(1, 1, 1, dtype=torch.float64)
        step = LinearConditional(self.rate * one, 0 * one[0], 0.2 * one)
        start = GaussianInitial(one[0, 0], one[0])
        return LinearParameters(start, step, LinearConditional(one, 0 * one[0], 0.5 * one))

    def initial(self) -> MultivariateNormal:
        return self._normal(torch.ones(1, dtype=torch.float64), 1.0)

    def transition(
        self, z: Tensor, u: Tensor | None = None, dt: Tensor | None = None
    ) -> MultivariateNormal:
        return self._normal(self.rate * z, 0.2)

    def emission(self, z: Tensor, u: Tensor | None = None) -> MultivariateNormal:
        return self._normal(z, 0.5)

    def _normal(self, mean: Tensor, variance: float) -> MultivariateNormal:
        return MultivariateNormal(mean, variance * torch.eye(1, dtype=torch.float64))


def data() -> Tensor:
    y = ds.simulate(Decay(), 40, generator=torch.Generator().manual_seed(4)).y.detach()
    y[3] = torch.nan
    return y


def test_it_runs_through_the_exact_filter() -> None:
    model, y = Decay(), data()
    assert isinstance(model, LinearGaussianModel)
    same = ds.models.LinearGaussian([[0.5]], [[0.2]], [[1.0]], [[0.5]], m0=[1.0], P0=[[1.0]])
    for verb in (ds.filter, ds.smooth):
        got, expected = verb(model, y, method=Kalman()), verb(same, y)
        torch.testing.assert_close(got.mean, expected.mean)
    torch.testing.assert_close(ds.log_likelihood(model, y), ds.log_likelihood(same, y))
    torch.testing.assert_close(ds.forecast(model, y, 3).mean, ds.forecast(same, y, 3).mean)
    running = ds.online(model)
    running.update(y[0])
    assert running.log_likelihood == pytest.approx(ds.log_likelihood(same, y)[0].item())


def test_it_is_learnt() -> None:
    model, y = Decay(), data()
    fit = ds.fit(model, y, method=MaximumLikelihood(), progress=False)
    assert isinstance(fit.method, Kalman) and fit.learned.diagnostics["gradient_norm"] < 1e-6


def test_a_learner_called_directly_needs_its_inner_method() -> None:
    with pytest.raises(ValueError, match="`inference` is None.*Pass one, such as"):
        MaximumLikelihood().fit(Decay(), Series(data()))
    nuts = ds.inference.NUTS()
    model = ds.models.LinearGaussian([[0.5]], [[0.2]], [[1.0]], [[0.5]], P0=[[1.0]])
    model.d = _prior()
    with pytest.raises(ValueError, match="`inference` is None.*`NUTS`"):
        nuts.fit(model, Series(data()))


def _prior() -> object:
    from pyro.distributions import Normal
    from pyro.nn import PyroSample

    return PyroSample(Normal(torch.zeros(1, dtype=torch.float64), 1.0).to_event(1))
