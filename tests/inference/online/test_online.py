"""A filter fed one observation at a time equals the batch filter."""

from __future__ import annotations

import pytest
import torch

import deepssm as ds
from deepssm.core.model import Series, StateSpaceModel
from deepssm.inference.gaussian.filter import GaussianFilter
from deepssm.inference.gaussian.methods import Cubature, Extended, GaussHermite, Simplex, Unscented
from deepssm.inference.gaussian.online import OnlineGaussian
from deepssm.inference.gaussian.robust import Gate
from deepssm.inference.kalman.method import Kalman
from deepssm.inference.online.out_of_sequence import BufferedFilter
from tests.inference.kalman.cases import generic_position, make
from tests.nonlinear_models import observations, pendulum


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


METHODS = [
    Extended(),
    Extended(iterations=3),
    Extended(robust=Gate(0.9)),
    Unscented(),
    Cubature(),
    Simplex(),
    GaussHermite(3),
]


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_gaussian_filters_run_one_by_one(method: GaussianFilter) -> None:
    """Irregular steps, inputs, gaps and an observation to reject."""
    model, y = pendulum().requires_grad_(False), observations(12)
    u = torch.randn(12, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model.input_dim = 1
    dt = torch.linspace(0.02, 0.08, 12, dtype=torch.float64)
    y[4], y[7] = torch.nan, 40.0
    batch, trust = method.filter(model, Series(y, u, dt)), method.trust(model, Series(y, u, dt))
    running = ds.online(model, method=method)
    assert isinstance(running, OnlineGaussian)
    for t, row in enumerate(y):
        if t > 0:
            running.predict(float(dt[t]), u[t])
            predicted = running.mean, running.cov
            torch.testing.assert_close(predicted[0], batch.predicted_mean[t], rtol=1e-12, atol=0)
            torch.testing.assert_close(predicted[1], batch.predicted_cov[t], rtol=1e-12, atol=0)
        gained = running.update(row, u[t])
        assert gained == pytest.approx(float(batch.log_likelihood[t]), abs=1e-12)
        torch.testing.assert_close(running.mean, batch.mean[t], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(running.cov, batch.cov[t], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(running.trust, trust[t], equal_nan=True)
        saved = running.state_dict()
        running = OnlineGaussian(method, model)
        running.load_state_dict(saved)
    assert running.log_likelihood == pytest.approx(float(batch.log_likelihood.sum()), abs=1e-11)


def test_linear_and_deep_models_run_one_by_one_by_moments() -> None:
    linear, y = generic_position()
    deep = ds.models.DeepMarkov(2, 3).requires_grad_(False)
    for model, method in ((linear, Extended()), (deep, Unscented())):
        data = y.to(model.dtype)
        batch = method.filter(model, Series(data))
        running = ds.online(model, method=method)
        for t, row in enumerate(data):
            if t:
                running.predict()
            running.update(row)
        torch.testing.assert_close(running.mean, batch.mean[-1])
        torch.testing.assert_close(running.cov, batch.cov[-1])


def test_gaussian_filters_refuse_wrong_observations_states_and_methods() -> None:
    model = pendulum().requires_grad_(False)
    running = ds.online(model, method=Extended())
    with pytest.raises(ValueError, match="`y` must hold 1 finite"):
        running.update(torch.zeros(3))
    state = running.state_dict() | {"mean": torch.zeros(5)}
    with pytest.raises(ValueError, match="belongs to another model"):
        running.load_state_dict(state)
    with pytest.raises(ValueError, match="`Ensemble` works on whole series"):
        ds.online(model, method=ds.inference.Ensemble())


@pytest.mark.parametrize("buffer", [0, 2])
@pytest.mark.parametrize("kind", ["kalman", "extended", "switching", "hidden"])
def test_an_input_is_given_once_a_step(kind: str, buffer: int) -> None:
    """It drives the transition and reaches the emission; zeros there would be silently wrong."""
    mode = ds.models.LinearGaussian(
        [[0.9]], [[1.0]], [[1.0], [0.5]], [[0.5, 0.1], [0.1, 0.4]], P0=[[1.0]],
        B=[[1.0]], D=[[2.0], [-1.0]],
    )  # fmt: skip
    hidden = ds.models.HiddenMarkov(ds.models.RegressionStates(2, 2, 1), input_dim=1, driven=True)
    with torch.no_grad():
        for parameter in hidden.parameters():
            parameter.add_(torch.randn_like(parameter))
    models: dict[str, StateSpaceModel] = {
        "kalman": mode,
        "extended": mode,
        "switching": ds.models.SwitchingLinearGaussian([mode, mode]),
        "hidden": hidden,
    }
    model, method = models[kind], Extended() if kind == "extended" else None
    y, u = torch.randn(5, 2, dtype=torch.float64), torch.randn(5, 1, dtype=torch.float64)
    y[2, 0] = torch.nan
    running = ds.online(model, method=method, buffer=buffer)
    for t in range(5):
        if t:
            running.predict(u=u[t])
        if not (buffer and t == 3):
            running.update(y[t], u[t] if t == 0 else None)
    if buffer:
        assert isinstance(running, BufferedFilter)
        running.update(y[3], back=1)
    expected = ds.filter(model, y, u, method=method)
    torch.testing.assert_close(running.mean, expected.mean[-1])
    assert running.log_likelihood == pytest.approx(float(expected.log_likelihood.detach().sum()))


@pytest.mark.parametrize("method", [None, Extended()])
@pytest.mark.parametrize("buffer", [0, 2])
def test_lists_keep_all_their_digits(method: Extended | None, buffer: int) -> None:
    """0.1 is another number in single precision, which is what torch makes of a list."""
    model = ds.models.LinearGaussian(
        [[0.9]], [[1.0]], [[1.0]], [[0.5]], P0=[[1.0]], B=[[1.0]], D=[[2.0]]
    )
    lists, tensors = (ds.online(model, method=method, buffer=buffer) for _ in range(2))
    third = torch.tensor([1 / 3], dtype=torch.float64)
    lists.update([0.1], [1 / 3])
    tensors.update(torch.tensor([0.1], dtype=torch.float64), third)
    lists.predict(u=[1 / 3])
    tensors.predict(u=third)
    assert torch.equal(lists.mean, tensors.mean)


@pytest.mark.parametrize("kind", ["kalman", "extended", "switching", "hidden"])
def test_a_state_of_another_filter_is_refused_by_name(kind: str) -> None:
    mode = ds.models.LinearGaussian([[0.9]], [[1.0]], [[1.0]], [[0.5]], P0=[[1.0]])
    models: dict[str, StateSpaceModel] = {
        "kalman": mode,
        "extended": mode,
        "switching": ds.models.SwitchingLinearGaussian([mode, mode]),
        "hidden": ds.models.HiddenMarkov(ds.models.GaussianStates(2)),
    }
    running = ds.online(models[kind], method=Extended() if kind == "extended" else None)
    with pytest.raises(
        ValueError, match="`state` belongs to another filter: it has no `.*nothing"
    ):
        running.load_state_dict({})


def test_refresh_reads_new_parameters() -> None:
    model = pendulum(9.81).requires_grad_(False)
    running = ds.online(model, method=Extended())
    assert isinstance(running, OnlineGaussian)
    running.update(torch.tensor([0.3]))
    model.transition_function.stiffness.fill_(4.0)
    running.refresh()
    fresh = ds.online(model, method=Extended())
    fresh.load_state_dict(running.state_dict())
    running.predict()
    fresh.predict()
    assert torch.equal(running.mean, fresh.mean)
