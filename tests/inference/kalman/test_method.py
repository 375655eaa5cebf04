"""The Kalman filter and smoother against one dense Gaussian over all states and observations."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from deepssm.core.model import Series, StateSpaceModel
from deepssm.inference.kalman.method import Kalman
from tests import oracles
from tests.given import Given

from .cases import CASES, close, generic_position, long_series, make, rebuilt, tensors_of


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_total_log_likelihood_is_the_joint_density(name: str, seed: int) -> None:
    model, y = make(name, seed=seed)
    actual = Kalman().log_likelihood(model, Series(y)).sum(-1)
    close(actual, oracles.log_likelihood(model.given, y).sum(-1))


@pytest.mark.parametrize("name", [name for name in CASES if "diffuse" not in name])
def test_each_step_is_the_one_step_predictive_density(name: str) -> None:
    model, y = make(name)
    close(
        Kalman().log_likelihood(model, Series(y)),
        oracles.log_likelihood(model.given, y),
    )


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_smoothed_moments_are_the_conditional_gaussian(name: str, seed: int) -> None:
    model, y = make(name, seed=seed)
    smoothed = Kalman().smooth(model, Series(y))
    mean, cov, cross = oracles.smooth(model.given, y)
    close(smoothed.mean, mean)
    close(smoothed.cov, cov)
    close(smoothed.cross_cov, cross)


@pytest.mark.parametrize("name", [name for name in CASES if "diffuse" not in name])
def test_filtered_and_predicted_moments(name: str) -> None:
    model, y = make(name)
    filtered = Kalman().filter(model, Series(y))
    now, before = oracles.filtered(model.given, y), oracles.predicted(model.given, y)
    close(filtered.mean, now.mean)
    close(filtered.cov, now.cov)
    close(filtered.predicted_mean, before.mean)
    close(filtered.predicted_cov, before.cov)


def test_filtered_moments_once_the_diffuse_states_are_fixed() -> None:
    model, y = make("all diffuse", time=9)
    filtered = Kalman().filter(model, Series(y))
    expected = oracles.filtered(model.given, y)
    close(filtered.mean[5:], expected.mean[5:])
    close(filtered.cov[5:], expected.cov[5:])
    assert bool(filtered.predicted_cov[0].diagonal().isinf().all())


@pytest.mark.parametrize("name", CASES)
def test_gradient_of_every_argument(name: str) -> None:
    """Oracle: central differences; a symmetric direction for each covariance."""
    model, y = make(name, time=6)
    tensors = [y.clone(), *tensors_of(model.given)]

    def value(*changed: Tensor) -> Tensor:
        given = rebuilt(model.given, changed[1:])
        return Kalman().log_likelihood(Given(given), Series(changed[0])).sum()

    leaves = [x.clone().requires_grad_() for x in tensors]
    grads = torch.autograd.grad(value(*leaves), leaves)
    generator = torch.Generator().manual_seed(3)
    for i, x in enumerate(tensors):
        direction = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        if i in (2, 5, 8):  # P0, Q, R: stay positive semi-definite by moving along themselves
            direction = x
        step = 1e-5
        moved = [[*tensors[:i], x + s * step * direction, *tensors[i + 1 :]] for s in (1, -1)]
        numeric = (value(*moved[0]) - value(*moved[1])) / (2 * step)
        analytic = (grads[i] * torch.where(direction.isnan(), 0.0, direction)).sum()
        torch.testing.assert_close(analytic, numeric, rtol=2e-7, atol=2e-7)


@pytest.mark.parametrize("name", ["constant", "time-varying", "batch of parameters"])
def test_gradient_equals_autograd_through_the_recursion(name: str) -> None:
    model, y = make(name, time=8)
    leaves = [x.clone().requires_grad_() for x in (y, *tensors_of(model.given))]
    grads = []
    for backend in ("sequential", "autograd"):
        changed = Given(rebuilt(model.given, tuple(leaves[1:])))
        ll = Kalman(backend=backend).log_likelihood(changed, Series(leaves[0]))  # type: ignore[arg-type]
        grads.append(torch.autograd.grad(ll.sum(), leaves))
    for ours, theirs in zip(*grads, strict=True):
        symmetric = ours.ndim > 1 and ours.shape[-1] == ours.shape[-2]
        both = [(g + g.mT) / 2 if symmetric else g for g in (ours, theirs)]
        close(*both)


def test_the_generic_model_of_the_literature() -> None:
    """statsmodels and the dense joint Gaussian agree on these to 1e-14."""
    model, y = generic_position()
    ll = Kalman().log_likelihood(model, Series(y))
    steps = [-2.5162437204, -1.2371375558, -1.3053137221, 0.0, -1.9578927784, -2.1992098813]
    assert abs(float(ll.sum()) + 9.215797658164472) < 1e-9
    close(ll, torch.tensor(steps, dtype=torch.float64), atol=1e-9)
    smoothed = Kalman().smooth(model, Series(y))
    double = torch.float64
    expected = torch.tensor([[1.2203282676, 0.0770074836], [1.2910067193, 0.4227929356]]).double()
    expected = torch.tensor([[1.2203282676, 0.0770074836]], dtype=double)
    close(smoothed.mean[:1], expected, atol=1e-8)
    close(smoothed.mean[3], torch.tensor([1.2910067193, 0.4227929356], dtype=double), atol=1e-8)
    cov = torch.tensor(
        [[0.3030645178, -0.0597290228], [-0.0597290228, 0.2869227066]], dtype=double
    )
    close(smoothed.cov[0], cov, atol=1e-8)
    cross = torch.tensor(
        [[0.2086549668, -0.0863491766], [-0.0552289632, 0.1521534353]], dtype=double
    )
    close(smoothed.cross_cov[1], cross.mT, atol=1e-8)


def test_forecasts_of_the_generic_model() -> None:
    model, y = generic_position()
    future = torch.full((3, 2), math.nan, dtype=torch.float64)
    forecast = Kalman().forecast(model, Series(torch.cat((y, future))), 3)
    expected = [
        [1.0844120452, 0.4703854587],
        [1.0566444413, 0.4378657696],
        [1.0301188777, 0.409694278],
    ]
    close(forecast.mean, torch.tensor(expected, dtype=torch.float64), atol=1e-8)
    cov = [[0.9640622563, 0.7094841679], [0.7094841679, 1.2299841558]]
    close(forecast.cov[0], torch.tensor(cov, dtype=torch.float64), atol=1e-8)


def test_posterior_paths_have_the_smoothed_moments() -> None:
    """Fails by chance with probability < 1e-4: 5 standard errors on 2 x 42 moments."""
    model, y = make("time-varying", state=2, obs=2, time=4)
    draws = Kalman().sample_posterior(model, Series(y), 2_000, torch.Generator().manual_seed(0))
    flat = draws.flatten(-2)
    expected = oracles.smooth(model.given, y)
    sd = expected.cov.diagonal(dim1=-2, dim2=-1).flatten().sqrt()
    error = (flat.mean(0) - expected.mean.flatten()) / (sd / math.sqrt(2_000))
    assert float(error.abs().max()) < 5
    lag = torch.cov(flat[:, 2:6].T)[2:, :2]
    scale = (sd[4:6, None] * sd[None, 2:4]) / math.sqrt(2_000)
    assert float(((lag - expected.cross_cov[2]) / (2 * scale)).abs().max()) < 5


def test_empty_series_have_likelihood_zero() -> None:
    model, y = make("constant")
    assert Kalman().log_likelihood(model, Series(y[:0])).shape == (0,)
    assert Kalman().smooth(model, Series(y[None][:0])).mean.shape == (0, 7, 3)


def test_padding_and_payload_of_missing_entries_change_nothing() -> None:
    model, y = make("constant", gaps=0.0)
    base = Kalman().filter(model, Series(y))
    padded = torch.cat((y, torch.full((5, 2), math.nan, dtype=y.dtype)))
    longer = Kalman().filter(model, Series(padded))
    assert torch.equal(longer.log_likelihood[:7], base.log_likelihood)
    assert torch.equal(longer.log_likelihood[7:], torch.zeros(5, dtype=y.dtype))


def test_a_batch_equals_its_members() -> None:
    model, y = make("constant")
    both = torch.stack((y, y.flip(0)))
    batch = Kalman().smooth(model, Series(both))
    for i, series in enumerate(both):
        alone = Kalman().smooth(model, Series(series))
        assert torch.equal(batch.mean[i], alone.mean) and torch.equal(batch.cov[i], alone.cov)


def test_noiseless_and_duplicate_sensors() -> None:
    """A sensor without noise, seen twice: the state is known and the copy adds nothing."""
    from deepssm.models import LinearGaussian

    eye = torch.eye(2, dtype=torch.float64)
    C = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    model = LinearGaussian(0.9 * eye, eye, C, 0 * eye, P0=eye)
    alone = LinearGaussian(0.9 * eye, eye, C[:1], 0 * eye[:1, :1], P0=eye)
    y = torch.randn(5, 1, dtype=torch.float64)
    twice = Kalman().smooth(model, Series(y.expand(5, 2)))
    once = Kalman().smooth(alone, Series(y))
    close(twice.log_likelihood, once.log_likelihood)
    close(twice.mean[:, 0], y[:, 0])
    close(twice.cov, once.cov)
    assert bool(twice.ill_conditioned) and not bool(once.ill_conditioned)
    contradiction = Kalman().log_likelihood(model, Series(torch.tensor([[1.0, 2.0]]).double()))
    assert float(contradiction) == -math.inf


def test_a_nonlinear_model_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="`Kalman` needs a linear-Gaussian model"):
        Kalman().filter(StateSpaceModel(), Series(torch.zeros(3, 1)))


def test_weighted_steps_and_second_derivatives_are_refused() -> None:
    model, y = make("constant")
    data = y.clone().requires_grad_()
    ll = Kalman().log_likelihood(model, Series(data))
    with pytest.raises(NotImplementedError, match="different weights"):
        (ll * torch.arange(7)).sum().backward()
    with pytest.raises(NotImplementedError, match="can be taken once"):
        torch.autograd.grad(ll.sum(), data, create_graph=True)


def test_the_autograd_backend_refuses_a_diffuse_start() -> None:
    model, y = make("all diffuse")
    with pytest.raises(NotImplementedError, match="needs a proper start"):
        Kalman(backend="autograd").log_likelihood(model, Series(y))


@pytest.mark.parametrize("diffuse", [0, 2])
def test_steady_gains_give_the_same_answers(diffuse: int) -> None:
    model, y = long_series(diffuse)
    filtered = Kalman().filter(model, Series(y))
    assert torch.equal(filtered.cov[60], filtered.cov[65])  # the shortcut was taken
    assert not torch.equal(filtered.cov[60], filtered.cov[73])
    close(filtered.log_likelihood.sum(), oracles.log_likelihood(model.given, y).sum())
    smoothed, expected = Kalman().smooth(model, Series(y)), oracles.smooth(model.given, y)
    assert torch.equal(smoothed.cov[40], smoothed.cov[41])
    close(smoothed.mean, expected.mean)
    close(smoothed.cov, expected.cov)
    close(smoothed.cross_cov, expected.cross_cov)


def test_steady_gains_give_the_same_gradient() -> None:
    model, y = long_series()
    leaves = [x.clone().requires_grad_() for x in (y, *tensors_of(model.given))]
    grads = []
    for backend in ("sequential", "autograd"):
        changed = Given(rebuilt(model.given, tuple(leaves[1:])))
        ll = Kalman(backend=backend).log_likelihood(changed, Series(leaves[0]))  # type: ignore[arg-type]
        grads.append(torch.autograd.grad(ll.sum(), leaves))
    for ours, theirs in zip(*grads, strict=True):
        square = ours.ndim > 1 and ours.shape[-1] == ours.shape[-2]
        close(*[(g + g.mT) / 2 if square else g for g in (ours, theirs)], atol=1e-8)


@pytest.mark.parametrize("name", ["constant", "time-varying", "rank-1 Q"])
def test_series_that_share_their_gaps_equal_each_alone(name: str) -> None:
    """37 series fill two blocks and a part of a third."""
    model, _ = make(name, time=30)
    y = torch.randn(37, 30, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y[:, 5:8, 0], y[:, 20] = math.nan, math.nan
    weights = torch.linspace(0.5, 2.0, 37, dtype=torch.float64)
    answers = []
    for split in (False, True):
        leaves = [x.clone().requires_grad_() for x in (y, *tensors_of(model.given))]
        given = Given(rebuilt(model.given, tuple(leaves[1:])))
        parts = [leaves[0][i] for i in range(37)] if split else [leaves[0]]
        method, series = Kalman(), [Series(part) for part in parts]
        ll = torch.cat([method.log_likelihood(given, x).sum(-1).reshape(-1) for x in series])
        grads = torch.autograd.grad((weights * ll).sum(), leaves)
        results = [(method.filter(given, x), method.smooth(given, x)) for x in series]
        flat = [torch.cat([getattr(r, f).reshape(-1) for r, _ in results]) for f in r_fields(0)]
        flat += [torch.cat([getattr(r, f).reshape(-1) for _, r in results]) for f in r_fields(1)]
        answers.append((ll, *grads, *flat))
    for batched, alone in zip(*answers, strict=True):
        close(batched, alone, atol=1e-8)


def r_fields(which: int) -> tuple[str, ...]:
    filtered = ("mean", "cov", "predicted_mean", "predicted_cov", "log_likelihood")
    return filtered if which == 0 else ("mean", "cov", "cross_cov", "log_likelihood")


def test_many_states_with_gaps_leave_no_underflow() -> None:
    """Fourteen states, some deterministic: eliminations shrink remainders below representable."""
    parameters = oracles.random_linear_gaussian(14, 1, 25, 3, process_rank=2, diffuse=3)
    y = torch.randn(25, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    y[4:7] = math.nan
    smoothed = Kalman().smooth(Given(parameters), Series(y))
    expected = oracles.smooth(parameters, y)
    close(smoothed.mean, expected.mean, atol=1e-7)
    close(smoothed.cov, expected.cov, atol=1e-7)
