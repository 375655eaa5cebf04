"""Angles that are spread over a half turn or more, against the wrapped normal and a dense grid."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import deepssm as ds
from deepssm.core.methods import InferenceMethod
from deepssm.inference import (
    Cubature,
    Ensemble,
    Extended,
    GaussHermite,
    Huber,
    Kalman,
    Particle,
    PosteriorLinearization,
    Simplex,
    StudentT,
    Unscented,
)
from deepssm.inference.gaussian.unwrapping import images
from deepssm.inference.simulation.angles import average, circular

PI, NAN = math.pi, float("nan")
RULES: list[InferenceMethod] = [
    Extended(), Extended(iterations=3), Unscented(), Unscented(kappa=2.0), Unscented(0.5),
    Cubature(), Cubature(iterations=2), Simplex(), GaussHermite(3), GaussHermite(9),
]  # fmt: skip


def plain(z: Tensor) -> Tensor:
    return z


def turned(z: Tensor) -> Tensor:
    return torch.atan2(z.sin(), z.cos())


def compass(
    sd: float, look: Callable[[Tensor], Tensor] = plain, noise: float = 0.1, q: float = 1e-10
) -> ds.models.NonlinearGaussian:
    start = torch.zeros(1, dtype=torch.float64)
    return ds.models.NonlinearGaussian(
        lambda z, u, dt: look(z), lambda z, u: look(z), Q=[[q]], R=[[noise**2]], m0=start,
        P0=[[sd**2]], circular_state=(0,), circular_obs=(0,),
    )  # fmt: skip


@pytest.mark.parametrize("method", RULES, ids=repr)
@pytest.mark.parametrize("look", [plain, turned])
@pytest.mark.parametrize("sd", [0.5, PI, 10.0])
def test_an_identity_keeps_a_spread_of_any_width(
    method: InferenceMethod, look: Callable[[Tensor], Tensor], sd: float
) -> None:
    """By hand: the variance of `z` is `sd ** 2` before and after."""
    found = ds.filter(compass(sd, look), [NAN, NAN], method=method)
    assert abs(found.mean[1].item()) < 1e-6
    assert found.cov[1].item() == pytest.approx(sd**2, rel=1e-6)


@pytest.mark.parametrize("method", RULES, ids=repr)
@pytest.mark.parametrize("look", [plain, turned])
@pytest.mark.parametrize("sd", [PI, 10.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_compass_tells_an_unknown_heading(
    method: InferenceMethod, look: Callable[[Tensor], Tensor], sd: float, dtype: torch.dtype
) -> None:
    """By hand: the Kalman filter's posterior, and the density of a wrapped normal."""
    model = compass(sd, look).to(dtype)
    y = torch.tensor([[2.0], [-1.0]], dtype=dtype)[:, None]
    found = ds.filter(model, y, method=method)
    gain = sd**2 / (sd**2 + 0.01)
    torch.testing.assert_close(found.mean[:, 0], gain * y[:, 0], rtol=0, atol=2e-4)
    torch.testing.assert_close(
        found.cov[..., 0].sqrt(), torch.full_like(y, 0.1 * gain**0.5), rtol=1e-3, atol=0
    )
    k = torch.arange(-40, 41, dtype=torch.float64)
    density = torch.distributions.Normal(0.0, (sd**2 + 0.01) ** 0.5)
    exact = density.log_prob(y[:, 0].double() + 2 * PI * k).logsumexp(-1)
    torch.testing.assert_close(
        found.log_likelihood[:, 0].double(),
        exact,
        rtol=0,
        atol=1e-5 if dtype.itemsize > 4 else 1e-3,
    )


@pytest.mark.parametrize("sd", [0.35, 0.8, 1.9, 2.1, 6.0])
def test_a_log_likelihood_is_a_density_on_the_circle(sd: float) -> None:
    """By quadrature over all readings: it integrates to one."""
    y = torch.linspace(-PI, PI, 401, dtype=torch.float64)[:-1, None, None]
    score = ds.log_likelihood(compass(sd), y, method=Unscented())
    assert float(score.exp().mean()) * 2 * PI == pytest.approx(1.0, abs=1e-6)


def two_compasses() -> ds.models.NonlinearGaussian:
    eye = torch.eye(2, dtype=torch.float64)
    return ds.models.NonlinearGaussian(
        lambda z, u, dt: z, lambda z, u: torch.cat((z, turned(z)), -1), Q=[[1e-10]], R=0.01 * eye,
        m0=torch.zeros(1, dtype=torch.float64), P0=[[PI**2]], circular_state=(0,),
        circular_obs=(0, 1),
    )  # fmt: skip


@pytest.mark.parametrize("method", RULES, ids=repr)
def test_two_compasses_that_agree_across_the_cut_stay_together(method: InferenceMethod) -> None:
    """By hand: readings 3.1 and -3.1 are 3.1 and 3.183, whose mean is 3.1416."""
    found = ds.filter(two_compasses(), [[3.1, -3.1]], method=method)
    error = torch.remainder(found.mean[0, 0] - PI + PI, 2 * PI) - PI
    assert abs(float(error)) < 0.01
    assert found.cov.item() ** 0.5 == pytest.approx(0.1 / 2**0.5, rel=1e-2)


def test_all_roads_lead_to_the_same_heading() -> None:
    """Online, smoothed, drawn, robust, linearised about the posterior, by particles."""
    y, model = torch.tensor([[2.0], [2.1], [1.9]], dtype=torch.float64), compass(PI, turned)
    exact = ds.filter(model, y, method=GaussHermite(9))
    running = ds.online(model, Unscented())
    running.update(y[0])
    for step in y[1:]:
        running.predict()
        running.update(step)
    torch.testing.assert_close(running.mean, exact.mean[-1])
    assert running.log_likelihood == pytest.approx(exact.log_likelihood.sum().item())
    for method, bound in (
        (Unscented(), 1e-3), (Simplex(robust=StudentT()), 0.05), (Cubature(robust=Huber()), 0.05),
        (PosteriorLinearization(Unscented()), 1e-3), (PosteriorLinearization(), 1e-3),
        (Particle(4_000), 0.05), (Ensemble(2_000), 0.3),
    ):  # fmt: skip
        smoothed = ds.smooth(model, y, method=method)
        error = torch.remainder(smoothed.mean - 2.0 + PI, 2 * PI) - PI
        assert float(error.abs().max()) < bound, method
    draws = ds.sample_posterior(model, y, method=Cubature(), num_samples=400)
    assert float((draws - 2.0).abs().max()) < 0.4


def test_a_batch_mixes_wide_and_narrow_with_gaps() -> None:
    y = torch.tensor([[[2.0], [NAN]], [[NAN], [2.0]], [[2.0], [2.1]]], dtype=torch.float64)
    whole = ds.filter(compass(PI), y, method=Unscented())
    for i, row in enumerate(y):
        alone = ds.filter(compass(PI), row, method=Unscented())
        for got, want in zip(whole, alone, strict=True):
            torch.testing.assert_close(got[i], want)


@pytest.mark.parametrize("method", [Cubature(), Simplex(), GaussHermite(3), Unscented()], ids=repr)
@pytest.mark.parametrize("place", [0, 1, 3])
def test_the_order_of_states_does_not_matter(method: InferenceMethod, place: int) -> None:
    """By hand: 3 / (1 + 9e-4), sd .030; the one wide state is `place`."""
    variances = torch.full((4,), 1e-4, dtype=torch.float64)
    variances[place] = 1.0
    model = ds.models.NonlinearGaussian(
        lambda z, u, dt: z, lambda z, u: turned(-z[..., place : place + 1]),
        Q=1e-12 * torch.eye(4, dtype=torch.float64), R=[[9e-4]], P0=torch.diag(variances),
        m0=torch.zeros(4, dtype=torch.float64), circular_obs=(0,),
    )  # fmt: skip
    found = ds.filter(model, [-3.0], method=method)
    assert found.mean[0, place].item() == pytest.approx(3 / (1 + 9e-4), abs=1e-6)
    assert found.cov[0, place, place].item() ** 0.5 == pytest.approx(0.02999, abs=1e-5)


def test_bearings_stay_within_half_a_turn_of_their_centre() -> None:
    """By continuity along 4000 points of each segment, for positions all around the sensor."""
    g = torch.Generator().manual_seed(0)
    mean = torch.randn(30, 2, generator=g, dtype=torch.float64)
    factor = torch.randn(30, 2, 2, generator=g, dtype=torch.float64).tril() * 3
    points = math.sqrt(3.0) * torch.cat((torch.eye(2), -torch.eye(2))).double()

    def look(z: Tensor) -> Tensor:
        return torch.atan2(z[..., 1:], z[..., :1])

    def bearing(z: Tensor) -> torch.distributions.Distribution:
        return torch.distributions.Independent(torch.distributions.Normal(look(z), 0.1), 1)

    found = images(bearing, mean, factor, points, circular((0,), 1))
    s = torch.linspace(0, 1, 4_001, dtype=torch.float64)[:, None, None, None]
    path = look(mean + s * torch.einsum("bij,kj->kbi", factor, points))
    steps = torch.remainder(path.diff(dim=0) + PI, 2 * PI) - PI
    torch.testing.assert_close(found.steps, steps.sum(0), rtol=0, atol=1e-9)


def test_averages_of_angles_need_no_first_draw() -> None:
    """By hand: directions 3, -3 and pi average to pi, in any order and with any weights."""
    values = torch.tensor([[3.0], [-3.0], [PI]], dtype=torch.float64)
    wrap = circular((0,), 1)
    for order in ([0, 1, 2], [1, 2, 0], [2, 0, 1]):
        mean = average(values[order], wrap)
        assert abs(abs(mean.item()) - PI) < 1e-9
    uniform = torch.linspace(-PI, PI, 1_001, dtype=torch.float64)[:-1, None] * 0.9 + 1
    assert average(uniform, wrap).item() == pytest.approx(1 - 0.0009 * PI, abs=1e-6)
    weights = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    assert abs(abs(average(values, wrap, weights).item()) - PI) < 1e-9


def test_narrow_angles_are_as_on_the_line() -> None:
    """Exact: the Kalman filter of the same model, angles read modulo whole turns."""
    A = [[1.0, 0.3], [0.0, 1.0]]
    common = {"Q": [[0.01, 0.002], [0.002, 0.02]], "R": [[0.02]], "m0": [3.0, 0.4]}
    line = ds.models.LinearGaussian(A, C=[[1.0, 0.0]], P0=[[0.04, 0.0], [0.0, 0.01]], **common)
    y = ds.simulate(line, 40, generator=torch.Generator().manual_seed(0)).y
    matrix = torch.tensor(A, dtype=torch.float64)
    wound = ds.models.NonlinearGaussian(
        lambda z, u, dt: z @ matrix.mT, lambda z, u: turned(z[..., :1]),
        P0=[[0.04, 0.0], [0.0, 0.01]], circular_state=(0,), circular_obs=(0,), **common,
    )  # fmt: skip
    exact = ds.filter(line, y, method=Kalman())
    for method in (Unscented(), Cubature(), Simplex(), GaussHermite(5)):
        found = ds.filter(wound, turned(y), method=method)
        torch.testing.assert_close(found.mean, exact.mean)
        torch.testing.assert_close(found.cov, exact.cov)
        torch.testing.assert_close(found.log_likelihood, exact.log_likelihood, rtol=0, atol=1e-4)
