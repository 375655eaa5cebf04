"""What is taken where the caller names no method and no learner goes by what a model can do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import deepssm as ds
from deepssm import inference as inf
from deepssm.api.defaults import completed, default_learner, default_method
from tests.own_models import OwnLinear, OwnNetwork, OwnParameter


def hidden_markov() -> ds.models.HiddenMarkov:
    return ds.models.HiddenMarkov(ds.models.PoissonStates(2))


def switching() -> ds.models.SwitchingLinearGaussian:
    modes = [
        ds.models.LinearGaussian([[a]], [[1.0]], [[1.0]], [[1.0]], P0=[[1.0]]) for a in (0.1, 0.9)
    ]
    return ds.models.SwitchingLinearGaussian(modes)


@pytest.mark.parametrize(
    ("build", "method"),
    [
        (hidden_markov, inf.ForwardBackward),
        (switching, inf.Switching),
        (ds.models.LocalLevel, inf.Kalman),
        (OwnLinear, inf.Kalman),
        (OwnNetwork, inf.Unscented),
        (lambda: ds.models.DeepMarkov(1, 2), inf.Unscented),
    ],
)
def test_the_method_goes_by_ability(build: type[ds.StateSpaceModel], method: type) -> None:
    assert isinstance(default_method(build()), method)


def test_the_learner_goes_by_ability() -> None:
    learner = default_learner(hidden_markov())
    assert isinstance(learner, inf.BaumWelch) and learner.starts == 5
    assert isinstance(default_learner(OwnNetwork()), inf.SVI)
    deep = default_learner(ds.models.DeepMarkov(1, 2))
    assert isinstance(deep, inf.SVI) and deep.steps == inf.SVI().steps
    for build, method in (
        (ds.models.LocalLevel, inf.Kalman),
        (OwnLinear, inf.Kalman),
        (switching, inf.Switching),
        (OwnParameter, inf.Unscented),
    ):
        learner = default_learner(build())
        assert isinstance(learner, inf.MaximumLikelihood)
        assert isinstance(learner.inference, method)


def test_a_strangers_neural_model_is_trained_by_the_evidence_lower_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the docstring of `fit` promises; few steps, for the learner is what is tested."""
    whole = inf.SVI.__post_init__

    def short(self: inf.SVI) -> None:
        object.__setattr__(self, "steps", 2)
        whole(self)

    monkeypatch.setattr(inf.SVI, "__post_init__", short)
    torch.manual_seed(0)
    fit = ds.fit(OwnNetwork(), torch.randn(20, 1), progress=False)
    assert isinstance(fit.method, inf.Amortized) and "elbo_per_step" in fit.learned.diagnostics


def test_a_learner_with_an_open_method_gets_the_one_of_the_model() -> None:
    """Also where the caller names the learner; a method that is given stays."""
    learner = completed(inf.MaximumLikelihood(starts=3), ds.models.LocalLevel())
    assert learner == inf.MaximumLikelihood(starts=3, inference=inf.Kalman())
    assert completed(inf.NUTS(), hidden_markov()) == inf.NUTS(inference=inf.ForwardBackward())
    given = inf.MaximumLikelihood(inference=inf.Extended())
    assert completed(given, ds.models.LocalLevel()) is given
    em = inf.ExpectationMaximization()
    assert completed(em, ds.models.LocalLevel()) is em
    y = torch.randn(30, 1, generator=torch.Generator().manual_seed(0))
    fit = ds.fit(OwnParameter(), y, method=inf.MaximumLikelihood(), progress=False)
    assert isinstance(fit.method, inf.Unscented)


def test_a_model_says_whether_it_is_neural() -> None:
    """Layers say so, parameters do not; a deep Markov model is, whatever its parts."""
    assert OwnNetwork().neural and not OwnParameter().neural and not ds.models.LocalLevel().neural

    class Part(nn.Module):
        state_dim, obs_dim, input_dim = 2, 1, 0

    assert ds.models.DeepMarkov(1, 2, transition=Part(), emission=Part()).neural
