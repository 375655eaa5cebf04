"""A filter fed one observation at a time equals the batch filter."""

from __future__ import annotations

import pytest
import torch

import deepssm as ds
from deepssm.base import Series
from deepssm.inference.kalman import Kalman
from tests.inference.test_kalman import generic_position, make


@pytest.mark.parametrize("name", ["constant", "rank-1 Q", "all diffuse"])
def test_one_by_one_equals_the_batch(name: str) -> None:
    model, y = make(name, time=9)
    batch = Kalman().filter(model, Series(y))
    filtered = ds.online(model)
    for t, row in enumerate(y):
        if t > 0:
            filtered.predict()
        ll = filtered.update(row)
        assert ll == pytest.approx(float(batch.log_likelihood[t]), abs=1e-12)
        torch.testing.assert_close(filtered.mean, batch.mean[t], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(filtered.cov, batch.cov[t], rtol=1e-10, atol=1e-10)


def test_inputs_reach_transition_and_emission() -> None:
    model = ds.models.LinearGaussian(
        [[0.9]], [[1.0]], [[1.0]], [[0.5]], B=[[2.0]], D=[[-1.0]], P0=[[1.0]]
    )
    y, u = torch.randn(6, 1).double(), torch.randn(6, 1).double()
    batch = ds.filter(model, y, u)
    filtered = ds.online(model)
    for t in range(6):
        if t > 0:
            filtered.predict(u=u[t])
        filtered.update(y[t], u[t])
        torch.testing.assert_close(filtered.mean, batch.mean[t])


def test_saved_state_goes_on_bit_for_bit() -> None:
    model, y = generic_position()
    whole, first = ds.online(model), ds.online(model)
    for row in y[:3]:
        whole.update(row)
        first.update(row)
        whole.predict()
        first.predict()
    second = ds.online(model)
    second.load_state_dict(first.state_dict())
    assert second.update(y[4]) == whole.update(y[4])
    assert torch.equal(second.mean, whole.mean)


def test_wrong_observations_and_states_are_refused() -> None:
    model, _ = generic_position()
    filtered = ds.online(model)
    with pytest.raises(ValueError, match="`y` must hold 2 finite"):
        filtered.update(torch.zeros(3))
    state = filtered.state_dict() | {"mean": torch.zeros(5, 1)}
    with pytest.raises(ValueError, match="belongs to another model"):
        filtered.load_state_dict(state)


def test_time_steps_arrive_one_by_one() -> None:
    model = ds.models.ConstantVelocity(dims=2)
    steps = torch.tensor([0.0, 0.1, 0.0, 0.4, 0.2], dtype=torch.float64)
    y = torch.randn(5, 2, dtype=torch.float64)
    y[2, 1] = torch.nan
    batch = ds.filter(model, y, dt=steps)
    filtered = ds.online(model)
    for t in range(5):
        if t > 0:
            filtered.predict(dt=float(steps[t]))
        filtered.update(y[t])
    torch.testing.assert_close(filtered.mean, batch.mean[-1])
    torch.testing.assert_close(filtered.cov, batch.cov[-1])
    with pytest.raises(ValueError, match="`dt` is missing"):
        filtered.predict()
