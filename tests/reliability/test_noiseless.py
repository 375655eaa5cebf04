"""Sensors without noise: where a variance is zero and a density has to be told apart from one."""

from __future__ import annotations

import math

import torch

import deepssm as ds
from tests.given import Given

from .cases import linear, simulate
from .exact import exact
from .generator import random_case


def test_a_diffuse_walk_seen_without_noise() -> None:
    """The first observation fixes the state; the next ones are steps of the walk."""
    model = ds.models.LinearGaussian([[1.0]], [[1.0]], [[1.0]], [[0.0]], initial="diffuse")
    y = torch.tensor([[1.0], [2.0], [2.5]], dtype=torch.float64)
    normal = -0.5 * math.log(2 * math.pi)
    expected = [normal, normal - 0.5, normal - 0.125]
    actual = ds.log_likelihood(model, y)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(ds.smooth(model, y).mean, y)


def test_a_state_that_is_known_for_ever() -> None:
    """Without any noise, `n` observations fix the state; later ones are neither news nor NaN."""
    given = random_case(1102)
    filtered = ds.filter(Given(given.params), given.y)
    truth = exact(given.params, given.y).filtered
    assert bool(filtered.ill_conditioned) and bool(filtered.cov.isfinite().all())
    torch.testing.assert_close(filtered.mean, truth.mean, rtol=1e-6, atol=1e-9)
    assert bool((filtered.log_likelihood[2:] == 0).all())


def test_a_contradiction_has_likelihood_zero_and_a_flag() -> None:
    params = linear([[1.0]], [[0.0]], [[1.0]], [[0.0]], [0.0], [[1.0]])
    filtered = ds.filter(Given(params), [[1.0], [1.0], [1.5]])
    assert filtered.log_likelihood.tolist()[1:] == [0.0, -math.inf]
    assert bool(filtered.ill_conditioned)


def test_an_exact_sensor_beside_a_noisy_one_in_any_order() -> None:
    params = linear(R=[[0.0, 0.0], [0.0, 0.25]])
    y = simulate(params, 20, 4)
    start, transition, (C, d, R) = params
    turned = params._replace(emission=params.emission._make((C.flip(1), d, R.flip(1, 2))))
    a, b = (ds.smooth(Given(p), x) for p, x in ((params, y), (turned, y.flip(1))))
    torch.testing.assert_close(a.mean, b.mean)
    torch.testing.assert_close(a.cov, b.cov, rtol=1e-6, atol=1e-12)


def test_a_contradiction_in_one_series_of_a_batch_is_its_own() -> None:
    """Copies without noise: the second series contradicts itself, the first does not."""
    model = ds.models.LinearGaussian(
        [[0.9]], [[1.0]], [[1.0], [1.0]], [[0.0, 0.0], [0.0, 0.0]], P0=[[1.0]]
    )
    y = torch.tensor([[[1.0, 1.0], [2.0, 2.0]], [[1.0, 1.0], [2.0, 2.5]]], dtype=torch.float64)
    together = ds.log_likelihood(model, y)
    alone = torch.stack([ds.log_likelihood(model, series) for series in y])
    assert torch.equal(together, alone)
    assert together.isfinite().tolist() == [[True, True], [True, False]]
