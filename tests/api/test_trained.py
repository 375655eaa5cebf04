"""A trained deep model is used as trained, by every verb, without naming its guide."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

import deepssm as ds
from deepssm.api.defaults import default_method
from deepssm.cli.main import main
from deepssm.core.methods import trained_method
from deepssm.inference import (
    SVI,
    Amortized,
    Kalman,
    LinearizedGuide,
    MaximumLikelihood,
    SmoothingGuide,
    Unscented,
)
from tests.own_models import OwnParameter

QUICK = SVI(steps=3, report_every=3)
Y = torch.randn(24, 1, generator=torch.Generator().manual_seed(1))
Y[5] = torch.nan


def trained() -> ds.Fit:
    torch.manual_seed(0)
    model = ds.models.DeepMarkov(1, 2, hidden=4)
    learner = replace(QUICK, guide=SmoothingGuide(1, 2, hidden=4))
    return ds.fit(
        model, Y, method=learner, progress=False, generator=torch.Generator().manual_seed(0)
    )


def g() -> torch.Generator:
    return torch.Generator().manual_seed(3)


VERBS: dict[str, tuple[Callable[[ds.StateSpaceModel], Tensor], Callable[[ds.Fit], Tensor]]] = {
    "filter": (lambda m: ds.filter(m, Y).mean, lambda f: f.filter().mean),
    "smooth": (lambda m: ds.smooth(m, Y).cov, lambda f: f.smooth().cov),
    "log_likelihood": (lambda m: ds.log_likelihood(m, Y), lambda f: f.log_likelihood()),
    "sample_posterior": (
        lambda m: ds.sample_posterior(m, Y, num_samples=3, generator=g()),
        lambda f: f.sample_posterior(num_samples=3, generator=g()),
    ),
    "impute": (
        lambda m: ds.impute(m, Y, num_samples=9, generator=g()).mean,
        lambda f: f.impute(num_samples=9, generator=g()).mean,
    ),
    "forecast": (
        lambda m: ds.forecast(m, Y, 4, num_samples=9, generator=g()).mean,
        lambda f: f.forecast(4, num_samples=9, generator=g()).mean,
    ),
}


@pytest.mark.parametrize("verb", list(VERBS))
def test_verbs_use_the_trained_guide(verb: str) -> None:
    """The same numbers as the fit's own, with the same seed; a copy and a pickled model too."""
    fit = trained()
    by_verb, by_fit = VERBS[verb]
    expected = by_fit(fit)
    restored = pickle.loads(pickle.dumps(fit.model))
    for model in (fit.model, copy.deepcopy(fit.model), restored):
        torch.testing.assert_close(by_verb(model), expected, rtol=0, atol=0)


def test_counterfactuals_and_backtests_use_it_too() -> None:
    u = torch.randn(24, 1, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(0)
    model = ds.models.DeepMarkov(1, 2, input_dim=1, hidden=4)
    fit = ds.fit(model, Y, u, method=QUICK, progress=False, generator=g())
    found = ds.counterfactual(model, Y, u, u + 1, num_samples=5, generator=g())
    expected = fit.counterfactual(u + 1, num_samples=5, generator=g())
    torch.testing.assert_close(found.y, expected.y, rtol=0, atol=0)
    rolling = ds.backtest(model, Y, u, start=12, horizon=4, num_samples=9, generator=g())
    given = ds.backtest(
        model, Y, u, start=12, horizon=4, num_samples=9, generator=g(), method=fit.method
    )
    torch.testing.assert_close(rolling.forecast.mean, given.forecast.mean, rtol=0, atol=0)


def test_a_running_filter_runs_the_method_that_was_trained() -> None:
    fit = trained()
    running, given = (ds.online(fit.model, method=m) for m in (None, fit.method))
    for filter_ in (running, given):
        filter_.update(Y[0])
        filter_.predict()
    torch.testing.assert_close(running.mean, given.mean, rtol=0, atol=0)


def test_the_memory_is_no_part_of_the_weights() -> None:
    """State dict and parameters are those of a model that was never trained, by name."""
    fit, fresh = trained(), ds.models.DeepMarkov(1, 2, hidden=4)
    assert isinstance(fit.method, Amortized) and trained_method(fit.model) is fit.method
    assert fit.model.state_dict().keys() == fresh.state_dict().keys()
    assert [n for n, _ in fit.model.named_parameters()] == [n for n, _ in fresh.named_parameters()]
    assert len(list(fit.model.modules())) == len(list(fresh.modules()))
    buffer = io.BytesIO()
    torch.save(fit.model.state_dict(), buffer)
    buffer.seek(0)
    fresh.load_state_dict(torch.load(buffer))
    assert trained_method(fresh) is None


def test_a_copy_has_a_guide_of_its_own() -> None:
    fit = trained()
    method = trained_method(copy.deepcopy(fit.model))
    assert isinstance(method, Amortized) and isinstance(fit.method, Amortized)
    assert method.guide is not fit.method.guide


def test_the_guide_follows_the_model_to_another_dtype() -> None:
    fit = trained()
    found = ds.filter(fit.model.double(), Y)
    assert found.mean.dtype == torch.float64 and isinstance(fit.method, Amortized)
    assert isinstance(fit.method.guide, torch.nn.Module)
    assert next(fit.method.guide.parameters()).dtype == torch.float64


def test_the_next_fit_forgets_it() -> None:
    """A fit that trains no guide has moved the model away from the old one."""
    torch.manual_seed(0)
    model = OwnParameter()
    ds.fit(model, Y, method=SVI(steps=2, report_every=2), progress=False, generator=g())
    assert isinstance(default_method(model), Amortized)
    fit = ds.fit(model, Y, method=MaximumLikelihood(), progress=False)
    assert model.trained == () and isinstance(default_method(model), Unscented)
    assert isinstance(fit.method, Unscented)


def test_exact_methods_come_first() -> None:
    free = torch.nn.Parameter(torch.tensor([[0.5]]).double())
    model = ds.models.LinearGaussian(free, [[1.0]], [[1.0]], [[1.0]], P0=[[1.0]])
    ds.fit(model, Y, method=SVI(LinearizedGuide(), steps=2, report_every=2), progress=False)
    assert isinstance(default_method(model), Kalman)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_a_loaded_model_remembers_its_guide(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"a": Y.nan_to_num()[:, 0].repeat(3).numpy()},
        index=pd.date_range("2020-01-01", periods=72, name="day"),
    )
    frame.to_csv(tmp_path / "data.csv")
    folder = tmp_path / "run"
    arguments = ["fit", str(tmp_path / "data.csv"), "--time", "day"]
    arguments += ["--model", "deep-kalman", "--steps", "2"]
    assert main([*arguments, "--out", str(folder)]) == 0
    fit = ds.load(folder)
    y = fit.series.y
    assert isinstance(default_method(fit.model), Amortized)
    torch.testing.assert_close(ds.smooth(fit.model, y).mean, fit.smooth().mean, rtol=0, atol=0)
