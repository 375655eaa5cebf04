"""Compiled passes against the same passes in torch, which share no line with them."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deepssm as ds
from deepssm.core.model import Series, StateSpaceModel
from deepssm.inference import (
    Cubature,
    Extended,
    Gate,
    GaussHermite,
    GaussianFilter,
    Huber,
    Simplex,
    StudentT,
    Unscented,
)
from deepssm.inference.gaussian.compiled import run
from deepssm.models import NonlinearGaussian

from ...nonlinear_models import matrix, observations, pendulum

NAN, TIME = float("nan"), 70
METHODS = (
    Extended(),
    Extended(iterations=3),
    Unscented(),
    Unscented(0.8, 2.0, 1.0, iterations=2),
    Cubature(),
    Simplex(),
    GaussHermite(3),
)
SHORT = (Extended(), Unscented(), Cubature(), Simplex())


def vehicle(**changes: object) -> NonlinearGaussian:
    """Turning vehicle with an input, time steps, and noises of full covariance."""

    def move(z: Tensor, u: Tensor | None, dt: Tensor | None) -> Tensor:
        assert u is not None
        assert dt is not None
        x, y, heading, speed = z.unbind(-1)
        step = dt * speed
        return torch.stack(
            (
                x + step * torch.cos(heading),
                y + step * torch.sin(heading),
                heading + dt * u[..., 0],
                speed + dt * (u[..., 1] - 0.1 * speed),
            ),
            -1,
        )

    def see(z: Tensor, u: Tensor | None) -> Tensor:
        away = z[..., :2] - torch.tensor([3.0, -20.0], dtype=z.dtype)
        bearing = torch.atan2(away[..., 1], away[..., 0])
        return torch.stack((torch.linalg.norm(away, dim=-1), bearing, z[..., 3]), -1)

    root = torch.tensor(
        [[0.05, 0.0, 0.0, 0.0], [0.01, 0.04, 0.0, 0.0], [0.0, 0.01, 0.02, 0.0],
         [0.02, 0.0, 0.01, 0.1]], dtype=torch.float64,
    )  # fmt: skip
    numbers: dict[str, object] = dict(
        Q=root @ root.T,
        R=matrix([[0.04, 0.002, 0.01], [0.002, 0.001, 0.0], [0.01, 0.0, 0.09]]),
        m0=torch.tensor([0.5, 0.2, 0.3, 1.0], dtype=torch.float64),
        P0=0.1 * torch.eye(4, dtype=torch.float64) + 0.02,
        input_dim=2,
    )
    return NonlinearGaussian(move, see, **{**numbers, **changes})  # type: ignore[arg-type]


def drive(*batch: int, seed: int = 0) -> Series:
    """Simulated observations with whole and partial gaps, inputs and irregular time steps."""
    g = torch.Generator().manual_seed(seed)
    u = 0.5 * torch.randn(*batch, TIME, 2, generator=g, dtype=torch.float64)
    dt = 0.05 + 0.1 * torch.rand(*batch, TIME, generator=g, dtype=torch.float64)
    y = ds.simulate(vehicle(), TIME, u=u, dt=dt, generator=g).y
    y[..., 4, :], y[..., 9, 1], y[..., 20, 0:2] = NAN, NAN, NAN
    if batch:
        y[0, 12, :], y[-1, 30, 2] = NAN, NAN
    return Series(y, u, dt)


def agree(method: GaussianFilter, model: StateSpaceModel, series: Series, atol: float) -> None:
    """Compare moments, lag-one covariances, likelihood and trust with the torch route."""
    run.prepare(method, model, series)
    with torch.no_grad():
        want = (*method._filter(model, series)[:5], *method._smooth(model, series)[:4])
        got = (*method.filter(model, series)[:5], *method.smooth(model, series)[:4])
        trusted = torch.stack(method._pass(model, series, joint=False).trust, -2)
        for x, y in zip(got, want, strict=True):
            torch.testing.assert_close(x, y, rtol=atol, atol=atol)
        torch.testing.assert_close(
            method.trust(model, series), trusted, rtol=atol, atol=atol, equal_nan=True
        )


@pytest.mark.parametrize("batch", [(), (2, 5)])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_pendulum(method: GaussianFilter, batch: tuple[int, ...]) -> None:
    y = observations(TIME, *batch)
    y[..., 5, :] = NAN
    if batch:
        y[1, 3, 7] = NAN
    agree(method, pendulum(), Series(y), 1e-10)


@pytest.mark.parametrize("batch", [(), (9,)])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_inputs_time_steps_and_correlated_gaps(
    method: GaussianFilter, batch: tuple[int, ...]
) -> None:
    agree(method, vehicle(), drive(*batch), 1e-9)


@pytest.mark.parametrize("method", SHORT, ids=str)
def test_noise_that_grows_with_the_time_step(method: GaussianFilter) -> None:
    scale = torch.tensor([0.1, 0.2, 0.05, 0.3], dtype=torch.float64)

    def Q(dt: Tensor | None) -> Tensor:
        assert dt is not None
        return dt[..., None, None] * torch.diag(scale.square())

    for series in (drive(), drive(6)):
        agree(method, vehicle(Q=Q), series, 1e-9)


@pytest.mark.parametrize("method", [*SHORT[:3], GaussHermite(3)], ids=str)
@pytest.mark.parametrize("batch", [(), (5,)])
def test_noise_inside_the_functions(method: GaussianFilter, batch: tuple[int, ...]) -> None:
    def f(z: Tensor, u: Tensor | None, dt: Tensor | None, w: Tensor) -> Tensor:
        pushed = z[..., 1] + 0.05 * (w[..., 0] - 9.81 * torch.sin(z[..., 0])) * torch.exp(
            0.1 * w[..., 0]
        )
        return torch.stack((z[..., 0] + 0.05 * z[..., 1], pushed), -1)

    def h(z: Tensor, u: Tensor | None, v: Tensor) -> Tensor:
        return torch.stack((torch.sin(z[..., 0] + v[..., 0]) + v[..., 1], v[..., 1]), -1)

    functions: Any = f, h
    model = NonlinearGaussian(
        *functions,
        Q=matrix([[0.3]]),
        R=matrix([[0.05, 0.01], [0.01, 0.02]]),
        m0=torch.tensor([1.2, 0.0], dtype=torch.float64),
        P0=matrix([[0.2, 0.02], [0.02, 0.1]]),
        noise="inside",
    )
    y = torch.cat((observations(TIME, *batch), 0.1 * observations(TIME, *batch, seed=1)), -1)
    y[..., 3, 0], y[..., 8, :] = NAN, NAN
    agree(method, model, Series(y), 1e-9)


class Counts(StateSpaceModel):
    """A growing log-rate seen through a family of one's choice."""

    def __init__(self, family: Callable[[Tensor], torch.distributions.Distribution]) -> None:
        super().__init__()
        self.state_dim, self.obs_dim, self.family = 2, 2, family
        self.decay = nn.Parameter(torch.tensor([0.9, 0.7], dtype=torch.float64))

    def initial(self) -> torch.distributions.Distribution:
        scale = torch.full((2,), 0.5, dtype=torch.float64)
        start = torch.distributions.Normal(torch.zeros(2, dtype=torch.float64), scale)
        return torch.distributions.Independent(start, 1)

    def transition(
        self, z: Tensor, u: Tensor | None = None, dt: Tensor | None = None
    ) -> torch.distributions.Distribution:
        mean = self.decay * z + 0.1 * torch.tanh(z.flip(-1))
        scale = 0.1 + 0.05 * torch.sigmoid(z)
        return torch.distributions.Independent(torch.distributions.Normal(mean, scale), 1)

    def emission(self, z: Tensor, u: Tensor | None = None) -> torch.distributions.Distribution:
        return torch.distributions.Independent(self.family(z), 1)


FAMILIES: dict[str, Callable[[Tensor], torch.distributions.Distribution]] = {
    "Gaussian": lambda z: torch.distributions.Normal(z, 0.1 + z.square()),
    "Poisson": lambda z: torch.distributions.Poisson(torch.exp(z)),
    "Bernoulli": lambda z: torch.distributions.Bernoulli(logits=z),
    "negative binomial": lambda z: torch.distributions.NegativeBinomial(3.0, logits=z),
    "Student-t": lambda z: torch.distributions.StudentT(5.0, z, nn.functional.softplus(z)),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch", [(), (5,)])
def test_means_and_variances_of_emissions(family: str, batch: tuple[int, ...]) -> None:
    torch.distributions.Distribution.set_default_validate_args(True)
    y = torch.randint(0, 2, (*batch, TIME, 2)).double()
    y[..., 3, 0] = NAN
    for method in SHORT:
        agree(method, Counts(FAMILIES[family]), Series(y), 1e-9)


@pytest.mark.parametrize("method", SHORT, ids=str)
def test_gradients_are_those_of_torch(method: GaussianFilter) -> None:
    model, series = (
        pendulum(P0=nn.Parameter(matrix([[0.2, 0.02], [0.02, 0.1]]))),
        Series(observations(TIME, 3)),
    )
    run.prepare(method, model, series)
    parameters = list(model.parameters())
    found = []
    for score in (method.log_likelihood, method._log_likelihood):
        weights = torch.linspace(0.5, 1.5, TIME, dtype=torch.float64)
        found.append(torch.autograd.grad((weights * score(model, series)).sum(), parameters))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
    mean = torch.autograd.grad(method.filter(model, series).mean.sum(), parameters)
    want = torch.autograd.grad(method._filter(model, series).mean.sum(), parameters)
    torch.testing.assert_close(mean, want, rtol=1e-8, atol=1e-10)


def learnable(form: str) -> tuple[StateSpaceModel, Series]:
    """A model with learnable numbers everywhere, and a series with gaps for it."""
    if form == "counts":
        return Counts(FAMILIES["Poisson"]), Series(torch.randint(0, 3, (3, TIME, 2)).double())
    start = nn.Parameter(0.1 * torch.eye(4, dtype=torch.float64) + 0.02)
    changes: dict[str, object] = {"P0": start, "R": nn.Parameter(vehicle().R.clone())}
    if form == "noise by time step":
        changes["Q"] = lambda dt: dt[..., None, None] * 0.01 * torch.eye(4, dtype=torch.float64)
    series = drive(3)
    if form == "scalar time step":
        series = series._replace(dt=torch.tensor(0.1, dtype=torch.float64))
    return vehicle(**changes), series


@pytest.mark.parametrize(
    "form", ["counts", "full noises", "noise by time step", "scalar time step"]
)
def test_the_pass_back_has_the_gradient_of_autograd(form: str) -> None:
    """All parameters, gaps, angles, inputs, variances that depend on the state."""
    model, series = learnable(form)
    series.y[..., 3, 0], series.y[0, 8, 1], series.y[..., 12, :] = NAN, NAN, NAN
    run.prepare(Extended(), model, series)
    found = []
    for score in (Extended().log_likelihood, Extended()._log_likelihood):
        value = score(model, series)
        weights = torch.linspace(0.5, 1.5, value.numel(), dtype=torch.float64)
        total = (weights.reshape(value.shape) * value).sum()
        found.append(torch.autograd.grad(total, list(model.parameters())))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)


def test_second_derivatives_are_those_of_torch() -> None:
    model, series = pendulum(), Series(observations(TIME))
    parameters, found = list(model.parameters()), []
    for score in (Extended().log_likelihood, Extended()._log_likelihood):
        (first,) = torch.autograd.grad(score(model, series).sum(), parameters, create_graph=True)
        found.append(torch.autograd.grad(first, parameters)[0])
    torch.testing.assert_close(found[0], found[1])


def stepping(
    function: Callable[[Tensor, Tensor | None, Tensor | None], Tensor],
) -> NonlinearGaussian:
    """The pendulum with another transition."""
    known = pendulum()
    numbers: dict[str, Any] = {name: getattr(known, name) for name in ("Q", "R", "m0", "P0")}
    return NonlinearGaussian(function, lambda z, u: torch.sin(z[..., :1]), **numbers)


def test_a_changed_parameter_or_closure_changes_the_answer() -> None:
    """A trace that has gone stale must never be used; each change is checked against torch."""
    settings = {"gravity": 0.5}
    model = stepping(
        lambda z, u, dt: torch.stack(
            (z[..., 0] + 0.05 * z[..., 1], z[..., 1] - settings["gravity"] * z[..., 0].sin()), -1
        )
    )
    series, method = Series(observations(TIME)), Extended()
    for gravity in (0.5, 0.2, 0.9):
        settings["gravity"] = gravity
        torch.testing.assert_close(
            method.log_likelihood(model, series), method._log_likelihood(model, series)
        )
    learnt = pendulum()
    for stiffness in (9.81, 3.0):
        with torch.no_grad():
            learnt.transition_function.stiffness.fill_(stiffness)  # type: ignore[union-attr]
            torch.testing.assert_close(
                method.log_likelihood(learnt, series), method._log_likelihood(learnt, series)
            )
    with torch.no_grad():
        learnt.R.mul_(2.0)
        torch.testing.assert_close(
            method.log_likelihood(learnt, series), method._log_likelihood(learnt, series)
        )


@pytest.mark.parametrize("method", [Extended(), Unscented()], ids=str)
def test_a_running_filter_is_the_filter_of_the_series(method: GaussianFilter) -> None:
    """Inputs, time steps, gaps; copied in the middle, and read before an observation."""
    model, series = vehicle(), drive()
    assert series.u is not None
    assert series.dt is not None
    want, trusted = method._filter(model, series), method.trust(model, series)
    running = method.online(model)
    for t in range(TIME):
        if t:
            running.predict(float(series.dt[t]), series.u[t])
            torch.testing.assert_close(running.mean, want.predicted_mean[t], rtol=1e-9, atol=1e-9)
        gained = running.update(series.y[t], series.u[0] if t == 0 else None)
        assert gained == pytest.approx(float(want.log_likelihood[t]), abs=1e-8)
        torch.testing.assert_close(running.trust, trusted[t], equal_nan=True)
        if t == 40:
            running = copy.deepcopy(running)
    torch.testing.assert_close(running.cov, want.cov[-1], rtol=1e-9, atol=1e-9)
    assert running._compiled is not None


def test_a_model_that_nobody_holds_is_forgotten() -> None:
    model = pendulum()
    Extended().filter(model, Series(observations(TIME)))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_inference_mode() -> None:
    series, want = drive(2), Extended()._filter(vehicle(), drive(2)).mean
    with torch.inference_mode():
        inside = Series(*(None if x is None else x.clone() for x in series))  # type: ignore[arg-type]
        found = Extended().filter(vehicle(), inside).mean
    torch.testing.assert_close(found.clone(), want, rtol=1e-9, atol=1e-9)


def test_gradients_of_tensors_that_are_no_parameters() -> None:
    """Somebody learns a covariance of his own through the model's buffers."""
    scale = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    model, series = pendulum(), Series(observations(TIME))
    model.R = scale * torch.ones(1, 1, dtype=torch.float64)
    for method in (Extended(), Unscented()):
        found = torch.autograd.grad(
            method.log_likelihood(model, series).sum(), scale, retain_graph=True
        )
        want = torch.autograd.grad(
            method._log_likelihood(model, series).sum(), scale, retain_graph=True
        )
        torch.testing.assert_close(found, want)


def test_single_precision() -> None:
    model, series = pendulum().float(), Series(observations(TIME, 5).float())
    with torch.no_grad():
        found, want = Extended().filter(model, series), Extended()._filter(model, series)
    assert found.mean.dtype == torch.float32
    torch.testing.assert_close(found.mean, want.mean, rtol=1e-3, atol=1e-3)
    assert ds.inference.explain(model, Extended()).startswith("compiled")


def test_draws_and_forecasts_of_a_compiled_pass() -> None:
    """The same pass step by step: draws with one seed are equal, so the factors are."""
    model, series, method = pendulum(), Series(observations(TIME, 2)), Unscented()
    with torch.no_grad():
        seeds = [torch.Generator().manual_seed(3) for _ in range(2)]
        found = method.sample_posterior(model, series, 4, seeds[0])
        from deepssm.inference.gaussian import steps

        want = steps.sample(method._pass(model, series, joint=True), 4, seeds[1])
    torch.testing.assert_close(found, want, rtol=1e-8, atol=1e-8)


def branching(z: Tensor, u: Tensor | None, dt: Tensor | None) -> Tensor:
    return 0.9 * z if bool((z[..., 0] > 0).all()) else 0.5 * z


def unknown(z: Tensor, u: Tensor | None, dt: Tensor | None) -> Tensor:
    return torch.special.bessel_j0(z) + 0.5 * z


def rounding(z: Tensor, u: Tensor | None, dt: Tensor | None) -> Tensor:
    return z - z.mean(-2, keepdim=True) + 0.1 if z.ndim > 1 and len(z) > 1 else 0.5 * z


class Wide(nn.Module):
    """A network of two hidden layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2)
        ).double()

    def forward(self, z: Tensor, u: Tensor | None, dt: Tensor | None) -> Tensor:
        return 0.9 * z + 0.1 * self.net(z)


REFUSED = {
    "branch": (branching, "branches on values"),
    "operation": (unknown, "`special_bessel_j0`"),
    "batch": (rounding, "does not give what torch gives"),
    "wide network": (Wide(300), "numbers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_traced_runs_as_torch_and_says_so(name: str) -> None:
    function, why = REFUSED[name]
    model, series = stepping(function), Series(observations(TIME))
    with torch.no_grad():
        found, want = Extended().filter(model, series), Extended()._filter(model, series)
    torch.testing.assert_close(found.mean, want.mean, rtol=0.0, atol=0.0)
    sentence = ds.inference.explain(model, Extended())
    assert sentence.startswith("torch: ")
    assert why in sentence
    assert sentence.count("\n") == 0


@pytest.mark.parametrize("width", [6, 16, 64])
def test_networks_are_compiled_as_loops(width: int) -> None:
    """The torch path takes 6 times as long at width 64, for 1 series and for 1000."""
    model = stepping(Wide(width))
    series = Series(observations(TIME, 5))
    agree(Extended(), model, series, 1e-9)
    agree(Unscented(), model, Series(series.y[0]), 1e-9)
    assert ds.inference.explain(model, Extended()).startswith("compiled")


def test_an_emission_without_noise_takes_the_array_form() -> None:
    """Its observations are exact, which the collapsed update does not take."""
    model = pendulum(R=matrix([[0.0]]))
    series = Series(0.1 * observations(TIME))
    with torch.no_grad():
        found, want = Extended().filter(model, series), Extended()._filter(model, series)
    torch.testing.assert_close(found, want, equal_nan=True)


def test_a_rule_of_ones_own_runs_as_torch() -> None:
    class Mine(Extended):
        """Somebody's own."""

    assert "`Mine`" in ds.inference.explain(pendulum(), Mine())
    assert ds.inference.explain(pendulum(), Unscented(1e-3, 0.0, 0.0)).startswith("compiled")
    found = Mine().filter(pendulum(), Series(observations(TIME)))
    torch.testing.assert_close(
        found.mean, Extended()._filter(pendulum(), Series(observations(TIME))).mean
    )


def test_doubts_and_angles_run_as_torch_and_say_so() -> None:
    """Their scores and differences are those of one place."""
    model, series = pendulum(), Series(observations(TIME))
    for robust in (Gate(0.9), StudentT(), Huber()):
        method = Extended(robust=robust)
        found, want = method.filter(model, series), method._filter(model, series)
        torch.testing.assert_close(found.log_likelihood, want.log_likelihood, rtol=0, atol=0)
        assert found.trust is not None
        assert "doubted" in ds.inference.explain(model, method)
    assert "angles" in ds.inference.explain(vehicle(circular_obs=(1,)), Extended())
