"""A fit owns what it says: its model, its data and its method, in any gradient mode."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroSample
from torch import Tensor

import deepssm as ds
from deepssm.inference import MaximumLikelihood, SmoothingGuide
from deepssm.models import LocalLevel, Regression


def nile() -> Tensor:
    return torch.tensor(ds.data.nile().to_numpy()).double()[:, None]


def variances(model: ds.StateSpaceModel) -> dict[str, float]:
    return {name: float(p.detach().sum()) for name, p in model.named_parameters()}


@pytest.mark.parametrize("errors", ["hessian", "opg", "robust"])
def test_fits_of_one_model_do_not_share_parameters(errors: str) -> None:
    """The forecast's deviation scales with the data; a fresh model is the oracle."""
    method = MaximumLikelihood(errors=errors)  # type: ignore[arg-type]
    model = LocalLevel()
    fits = [ds.fit(model, s, method=method, progress=False) for s in (nile(), 50 * nile())]
    alone = ds.fit(LocalLevel(), nile(), method=method, progress=False)
    assert fits[0].summary() == alone.summary()
    small, large = (fit.forecast(1).cov.sqrt().item() for fit in fits)
    assert small == pytest.approx(alone.forecast(1).cov.sqrt().item(), rel=1e-6)
    assert large == pytest.approx(50 * small, rel=1e-5)
    # The model given is the one learnt last, as the verb promises, and moving it moves no fit.
    assert variances(model) == variances(fits[1].model)
    before = fits[1].summary()
    model.level_variance = torch.tensor(1.0).double()
    assert fits[1].summary() == before


def test_guides_and_data_are_the_fits_own() -> None:
    y = torch.randn(2, 12, 1)
    model, guide = ds.models.DeepMarkov(1, 2, hidden=4), SmoothingGuide(1, 2, hidden=4)
    method = ds.inference.SVI(guide, steps=2, report_every=2)
    fit = ds.fit(model, y, method=method, progress=False)
    before = fit.smooth().mean
    ds.fit(model, 3 * y, method=method, progress=False)
    y.zero_()
    torch.testing.assert_close(fit.smooth().mean, before, rtol=0, atol=0)
    assert model.trained and fit.model.trained == (fit.method,)


def test_a_prior_is_still_there_when_the_model_is_learnt_again() -> None:
    """`y ~ N(d, 4)`, `d ~ N(0, .5^2)`: the posterior mean by hand, also the second time."""
    zero = [[0.0]]
    prior = dist.Normal(torch.zeros(1).double(), torch.full((1,), 0.5).double()).to_event(1)
    model = ds.models.LinearGaussian(
        zero, zero, zero, [[4.0]], d=PyroSample(prior), m0=[0.0], P0=zero
    )
    y = torch.linspace(1.0, 3.0, 10).double()[:, None]
    for data in (y, 2 * y):
        fit = ds.fit(model, data, progress=False)
        expected = (data.sum() / 4) / (len(data) / 4 + 4)
        assert fit.model.d.item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_model_that_cannot_be_copied_says_that_it_is_shared() -> None:
    model = LocalLevel()
    model.handle = (x for x in range(3))  # type: ignore[assignment]  # generators refuse copies
    fit = ds.fit(model, nile(), progress=False)
    assert fit.model is model
    assert any("cannot be copied" in text for text in fit.learned.warnings)


def test_averages_belong_to_a_model_of_equal_rest() -> None:
    model = LocalLevel(noise_variance=15099.0)
    model.level_variance = PyroSample(dist.LogNormal(torch.tensor(7.0).double(), 1.0))
    method = ds.inference.NUTS(num_samples=8, warmup=4, chains=1)
    fit = ds.fit(
        model, nile()[:20], method=method, progress=False,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    given = ds.forecast(model, nile()[:20], 2, method=fit.method)
    torch.testing.assert_close(given.cov, fit.forecast(2).cov)
    assert "taken as known" not in repr(given) + repr(fit) + fit.summary()
    with pytest.raises(ValueError, match="belongs to another model"):
        ds.forecast(LocalLevel(noise_variance=1.0), nile()[:20], 2, method=fit.method)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_learning_works_in_any_gradient_mode(mode: type[torch.no_grad]) -> None:
    expected, model = ds.fit(LocalLevel(), nile(), progress=False), LocalLevel()
    with mode():
        fit = ds.fit(model, nile(), progress=False)
        assert fit.summary() == expected.summary()
        ds.disturbances(model, nile())
        ds.backtest(model, nile()[:20], start=17, horizon=2, stride=3, refit=True)
        if mode is torch.inference_mode:
            with pytest.raises(ValueError, match="was made under `torch.inference_mode"):
                ds.fit(LocalLevel(), nile(), progress=False)


def test_results_are_numbers_that_can_be_copied_pickled_and_drawn() -> None:
    fit = ds.fit(LocalLevel(), ds.data.nile(), progress=False)
    results = [
        fit.filter(), fit.smooth(), fit.forecast(2), fit.forecast(2).state, fit.disturbances(),
        fit.impute(5), ds.forecast(fit.model, nile(), 2), ds.filter(LocalLevel(), nile()),
    ]  # fmt: skip
    for result in results:
        assert not any(x.requires_grad for x in result if isinstance(x, Tensor))
        assert len(repr(result)) < 300 and "tensor(" not in repr(result)
        again = pickle.loads(pickle.dumps(copy.deepcopy(result)))
        assert again.names == result.names
    assert not (fit.log_likelihood().requires_grad or fit.residuals().requires_grad)
    assert not fit.sample_posterior(2).requires_grad
    assert not any(x.requires_grad for x in fit.learned.standard_errors.values())
    assert ds.log_likelihood(fit.model, nile()).requires_grad
    assert pickle.loads(pickle.dumps(fit)).summary() == fit.summary()
    assert "taken as known" in repr(fit) and "taken as known" in repr(fit.forecast(2))
    assert len(repr(fit)) < 200


def test_criteria_do_not_depend_on_units_of_inputs_and_noise_does_not_win() -> None:
    """Nile with a break and a pulse: statsmodels 0.15 with `mle_regression=True` has 1256.221."""
    y, t = nile(), np.arange(100)
    u = np.stack([t == 28, t > 28], -1).astype(float)

    def criteria(inputs: np.ndarray) -> tuple[float, float]:
        model = LocalLevel() + Regression(inputs.shape[1])
        found = ds.fit(model, y, inputs, progress=False).learned.diagnostics
        assert found["num_diffuse_states"] == 1 + inputs.shape[1]
        return found["aic"], found["bic"]

    found = criteria(u)
    assert found[0] == pytest.approx(1256.221, abs=0.2)
    for scale in (1e3, 1e-3):
        assert criteria(scale * u) == pytest.approx(found, abs=1e-5)
    noise = 0.01 * np.random.default_rng(0).normal(size=(100, 10))
    alone = ds.fit(LocalLevel(), y, progress=False).learned.diagnostics["aic"]
    assert alone == pytest.approx(1272.9291, abs=1e-4)
    assert criteria(noise)[0] > alone


def test_a_summary_names_inputs_coefficients_and_tests() -> None:
    u = pd.DataFrame({"dam": (np.arange(100) > 28) * 1.0}, index=ds.data.nile().index)
    text = ds.fit(LocalLevel() + Regression(1), ds.data.nile(), u, progress=False).summary()
    assert "(dam)" in text and " z " in text and "taken as known" not in text.splitlines()[0]
    model = ds.models.Autoregressive(2, noise_variance=0.0)
    fit = ds.fit(model, nile() - nile().mean(), progress=False)
    assert "coefficients[1]" in fit.summary()
    # phi_2 is the second partial autocorrelation itself, so their errors agree.
    errors = fit.learned.standard_errors
    torch.testing.assert_close(errors["coefficients"][1], errors["partial_autocorrelations"][1])
    many = torch.randn(20, 15, 1, generator=torch.Generator().manual_seed(0)).double().cumsum(1)
    text = ds.fit(LocalLevel(series_shape=(20,)), many, progress=False).summary()
    assert "Over 20 series" in text and "median" in text and math.isfinite(len(text))
