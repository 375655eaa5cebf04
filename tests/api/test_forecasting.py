"""Forecasts of padded series begin at the end of each."""

from __future__ import annotations

import pytest
import torch

import deepssm as ds

from ..deep_models import gappy_series, linear_deep

NAN = float("nan")


def driven() -> ds.models.LinearGaussian:
    return ds.models.LinearGaussian(
        [[0.8, 0.3], [-0.2, 0.7]],
        [[0.5, 0.2], [0.2, 0.4]],
        [[1.0, 0.4], [-0.3, 1.2]],
        [[0.6, 0.35], [0.35, 0.5]],
        B=[[0.5], [1.0]],
        m0=[0.3, -0.4],
        P0=[[1.0, 0.3], [0.3, 0.8]],
    )


@pytest.mark.parametrize("own_inputs", [False, True])
def test_each_series_goes_on_from_its_own_end(own_inputs: bool) -> None:
    """Oracle: the series one by one, cut by hand; two of them are of one length."""
    model, g = driven(), torch.Generator().manual_seed(0)
    y = torch.randn(2, 2, 6, 2, generator=g, dtype=torch.float64)
    u = torch.randn(2, 2, 6, 1, generator=g, dtype=torch.float64)
    later = torch.randn(*([2, 2] if own_inputs else []), 3, 1, generator=g, dtype=torch.float64)
    lengths = torch.tensor([[6, 3], [4, 3]])
    found = ds.forecast(model, y, 3, u=u, u_future=later, lengths=lengths, num_samples=4)
    assert found.samples is not None and found.samples.shape == (4, 2, 2, 3, 2)
    for i in range(2):
        for j in range(2):
            n, ahead = int(lengths[i, j]), later[i, j] if own_inputs else later
            one = ds.forecast(model, y[i, j, :n], 3, u=u[i, j, :n], u_future=ahead)
            torch.testing.assert_close(found.mean[i, j], one.mean)
            torch.testing.assert_close(found.cov[i, j], one.cov)
            torch.testing.assert_close(found.state.mean[i, j], one.state.mean)
    single = ds.forecast(model, y[0, 1], 3, u=u[0, 1], u_future=later.expand(2, 2, 3, 1)[0, 1],
                         lengths=3)  # fmt: skip
    torch.testing.assert_close(single.mean, found.mean[0, 1])


def test_uneven_steps_are_cut_with_their_series() -> None:
    model = ds.models.ConstantVelocity(1, diffusion=0.1, noise_variance=0.2)
    y = torch.tensor([[1.0, 2.0, 3.5, NAN], [0.5, 0.2, 0.1, -0.3]])[..., None]
    dt = torch.tensor([[0.0, 1.0, 1.5, 9.0], [0.0, 0.5, 2.0, 1.0]])
    ahead = torch.tensor([[1.0, 2.0], [0.5, 0.7]])
    found = ds.forecast(model, y, 2, dt=dt, dt_future=ahead, lengths=[3, 4])
    for i, n in enumerate((3, 4)):
        one = ds.forecast(model, y[i, :n], 2, dt=dt[i, :n], dt_future=ahead[i])
        torch.testing.assert_close(found.mean[i], one.mean)


def test_a_fit_remembers_the_lengths() -> None:
    y = torch.tensor([[1.0, 2.0, 1.5, 9.0], [0.5, 0.2, 0.1, -0.3]])[..., None]
    fit = ds.fit(ds.models.LocalLevel(), y, lengths=[3, 4], progress=False)
    torch.testing.assert_close(
        fit.forecast(2).mean[0], ds.forecast(fit.model, y[0, :3], 2).mean.detach()
    )
    model = linear_deep()
    series = gappy_series(model, time=6, batch=2)
    assert series.u is not None
    method = ds.inference.Amortized(ds.inference.LinearizedGuide(), num_samples=7)
    found = ds.forecast(
        model, series.y, 2, u=series.u, u_future=series.u[:, :2], lengths=[6, 4], method=method
    )
    assert found.samples is not None and found.samples.shape == (7, 2, 2, model.obs_dim)


def test_series_with_parameters_of_their_own_are_refused() -> None:
    model = ds.models.LocalLevel(torch.tensor([1.0, 2.0]), noise_variance=torch.ones(2))
    with pytest.raises(ValueError, match="`lengths` differ, but every series has parameters"):
        ds.forecast(model, torch.zeros(2, 4, 1), 2, lengths=[4, 3])
    whole = ds.forecast(model, torch.zeros(2, 4, 1), 2, lengths=[3, 3])
    torch.testing.assert_close(whole.mean, ds.forecast(model, torch.zeros(2, 3, 1), 2).mean)
