from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from deepssm.core.model import Series, StateSpaceModel
from deepssm.inference.gaussian.filter import GaussianFilter
from deepssm.inference.gaussian.methods import Cubature, Extended, GaussHermite, Simplex, Unscented
from tests import oracles
from tests.nonlinear_models import CASE_4, NAN, Linear, case_4, matrix, observations, pendulum

RULES = [
    Extended(),
    Extended(iterations=3),
    Unscented(),
    Unscented(alpha=0.5, beta=2.0, kappa=1.0),
    Unscented(alpha=0.1, beta=2.0),
    Unscented(alpha=1.0, beta=0.0, kappa=-1.0),
    Unscented(iterations=3),
    Cubature(),
    Cubature(iterations=2),
    Simplex(),
    GaussHermite(3),
    GaussHermite(4, iterations=2),
]


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_published_numbers_of_the_generic_model(rule: GaussianFilter) -> None:
    model = case_4()
    smoothed = rule.smooth(model, Series(CASE_4))
    steps = matrix([[-2.5162437204, -1.2371375558, -1.3053137221, 0, -1.9578927784]])[0]
    torch.testing.assert_close(smoothed.log_likelihood[:5], steps, rtol=0, atol=1e-9)
    assert smoothed.log_likelihood[3] == 0
    assert abs(smoothed.log_likelihood.sum().item() + 9.215797658164472) < 1e-9
    expected = matrix([[1.2203282676, 0.0770074836], [1.2910067193, 0.4227929356]])
    torch.testing.assert_close(smoothed.mean[[0, 3]], expected, rtol=0, atol=1e-9)
    cov = matrix([[0.3030645178, -0.0597290228], [-0.0597290228, 0.2869227066]])
    torch.testing.assert_close(smoothed.cov[0], cov, rtol=0, atol=1e-9)
    cross = matrix([[0.2086549668, -0.0863491766], [-0.0552289632, 0.1521534353]]).mT
    torch.testing.assert_close(smoothed.cross_cov[1], cross, rtol=0, atol=1e-9)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_published_forecast_of_the_generic_model(rule: GaussianFilter) -> None:
    future = torch.full((3, 2), NAN, dtype=torch.float64)
    forecast = rule.forecast(case_4(), Series(torch.cat((CASE_4, future))), 3)
    mean = matrix(
        [[1.0844120452, 0.4703854587], [1.0566444413, 0.4378657696], [1.0301188777, 0.409694278]]
    )
    cov = matrix([[0.9640622563, 0.7094841679], [0.7094841679, 1.2299841558]])
    torch.testing.assert_close(forecast.mean, mean, rtol=0, atol=1e-9)
    torch.testing.assert_close(forecast.cov[0], cov, rtol=0, atol=1e-9)


def test_a_tiny_alpha_still_gives_the_exact_linear_answer() -> None:
    rule = Unscented(alpha=1e-3, beta=2.0)
    with pytest.warns(UserWarning, match="weight -1e\\+06 on the centre"):
        total = rule.log_likelihood(case_4(), Series(CASE_4)).sum().item()
    assert abs(total + 9.215797658164472) < 1e-9


@pytest.mark.parametrize("rule", [Extended(), Unscented(), GaussHermite(2)], ids=repr)
@pytest.mark.parametrize("ranks", [{}, {"process_rank": 1}, {"initial_rank": 1}, {"diffuse": 0}])
def test_linear_models_with_singular_noise(rule: GaussianFilter, ranks: dict[str, Any]) -> None:
    """Oracle: one dense joint Gaussian; time-varying matrices, a batch, gaps."""
    params = oracles.random_linear_gaussian(3, 2, 6, 1, batch=(2,), time_varying=True, **ranks)
    y = oracles.punch_holes(torch.randn(2, 6, 2, dtype=torch.float64), 0.3, seed=3)
    got, model = rule.smooth(Linear(params), Series(y)), Linear(params)
    expected = oracles.smooth(params, y)
    torch.testing.assert_close(got.mean, expected.mean, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(got.cov, expected.cov, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(got.cross_cov, expected.cross_cov, rtol=1e-8, atol=1e-9)
    likelihood = oracles.log_likelihood(params, y)
    torch.testing.assert_close(got.log_likelihood, likelihood, rtol=1e-9, atol=1e-9)
    filtered, known = rule.filter(model, Series(y)), oracles.filtered(params, y)
    torch.testing.assert_close(filtered.mean, known.mean, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(filtered.cov, known.cov, rtol=1e-8, atol=1e-9)
    predicted = oracles.predicted(params, y)
    torch.testing.assert_close(filtered.predicted_mean, predicted.mean, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(filtered.predicted_cov, predicted.cov, rtol=1e-8, atol=1e-9)
    assert not filtered.ill_conditioned.any()


def test_exact_observations_condition_exactly_and_are_flagged() -> None:
    """Two noiseless sensors of the same number: the second adds nothing."""
    params = oracles.random_linear_gaussian(3, 1, 5, 2, noise_rank=0)
    matrix, offset, cov = params.emission
    twice = params.emission._replace(
        matrix=torch.cat((matrix, matrix), -2),
        offset=torch.cat((offset, offset), -1),
        cov=cov.new_zeros(1, 2, 2),
    )
    y = oracles.sample(params, 5, 0)[1]
    once = Extended().smooth(Linear(params), Series(y))
    both = Linear(params._replace(emission=twice))
    doubled = Extended().smooth(both, Series(torch.cat((y, y), -1)))
    torch.testing.assert_close(doubled.mean, once.mean, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(doubled.cov, once.cov, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(doubled.log_likelihood, once.log_likelihood, rtol=1e-7, atol=1e-8)
    assert doubled.ill_conditioned.all()
    against = Extended().log_likelihood(both, Series(torch.cat((y, y + 1), -1)))
    assert torch.isneginf(against).all()


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_batch_equals_one_by_one_with_inputs_and_irregular_steps(rule: GaussianFilter) -> None:
    model = pendulum()
    y = oracles.punch_holes(observations(12, 3), 0.2, seed=1)
    u = torch.randn(3, 12, 1, dtype=torch.float64)
    dt = 0.02 + 0.05 * torch.rand(3, 12, dtype=torch.float64)
    together = rule.smooth(model, Series(y, u, dt))
    for i in range(3):
        alone = rule.smooth(model, Series(y[i], u[i], dt[i]))
        for got, expected in zip(together, alone, strict=True):
            torch.testing.assert_close(got[i], expected, rtol=1e-9, atol=1e-11)


def test_jacobians_of_the_taylor_rule() -> None:
    """Oracle: autograd's Jacobian, at one step of the textbook extended filter."""
    model, y = pendulum(), observations(2)
    f = lambda z: model.transition_function(z, None, None)  # noqa: E731
    h = lambda z: torch.sin(z[..., :1])  # noqa: E731
    m, P = model.m0, model.P0
    for t in range(2):
        if t:
            F = torch.autograd.functional.jacobian(f, m)
            m, P = f(m), F @ P @ F.mT + model.Q
        H = torch.autograd.functional.jacobian(h, m)
        S = H @ P @ H.mT + model.R
        K = P @ H.mT @ torch.linalg.inv(S)
        m, P = m + K @ (y[t] - h(m)), P - K @ S @ K.mT
    got = Extended().filter(model, Series(y))
    torch.testing.assert_close(got.mean[-1], m, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(got.cov[-1], P, rtol=1e-10, atol=1e-12)


def test_unscented_moments_are_the_textbooks() -> None:
    """Oracle: weights and points of Wan and van der Merwe, centre weight and all."""
    alpha, beta, kappa = 0.7, 1.5, 0.4
    rule = Unscented(alpha, beta, kappa).moments(2)
    mean, factor = matrix([[0.4, -0.3]])[0], matrix([[0.8, 0.0], [0.3, 0.5]])
    model = pendulum()
    step = rule(lambda z: model.transition(2 * torch.sin(z) ** 2), mean, factor, lambda x: x)

    n = 2
    lam = alpha**2 * (n + kappa) - n
    spread = math.sqrt(n + lam) * factor.mT
    points = torch.cat((mean[None], mean + spread, mean - spread))
    values = model.transition_function(2 * torch.sin(points) ** 2, None, None)
    wm = torch.full((5,), 0.5 / (n + lam), dtype=torch.float64)
    wc = wm.clone()
    wm[0], wc[0] = lam / (n + lam), lam / (n + lam) + 1 - alpha**2 + beta
    centre = (wm[:, None] * values).sum(0)
    error = values - centre
    cov = (wc[:, None, None] * error[:, :, None] * error[:, None, :]).sum(0) + model.Q
    cross = (wc[:, None, None] * (points - mean)[:, :, None] * error[:, None, :]).sum(0)
    torch.testing.assert_close(step.mean, centre, rtol=1e-12, atol=1e-13)
    got = step.slope @ step.slope.mT + step.spread @ step.spread.mT
    torch.testing.assert_close(got, cov, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(factor @ step.slope.mT, cross, rtol=1e-12, atol=1e-13)


def test_unscented_needs_a_downdate_only_where_the_textbook_may_be_indefinite() -> None:
    rule = Unscented(alpha=1.0, beta=0.0, kappa=-1.5).moments(2)
    mean, factor = torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)

    def squares(z: Tensor) -> torch.distributions.Distribution:
        return torch.distributions.Independent(torch.distributions.Normal(z.square(), 0.01), 1)

    with pytest.raises(ValueError, match="unscented covariance"):
        rule(squares, mean, factor, lambda x: x)


def test_hermite_is_exact_for_polynomials() -> None:
    """E[z^3] and E[z^4] of a correlated Gaussian, against the published moments."""
    mean, factor = matrix([[0.4, -0.3]])[0], matrix([[0.8, 0.0], [0.3, 0.5]])
    conditional = lambda z: torch.distributions.Independent(  # noqa: E731
        torch.distributions.Normal(torch.stack((z[..., 0] ** 3, z[..., 1] ** 4), -1), 1.0), 1
    )
    step = GaussHermite(3).moments(2)(conditional, mean, factor, lambda x: x)
    m, v = mean, (factor @ factor.mT).diagonal()
    third = m[0] ** 3 + 3 * m[0] * v[0]
    fourth = m[1] ** 4 + 6 * m[1] ** 2 * v[1] + 3 * v[1] ** 2
    torch.testing.assert_close(step.mean, torch.stack((third, fourth)), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("rule", [Extended(), Extended(iterations=3), Unscented()], ids=repr)
def test_every_parameter_is_learnable(rule: GaussianFilter) -> None:
    """Finite differences of the log-likelihood in physics, both noises and the start."""
    y = observations(8)
    y[3] = NAN

    def total(stiffness: Tensor, q: Tensor, r: Tensor, p0: Tensor, m0: Tensor) -> Tensor:
        model = pendulum(R=r * matrix([[1.0]]), P0=p0 * matrix([[0.2, 0.02], [0.02, 0.1]]))
        del model.transition_function.stiffness
        model.transition_function.stiffness = stiffness
        for name, value in (("Q", q * model.Q), ("R", r * model.R), ("P0", p0 * model.P0)):
            model._buffers[name] = value
        model._buffers["m0"] = m0
        return rule.log_likelihood(model, Series(y)).sum()

    start = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (9.0, 1.0, 1.0, 1)]
    m0 = torch.tensor([1.0, 0.1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(total, (*start, m0), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("rule", [Extended(), Unscented(), GaussHermite(3)], ids=repr)
def test_what_is_missing_changes_nothing_bit_for_bit(rule: GaussianFilter) -> None:
    model = pendulum(R=matrix([[0.1, 0.02], [0.02, 0.2]]))
    model.emission_function = lambda z, u: torch.stack((z[..., 0].sin(), z[..., 1]), -1)
    y = torch.cat((observations(6), observations(6, seed=1)), -1)
    y[2, 0] = NAN
    y[4] = NAN
    stiffness = model.transition_function.stiffness
    total = rule.log_likelihood(model, Series(y))
    (gradient,) = torch.autograd.grad(total.sum(), stiffness)
    assert total[4] == 0
    assert torch.isfinite(gradient)
    alone = pendulum(R=matrix([[0.2]]))
    alone.emission_function = lambda z, u: z[..., 1:]
    first = Series(y[:3].clone())
    first.y[:2] = NAN
    torch.testing.assert_close(
        rule.log_likelihood(model, first)[2],
        rule.log_likelihood(alone, Series(first.y[:, 1:]))[2],
        rtol=1e-12,
        atol=0,
    )


def test_posterior_paths_have_the_smoothed_moments() -> None:
    """20 000 paths; the chance that an exact sampler exceeds 5 standard errors is below 1e-4."""
    model, series = case_4(), Series(CASE_4)
    smoothed = Cubature().smooth(model, series)
    g = torch.Generator().manual_seed(0)
    paths = Cubature().sample_posterior(model, series, 20_000, g)
    centred = paths - smoothed.mean
    se = (smoothed.cov.diagonal(dim1=-2, dim2=-1) / 20_000).sqrt()
    assert (centred.mean(0).abs() < 5 * se).all()
    cov = torch.einsum("sti,stj->tij", centred, centred) / 20_000
    torch.testing.assert_close(cov, smoothed.cov, rtol=0.06, atol=0.01)
    cross = torch.einsum("sti,stj->tij", centred[:, 1:], centred[:, :-1]) / 20_000
    torch.testing.assert_close(cross, smoothed.cross_cov[1:], rtol=0.06, atol=0.01)
    again = Cubature().sample_posterior(model, series, 5, torch.Generator().manual_seed(0))
    once = Cubature().sample_posterior(model, series, 5, torch.Generator().manual_seed(0))
    assert torch.equal(again, once)


def test_forecast_samples_follow_the_model() -> None:
    """20 000 paths of the linear model; 5 standard errors, failure rate below 1e-4."""
    future = torch.full((3, 2), NAN, dtype=torch.float64)
    series = Series(torch.cat((CASE_4, future)))
    g = torch.Generator().manual_seed(1)
    forecast = Extended().forecast(case_4(), series, 3, num_samples=20_000, generator=g)
    assert forecast.samples is not None
    assert forecast.samples.shape == (20_000, 3, 2)
    se = (forecast.cov.diagonal(dim1=-2, dim2=-1) / 20_000).sqrt()
    assert ((forecast.samples.mean(0) - forecast.mean).abs() < 5 * se).all()


class Counts(StateSpaceModel):
    """A random walk seen through Poisson counts."""

    state_dim, obs_dim = 1, 1

    def initial(self) -> torch.distributions.Distribution:
        one = torch.ones(1, dtype=torch.float64)
        return torch.distributions.Independent(torch.distributions.Normal(one, one), 1)

    def transition(
        self, z: Tensor, u: Tensor | None = None, dt: Tensor | None = None
    ) -> torch.distributions.Distribution:
        noise = torch.full((1,), 0.1, dtype=z.dtype)
        return torch.distributions.Independent(torch.distributions.Normal(z, noise), 1)

    def emission(self, z: Tensor, u: Tensor | None = None) -> torch.distributions.Distribution:
        return torch.distributions.Independent(torch.distributions.Poisson(z.exp()), 1)


@pytest.mark.parametrize("rule", [Extended(), Unscented(), GaussHermite(5)], ids=repr)
def test_count_emissions_enter_by_mean_and_variance(rule: GaussianFilter) -> None:
    """Oracle for one step: moments of the log-normal rate, up to the accuracy of the rule."""
    y = torch.tensor([[3.0], [5.0]], dtype=torch.float64)
    got = rule.filter(Counts(), Series(y))
    assert torch.isfinite(got.log_likelihood).all()
    if isinstance(rule, GaussHermite):
        rate, second = math.exp(1.5), math.exp(2 + 2.0)
        S = second - rate**2 + rate
        mean = 1 + rate / S * (3 - rate)
        np.testing.assert_allclose(got.mean[0].item(), mean, rtol=2e-2)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Unscented(alpha=0.0), "`alpha` must be positive"),
        (lambda: Unscented(kappa=-2.0).moments(2), "`kappa` must be above"),
        (lambda: GaussHermite(1), "`order` must be 2 or more"),
        (lambda: GaussHermite(10).moments(8), "`order` 10 needs"),
    ],
)
def test_bad_options(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]


def test_a_diffuse_start_is_refused() -> None:
    model = Linear(oracles.random_linear_gaussian(2, 1, 3, 0, diffuse=1))
    with pytest.raises(ValueError, match="infinite variance in 1 direction"):
        Extended().filter(model, Series(torch.zeros(3, 1, dtype=torch.float64)))
