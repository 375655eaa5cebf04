"""Continuous-time models against closed forms, kernels and fine grids."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from deepssm.core.model import Series
from deepssm.inference.estimation.maximum_likelihood import MaximumLikelihood
from deepssm.inference.kalman.method import Kalman
from deepssm.models.continuous.manoeuvres import CoordinatedTurn, Singer
from deepssm.models.continuous.stationary import DampedOscillator, Matern, OrnsteinUhlenbeck
from deepssm.models.continuous.tracking import (
    ConstantAcceleration,
    ConstantVelocity,
    ContinuousTime,
)

from .. import oracles

MODELS: dict[str, Callable[[], ContinuousTime]] = {
    "velocity": lambda: ConstantVelocity(2, diffusion=0.3, noise_variance=0.5),
    "acceleration": lambda: ConstantAcceleration(1, diffusion=0.3, noise_variance=0.5),
    "turn": lambda: CoordinatedTurn(0.4, diffusion=0.3, noise_variance=0.5),
    "Singer": lambda: Singer(1, acceleration_variance=0.7, manoeuvre_time=3.0, noise_variance=0.5),
    "OU": lambda: OrnsteinUhlenbeck(1, variance=1.3, length_scale=2.0, noise_variance=0.5),
    "Matern 3/2": lambda: Matern(1.5, 1, variance=1.3, length_scale=2.0, noise_variance=0.5),
    "Matern 5/2": lambda: Matern(2.5, 1, variance=1.3, length_scale=2.0, noise_variance=0.5),
    "oscillator": lambda: DampedOscillator(
        1, period=5.0, damping=0.2, variance=1.3, noise_variance=0.5
    ),
}


def irregular(time: int, obs: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    dt = 0.1 + torch.rand(time, generator=g, dtype=torch.float64) * 2
    dt[3] = 0.0
    y = torch.randn(time, obs, generator=g, dtype=torch.float64).cumsum(0)
    return oracles.punch_holes(y, 0.2, seed), dt


def log_likelihood(model: ContinuousTime, y: Tensor, dt: Tensor) -> Tensor:
    return oracles.log_likelihood(model.linear_parameters(None, dt), y).sum(-1)


@pytest.mark.parametrize("name", ["Singer", "OU"])
def test_irregular_steps_agree_with_the_dense_joint(name: str) -> None:
    model = MODELS[name]()
    y, dt = irregular(9, model.obs_dim)
    ours = Kalman().log_likelihood(model, Series(y, None, dt)).sum()
    torch.testing.assert_close(ours, log_likelihood(model, y, dt))


@pytest.mark.parametrize("name", MODELS)
def test_gaps_in_time_are_the_same_as_missing_rows(name: str) -> None:
    """One step of 1.5 equals steps of 0.4, 0.5 and 0.6 with nothing seen in between."""
    model = MODELS[name]()
    y, _ = irregular(6, model.obs_dim, seed=3)
    long = torch.tensor([9.0, 1.5, 0.7, 1.5, 0.3, 0.2], dtype=torch.float64)
    fine = torch.tensor([9.0, 0.4, 0.5, 0.6, 0.7, 0.4, 0.5, 0.6, 0.3, 0.2], dtype=torch.float64)
    rows = torch.full((10, model.obs_dim), torch.nan, dtype=torch.float64)
    rows[[0, 3, 4, 7, 8, 9]] = y
    torch.testing.assert_close(log_likelihood(model, y, long), log_likelihood(model, rows, fine))


def test_axes_are_independent_copies() -> None:
    one = Singer(1, acceleration_variance=0.7, manoeuvre_time=3.0, noise_variance=0.5)
    two = Singer(2, acceleration_variance=0.7, manoeuvre_time=3.0, noise_variance=0.5)
    y, dt = irregular(8, 2)
    apart = log_likelihood(one, y[:, :1], dt) + log_likelihood(one, y[:, 1:], dt)
    torch.testing.assert_close(log_likelihood(two, y, dt), apart)


@pytest.mark.parametrize("order", [2, 3])
def test_integrated_white_noise_has_its_closed_form(order: int) -> None:
    """`Q_ij = q dt^(2n-1-i-j) / ((2n-1-i-j) (n-1-i)! (n-1-j)!)`, Bar-Shalom's matrices."""
    kind = ConstantVelocity if order == 2 else ConstantAcceleration
    A, Q = kind(1, diffusion=0.7).step(torch.tensor([0.3], dtype=torch.float64))
    for i in range(order):
        for j in range(order):
            power, factorials = 2 * order - 1 - i - j, 1.0
            for k in (i, j):
                factorials *= math.factorial(order - 1 - k)
            assert Q[0, i, j].item() == pytest.approx(0.7 * 0.3**power / (power * factorials))
            expected = 0.3 ** (j - i) / math.factorial(j - i) if j >= i else 0.0
            assert A[0, i, j].item() == pytest.approx(expected)


def test_a_turn_turns() -> None:
    """A quarter turn at speed 1 ends beside the circle's centre, a radius away."""
    model = CoordinatedTurn(math.pi / 2, diffusion=0.0)
    A, Q = model.step(torch.tensor([1.0], dtype=torch.float64))
    z = A[0] @ torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    radius = 2 / math.pi
    expected = torch.tensor([radius, 0.0, radius, 1.0], dtype=torch.float64)
    torch.testing.assert_close(z, expected, rtol=0, atol=1e-12)
    assert not Q.any()
    C = model.linear_parameters(dt=torch.tensor(1.0)).emission.matrix[0]
    torch.testing.assert_close(C @ expected, expected[[0, 2]])


def test_singer_has_singers_transition() -> None:
    tau, T = 3.0, 0.8
    A, _ = Singer(1, acceleration_variance=1.0, manoeuvre_time=tau).step(
        torch.tensor([T], dtype=torch.float64)
    )
    decay = math.exp(-T / tau)
    row = [1.0, T, tau**2 * (T / tau - 1 + decay)]
    expected = [row, [0.0, 1.0, tau * (1 - decay)], [0.0, 0.0, decay]]
    torch.testing.assert_close(A[0], torch.tensor(expected, dtype=torch.float64))


def matern(nu: float, r: Tensor) -> Tensor:
    x = math.sqrt(2 * nu) * r
    polynomial = {0.5: x * 0 + 1, 1.5: 1 + x, 2.5: 1 + x + x * x / 3}[nu]
    return polynomial * torch.exp(-x)


@pytest.mark.parametrize("nu", [0.5, 1.5, 2.5])
def test_matern_is_the_gaussian_process_of_its_kernel(nu: float) -> None:
    """The likelihood of irregular data is that of a dense Gaussian process."""
    y, dt = irregular(12, 1, seed=5)
    y, times = torch.nan_to_num(y), torch.cat([torch.zeros(1), dt[1:]]).cumsum(0)
    distance = (times[:, None] - times).abs() / 2.0
    cov = 1.3 * matern(nu, distance) + 0.5 * torch.eye(12, dtype=torch.float64)
    expected = torch.distributions.MultivariateNormal(torch.zeros(12).double(), cov)
    model = Matern(nu, variance=1.3, length_scale=2.0, noise_variance=0.5)
    ours = log_likelihood(model, y, dt)
    torch.testing.assert_close(ours, expected.log_prob(y[:, 0]))


def test_oscillator_has_the_autocovariance_of_physics() -> None:
    """`sigma^2 e^(-zeta w r) (cos w_d r + zeta w / w_d sin w_d r)`, underdamped."""
    model = DampedOscillator(period=5.0, damping=0.2, variance=1.3, noise_variance=0.5)
    r = torch.tensor([0.0, 0.7, 2.0, 6.0], dtype=torch.float64)
    A, _ = model.step(r)
    ours = (A @ model.stationary_cov())[:, 0, 0]
    omega = 2 * math.pi / 5.0
    damped = omega * math.sqrt(1 - 0.2**2)
    wave = torch.cos(damped * r) + 0.2 * omega / damped * torch.sin(damped * r)
    torch.testing.assert_close(ours, 1.3 * torch.exp(-0.2 * omega * r) * wave)


@pytest.mark.parametrize("name", ["OU", "Matern 3/2", "Matern 5/2", "oscillator"])
def test_stationary_models_stay_stationary(name: str) -> None:
    model = MODELS[name]()
    P = model.start().cov
    A, Q = model.step(torch.tensor([0.0, 0.3, 50.0], dtype=torch.float64))
    torch.testing.assert_close(A @ P @ A.mT + Q, P.expand_as(Q))


def test_entry_zero_of_dt_is_not_used() -> None:
    model = MODELS["Singer"]()
    y, dt = irregular(5, 1)
    other = dt.clone()
    other[0] = 1e12
    one, two = (log_likelihood(model, y, d) for d in (dt, other))
    assert torch.equal(one, two)


def test_batches_of_different_times_and_one_number() -> None:
    model = MODELS["velocity"]()
    y, dt = irregular(5, 2)
    both = torch.stack([dt, torch.ones(5).double()])
    together = log_likelihood(model, torch.stack([y, y]), both)
    one = log_likelihood(model, y, torch.tensor(1.0))
    torch.testing.assert_close(together[1], one)
    with_default = ConstantVelocity(2, 1.0, diffusion=0.3, noise_variance=0.5)
    params = with_default.linear_parameters()
    torch.testing.assert_close(oracles.log_likelihood(params, y).sum(), one)


def test_steps_of_equal_length_are_discretized_once() -> None:
    class Counting(ConstantVelocity):
        seen: tuple[int, ...] = ()

        def step(self, dt: Tensor) -> tuple[Tensor, Tensor]:
            type(self).seen += (len(dt),)
            return super().step(dt)

    model = Counting(1, diffusion=1.0)
    model.linear_parameters(dt=torch.tensor([0.5, 1.0, 0.5, 1.0, 1.0]))
    assert Counting.seen == (2,)


def test_maximum_likelihood_finds_the_parameters_again() -> None:
    """1500 irregular draws of a process: each true value lies within 4 standard errors."""
    truth = MODELS["OU"]()
    g = torch.Generator().manual_seed(7)
    dt = 0.2 + torch.rand(1500, generator=g, dtype=torch.float64)
    params = truth.linear_parameters(None, dt)
    z = torch.randn(1, generator=g, dtype=torch.float64) * 1.3**0.5
    rows = []
    for t in range(1500):
        noise = torch.randn(1, generator=g, dtype=torch.float64)
        if t:
            z = params.transition.matrix[t] @ z
            z = z + params.transition.cov[t].diagonal().sqrt() * noise
        rows.append(z + 0.5**0.5 * torch.randn(1, generator=g, dtype=torch.float64))
    model = OrnsteinUhlenbeck()
    series = Series(torch.stack(rows), None, dt)
    learned = MaximumLikelihood(Kalman()).fit(model, series, progress=False)
    for name, true in {"variance": 1.3, "length_scale": 2.0, "noise_variance": 0.5}.items():
        error = learned.standard_errors[name].item()
        assert abs(getattr(model, name).item() - true) < 4 * error < true


@pytest.mark.parametrize("name", ["velocity", "Singer", "Matern 3/2", "oscillator"])
def test_gradients_reach_every_parameter(name: str) -> None:
    kinds = {
        "velocity": lambda: ConstantVelocity(1),
        "Singer": lambda: Singer(1),
        "Matern 3/2": lambda: Matern(2.5),
        "oscillator": lambda: DampedOscillator(),
    }
    model = kinds[name]()
    y, dt = irregular(9, 1)
    series = Series(y, None, dt)
    model.initialize_from(series)
    params = model.linear_parameters(None, dt)
    total = params.initial.cov.sum() + params.emission.cov.sum()
    (total + params.transition.matrix.sum() + params.transition.cov.sum()).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None and parameter.grad.abs() > 0


def test_names_and_densities() -> None:
    model = MODELS["velocity"]()
    assert model.state_names == ("position_0", "velocity_0", "position_1", "velocity_1")
    z = torch.randn(4, dtype=torch.float64)
    dt = torch.tensor(0.5, dtype=torch.float64)
    step = model.transition(z, None, dt)
    A, Q = model.step(dt[None])
    torch.testing.assert_close(step.mean[:2], A[0] @ z[:2])
    torch.testing.assert_close(step.covariance_matrix[2:, 2:], Q[0])
    assert MODELS["OU"]().initial().mean.shape == (1,)
    assert MODELS["turn"]().emission(z).mean.shape == (2,)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="`dt` is missing: ConstantVelocity runs in continuous"):
        ConstantVelocity().linear_parameters()
    with pytest.raises(ValueError, match="`dims` must be at least 1"):
        ConstantVelocity(0)
    with pytest.raises(ValueError, match="`dt` must be a positive time"):
        ConstantVelocity(dt=-1.0)
    with pytest.raises(ValueError, match="`smoothness` must be 0.5, 1.5 or 2.5"):
        Matern(3.5)
    with pytest.raises(ValueError, match="`noise_variance` must be one number"):
        ConstantVelocity(noise_variance=-1.0)
