from __future__ import annotations

import pytest
import torch
from pyro.nn import PyroParam
from scipy import stats
from torch.distributions import constraints

from deepssm.core.model import Series
from deepssm.inference.estimation.maximum_likelihood import MaximumLikelihood
from deepssm.inference.gaussian.methods import Cubature, Extended, Unscented
from deepssm.inference.gaussian.robust import Gate, Huber, Robust, StudentT
from deepssm.models import LinearGaussian
from tests.nonlinear_models import CASE_4, NAN, case_4, observations, pendulum


@pytest.mark.parametrize("rule", [Extended, Unscented, Cubature])
def test_a_rejected_step_is_a_missing_step(rule: type[Extended]) -> None:
    y = CASE_4.clone()
    y[4] += 30.0
    gone = CASE_4.clone()
    gone[4] = NAN
    gated = rule(robust=Gate()).smooth(case_4(), Series(y))
    missing = rule().smooth(case_4(), Series(gone))
    for name, got, expected in zip(gated._fields, gated, missing, strict=True):
        if name != "log_likelihood":
            assert torch.equal(got, expected)
    trust = rule(robust=Gate()).trust(case_4(), Series(y))
    assert (trust[4] == 0).all()
    assert torch.equal(trust.isnan(), y.isnan())
    assert (trust[~trust.isnan()].sum() == 6).item()


LINE = 0.3 + torch.cat([-torch.logspace(6, -2, 2000), torch.logspace(-2, 6, 2000)]).double()


@pytest.mark.parametrize(
    "robust", [Gate(), Gate(0.9), Gate(0.5, separately=True), StudentT(), Huber()], ids=repr
)
@pytest.mark.parametrize("spread", [0.0, 0.7])
def test_every_score_is_that_of_a_density(robust: Robust, spread: float) -> None:
    """Oracle: the integral over all `y` by the trapezoidal rule; bounds stay below it."""
    model = LinearGaussian([[1.0]], [[0.1]], [[1.0]], [[1.0]], m0=[0.3], P0=[[spread]])
    y = Series(LINE[:, None, None])
    density = Extended(robust=robust).log_likelihood(model, y)[:, 0].exp()
    total = torch.trapezoid(density, LINE).item()
    assert total == pytest.approx(1.0, abs=1e-4) if isinstance(robust, Gate) else total < 1.0001
    if spread == 0.0:
        assert total == pytest.approx(1.0, abs=1e-4)


def test_two_components_have_a_density_too() -> None:
    """Oracle: the integral in polar coordinates, `2 pi r` times the radial density."""
    eye, zero = [[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]
    model = LinearGaussian(zero, zero, zero, eye, m0=[0.0, 0.0], P0=zero)
    r = torch.logspace(-3, 6, 4000).double()
    y = Series(torch.stack([0.6 * r, 0.8 * r], -1)[:, None])
    density = Unscented(robust=Gate(0.95)).log_likelihood(model, y)[:, 0].exp()
    total = torch.trapezoid(2 * torch.pi * r * density, r).item()
    assert total == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    "robust",
    [Gate(), *(pytest.param(x, marks=pytest.mark.slow) for x in (StudentT(), Huber()))],
    ids=repr,
)
def test_learning_through_doubt_does_not_reject_everything(robust: Robust) -> None:
    """Learnt from 40 clean readings, the noise is within a factor of 5 of its truth (seeded)."""
    g = torch.Generator().manual_seed(0)
    walk = 0.5 * torch.randn(40, 1, generator=g).double().cumsum(0)
    y = Series(walk + torch.randn(40, 1, generator=g).double())
    noise = PyroParam(torch.full((1, 1), 0.01).double(), constraints.positive)
    model = LinearGaussian([[1.0]], [[0.25]], [[1.0]], noise, m0=[0.0], P0=[[10.0]])
    method = Extended(robust=robust)
    MaximumLikelihood(method, max_iterations=12).fit(model, y, progress=False)
    assert 0.2 < model.R.item() < 5.0
    assert (method.trust(model, y) == 0).sum() <= 2


def test_a_running_filter_scores_what_it_rejects_as_the_batch_does() -> None:
    model = LinearGaussian([[1.0]], [[0.1]], [[1.0]], [[1.0]], m0=[0.0], P0=[[1.0]])
    method, y = Extended(robust=Gate()), [0.3, 25.0, -0.2]
    running = method.online(model)
    scores = []
    for t, value in enumerate(y):
        if t:
            running.predict()
        scores.append(running.update([value]))
    batch = method.log_likelihood(model, Series(torch.tensor(y).double()[:, None]))
    torch.testing.assert_close(torch.tensor(scores).double(), batch)
    assert batch[1] < -10


def test_the_gate_sits_at_the_chi_square_quantile() -> None:
    """Oracle: scipy's quantile of two degrees of freedom, straddled by a tiny step."""
    model = case_4()
    predicted = Extended().forecast(model, Series(torch.full((1, 2), NAN, dtype=torch.float64)), 1)
    direction = torch.linalg.cholesky(predicted.cov[0])[:, 1]
    edge = stats.chi2.ppf(0.95, 2) ** 0.5
    for factor, expected in ((1 - 1e-6, 1.0), (1 + 1e-6, 0.0)):
        y = predicted.mean + factor * edge * direction
        assert (Extended(robust=Gate(0.95)).trust(model, Series(y)) == expected).all()


def test_components_may_be_gated_by_themselves() -> None:
    y = CASE_4.clone()
    y[5, 1] += 30.0
    gone = CASE_4.clone()
    gone[5, 1] = NAN
    gated = Extended(robust=Gate(separately=True)).filter(case_4(), Series(y))
    missing = Extended().filter(case_4(), Series(gone))
    torch.testing.assert_close(gated.mean, missing.mean, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("robust", [StudentT(dof=1e9), Huber(threshold=1e9)])
def test_no_tails_no_difference(robust: Robust) -> None:
    plain, got = Extended(), Extended(robust=robust)
    torch.testing.assert_close(
        got.log_likelihood(case_4(), Series(CASE_4)),
        plain.log_likelihood(case_4(), Series(CASE_4)),
        rtol=1e-7,
        atol=1e-8,
    )


def test_student_t_is_the_fixed_point_of_mean_field() -> None:
    """Oracle: the two coupled mean-field equations for a scalar observation, iterated by hand."""
    model = pendulum()
    model.emission_function = lambda z, u: z[..., :1]
    y, dof, R = torch.tensor([[4.0]], dtype=torch.float64), 3.0, 0.1
    m, v, weight = 1.2, 0.2, 1.0
    for _ in range(200):
        gain = v / (v + R / weight)
        mean, var = m + gain * (4.0 - m), v - gain * v
        weight = (dof + 1) / (dof + ((4.0 - mean) ** 2 + var) / R)
    got = Extended(robust=StudentT(dof, iterations=200)).filter(model, Series(y))
    assert abs(got.mean[0, 0].item() - mean) < 1e-9
    trust = Extended(robust=StudentT(dof, iterations=200)).trust(model, Series(y))
    assert abs(trust.item() - weight) < 1e-9


def test_huber_minimises_its_loss() -> None:
    """Oracle: the scalar objective `(z-m)^2/2v + rho((y-z)/s)` on a fine grid."""
    model = pendulum()
    model.emission_function = lambda z, u: z[..., :1]
    y = torch.tensor([[4.0]], dtype=torch.float64)
    z = torch.linspace(0, 5, 500_001, dtype=torch.float64)
    far = ((4.0 - z) / 0.1**0.5).abs()
    k = 1.345
    loss = torch.where(far < k, far**2 / 2, k * far - k**2 / 2) + (z - 1.2) ** 2 / 0.4
    got = Extended(robust=Huber(k, iterations=200)).filter(model, Series(y)).mean[0, 0]
    assert abs(got - z[loss.argmin()]) < 2e-5


@pytest.mark.parametrize("robust", [Gate(), StudentT(), Huber()], ids=repr)
def test_outliers_hurt_less_and_batches_agree(robust: Robust) -> None:
    model = pendulum().requires_grad_(False)
    clean = observations(60, 2)
    y = clean.clone()
    y[:, 10::9] += 8.0
    y[0, 5] = NAN
    best = Cubature().filter(model, Series(clean)).mean
    error = (Cubature().filter(model, Series(y)).mean - best).square().mean()
    robust_filter = Cubature(robust=robust)
    got = robust_filter.filter(model, Series(y))
    assert (got.mean - best).square().mean() < 0.2 * error
    alone = robust_filter.filter(model, Series(y[1]))
    torch.testing.assert_close(got.mean[1], alone.mean, rtol=1e-9, atol=1e-11)
    trust = robust_filter.trust(model, Series(y))
    assert (trust[1, 10::9] < 0.3).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Gate(1.0), "`probability` must lie in"),
        (lambda: StudentT(0.0), "`dof` must be positive"),
        (lambda: Huber(-1.0), "`threshold` must be positive"),
    ],
)
def test_bad_options(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]
