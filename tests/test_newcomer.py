"""What people pass by mistake: an error that names it, or a right answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import deepssm as ds

Y = np.random.default_rng(0).normal(size=20)


def level() -> ds.models.LocalLevel:
    return ds.models.LocalLevel(1.0, noise_variance=1.0)


def driven() -> ds.models.LinearGaussian:
    return ds.models.LinearGaussian([[0.9]], [[1.0]], [[1.0]], [[1.0]], B=[[1.0]], P0=[[1.0]])


def moving() -> Any:  # noqa: ANN401
    tracker = ds.online(ds.models.ConstantVelocity(1, diffusion=1.0, noise_variance=1.0))
    tracker.update([1.0])
    return tracker


def deep() -> ds.models.DeepMarkov:
    return ds.models.DeepMarkov(1, 2, hidden=3)


def coins() -> ds.models.HiddenMarkov:
    return ds.models.HiddenMarkov(ds.models.BernoulliStates(2))


UNEVEN = np.where(np.arange(20) == 7, 3.0, 1.0)
MISTAKES: list[tuple[Callable[[], object], str]] = [
    (lambda: ds.filter(level(), np.array([1 + 1j, 2])), "`y` must be real, got torch.complex128"),
    (lambda: ds.filter(level(), [[1.0, 2.0], [3.0]]), "`y` must hold numbers.*`lengths`"),
    (lambda: ds.filter(level(), Y, dt=UNEVEN), "`dt` has steps of several lengths, but a step of"),
    (lambda: ds.filter(driven(), Y, Y, dt=UNEVEN), "`dt` has steps .*LinearGaussian"),
    (lambda: ds.filter(coins(), Y > 0, dt=UNEVEN), "`dt` has steps of several.*HiddenMarkov"),
    (lambda: ds.fit(level(), np.r_[Y, 1e200]), "`y` holds 1e.200 in component 0"),
    (lambda: ds.fit(deep(), np.r_[Y, 1e30]), r"`y` holds 1e\+30 in component 0.*float32"),
    (lambda: ds.fit(deep(), np.r_[Y, 1e60]), "or a number beyond 3.4e.38"),
    (lambda: ds.simulate(driven(), 2.5), "`time` must be a whole number"),  # type: ignore[arg-type]
    (lambda: ds.models.LinearGaussian("x", 1, 1, 1), "`A` must be an array of real numbers"),
    (lambda: ds.models.LinearGaussian(0.9, 1.0, 1.0, 1.0), "`A` must be a matrix"),
    (lambda: ds.models.LinearGaussian([[0.9]], [[1.0]], [1.0], [[1.0]]), "`C` must be a matrix"),
    (lambda: ds.models.DeepMarkov(1.5, 2), "`obs_dim` must be at least 1 and whole"),  # type: ignore[arg-type]
    (lambda: ds.models.S4D(2.5), "`features` must be a whole number"),  # type: ignore[arg-type]
    (lambda: moving().update(["a"]), "`y` must hold numbers or NaN"),
    (lambda: ds.online(coins()).update(["a"]), "`y` must hold numbers or NaN"),
    (lambda: moving().predict(dt=-1.0), "`dt` must be finite and not negative, got -1"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), MISTAKES)
def test_a_mistake_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_one_input_needs_no_axis_of_its_own() -> None:
    u, later = np.arange(20.0), np.arange(3.0)
    flat = ds.forecast(driven(), Y, 3, u=u, u_future=later)
    full = ds.forecast(driven(), Y, 3, u=u[:, None], u_future=later[:, None])
    assert torch.equal(flat.mean, full.mean)


def test_equal_steps_are_no_mistake() -> None:
    found = ds.filter(level(), Y, dt=np.where(np.arange(20) == 0, 5.0, 1.0))
    assert torch.equal(found.mean, ds.filter(level(), Y).mean)


@pytest.mark.parametrize("first", [np.nan, 3.0], ids=["never seen", "never moved"])
def test_a_dead_sensor_does_not_stop_the_others(first: float) -> None:
    """The living one alone, with the same variance of its factor and noise, is the oracle."""
    model = ds.models.DynamicFactor(2)
    y = np.c_[np.full(40, first), np.random.default_rng(1).normal(size=40).cumsum()]
    fit = ds.fit(model, y, progress=False)
    assert np.isfinite(fit.learned.objective)
    assert bool(fit.filter().mean.isfinite().all())
