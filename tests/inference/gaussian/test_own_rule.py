"""A stranger's own Gaussian filter: a frozen dataclass with one function, `moments`."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import deepssm as ds
from deepssm.inference import Conditional, Extended, GaussianFilter, Linearized, Moments, Wrap


@dataclass(frozen=True)
class Secant(GaussianFilter):
    """Linearise by central differences one standard deviation to both sides."""

    def moments(self, state_dim: int) -> Moments:
        def rule(conditional: Conditional, mean: Tensor, factor: Tensor, wrap: Wrap) -> Linearized:
            x = torch.cat((mean[None], mean + factor.movedim(-1, 0), mean - factor.movedim(-1, 0)))
            out = conditional(x)
            up, down = out.mean[1:].chunk(2)
            noise = torch.diag_embed(out.variance[0].sqrt())
            return Linearized(out.mean[0], (up - down).movedim(0, -1) / 2, noise)

        return rule


def model() -> ds.models.NonlinearGaussian:
    def move(z: Tensor, u: Tensor | None, dt: Tensor | None) -> Tensor:
        return functional.pad(torch.sin(z[..., :1]), (0, 1)) + 0.5 * z

    def look(z: Tensor, u: Tensor | None) -> Tensor:
        return z[..., :1] + 0.1 * z[..., 1:]

    eye = torch.eye(2, dtype=torch.float64)
    start = torch.tensor([0.1, 0.3], dtype=torch.float64)
    return ds.models.NonlinearGaussian(
        move, look, Q=0.01 * eye, R=0.04 * eye[:1, :1], m0=start, P0=0.1 * eye
    )


def data() -> Tensor:
    y = ds.simulate(model(), 25, generator=torch.Generator().manual_seed(3)).y
    y[5] = torch.nan
    return y.detach()


def test_it_filters_smooths_forecasts_and_draws() -> None:
    y, own, known = data(), Secant(), Extended()
    for verb in (ds.filter, ds.smooth):
        got, near = verb(model(), y, method=own), verb(model(), y, method=known)
        torch.testing.assert_close(got.mean, near.mean, rtol=0, atol=0.05)
    forecast = ds.forecast(model(), y, 3, method=own, num_samples=50)
    near = ds.forecast(model(), y, 3, method=known)
    torch.testing.assert_close(forecast.mean, near.mean, rtol=0, atol=0.05)
    assert ds.sample_posterior(model(), y, num_samples=7, method=own).shape == (7, 25, 2)
    assert ds.log_likelihood(model(), y, method=own)[5].item() == 0.0


def test_it_runs_online() -> None:
    y, running = data(), ds.online(model(), Secant())
    running.update(y[0])
    for step in y[1:]:
        running.predict()
        running.update(step)
    batch = ds.filter(model(), y, method=Secant())
    torch.testing.assert_close(running.mean, batch.mean[-1])
    assert running.log_likelihood == pytest.approx(batch.log_likelihood.sum().item())
