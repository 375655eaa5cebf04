"""Maximum likelihood against books, closed forms and the dense joint Gaussian."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroParam, PyroSample
from torch import Tensor, nn
from torch.distributions import constraints

from deepssm.api.defaults import default_method
from deepssm.core.model import Series
from deepssm.inference.estimation.maximum_likelihood import MaximumLikelihood
from deepssm.inference.estimation.objective import Objective
from deepssm.inference.estimation.standard_errors import hessian
from deepssm.inference.kalman.method import Kalman
from deepssm.models import Cycle, LinearGaussian, LocalLevel, LocalLinearTrend, Seasonal

from ... import oracles


def nile() -> Tensor:
    datasets = pytest.importorskip("statsmodels.datasets")
    return torch.tensor(datasets.nile.load_pandas().data["volume"].values).double()[:, None]


def white_noise(size: int = 200) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return 3 + 2 * torch.randn(size, 1, generator=generator, dtype=torch.float64)


def static(R: object, d: object = 0.0) -> LinearGaussian:
    """Independent `N(d, R)` observations: every answer is known in closed form."""
    zero = [[0.0]]
    d = torch.tensor([d], dtype=torch.float64) if isinstance(d, float) else d
    return LinearGaussian(zero, zero, zero, R, d=d, m0=[0.0], P0=zero)  # type: ignore[arg-type]


def positive(value: float) -> PyroParam:
    start = torch.tensor([[value]], dtype=torch.float64)
    return PyroParam(start, constraints.positive)


def real(value: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor([value], dtype=torch.float64))


def fit(model: object, y: Tensor, **kwargs: object):  # noqa: ANN201
    kwargs = {"inference": default_method(model)} | kwargs  # type: ignore[arg-type]
    return MaximumLikelihood(**kwargs).fit(model, Series(y), progress=False)  # type: ignore[arg-type]


def test_nile_reaches_the_true_optimum() -> None:
    """Durbin & Koopman (2012), section 2.10; peers stop at 15078 or 15067.6."""
    model = LocalLevel()
    learned = fit(model, nile())
    assert model.noise_variance.item() == pytest.approx(15098.5196, rel=1e-6)
    assert model.level_variance.item() == pytest.approx(1469.1760, rel=1e-6)
    assert learned.objective == pytest.approx(-633.4645636, abs=1e-7)
    assert learned.diagnostics["gradient_norm"] < 1e-9
    # Two variances and the diffuse level, as statsmodels counts: 1272.9291, 1280.7446.
    assert learned.diagnostics["aic"] == pytest.approx(2 * 3 + 2 * 633.4645636)
    assert learned.diagnostics["bic"] == pytest.approx(3 * math.log(100) + 2 * 633.4645636)
    assert not learned.warnings


def test_result_does_not_depend_on_the_units_of_the_data() -> None:
    """Scaling `y` by c scales variances by c^2 and shifts the likelihood by -(N - 1) log c."""
    small, large = LocalLevel(), LocalLevel()
    one, two = fit(small, nile()), fit(large, 1e-3 * nile())
    assert large.level_variance.item() == pytest.approx(1e-6 * small.level_variance.item(), 1e-6)
    assert two.objective == pytest.approx(one.objective + 99 * math.log(1e3), abs=1e-6)


def test_normal_sample_has_its_closed_form_maximum_and_errors() -> None:
    y = white_noise()
    model = static(positive(1.0), real(0.0))
    learned = fit(model, y)
    mean, variance = y.mean().item(), y.var(correction=0).item()
    assert model.d.item() == pytest.approx(mean, rel=1e-7)
    assert model.R.item() == pytest.approx(variance, rel=1e-7)
    errors = learned.standard_errors
    assert errors["d"].item() == pytest.approx(math.sqrt(variance / 200), rel=1e-5)
    assert errors["R"].item() == pytest.approx(variance * math.sqrt(2 / 200), rel=1e-5)


def test_missing_values_do_not_count() -> None:
    y = white_noise()
    gaps = torch.cat([y, torch.full((57, 1), torch.nan, dtype=torch.float64)])
    one, two = static(positive(1.0), real(0.0)), static(positive(1.0), real(0.0))
    first, second = fit(one, y), fit(two, gaps)
    assert one.R.item() == pytest.approx(two.R.item(), rel=1e-9)
    assert first.diagnostics["bic"] == pytest.approx(second.diagnostics["bic"], rel=1e-9)


def test_full_covariance_by_the_delta_method() -> None:
    """The maximum is the sample covariance, and Var(R_ij) = (R_ii R_jj + R_ij^2) / N."""
    factor = torch.tensor([[1.0, 0.0], [0.8, 0.5]], dtype=torch.float64)
    noise = torch.randn(300, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = noise @ factor.mT
    start = torch.eye(2, dtype=torch.float64)
    zero = torch.zeros(2, 1, dtype=torch.float64)
    R = PyroParam(start, constraints.positive_definite)
    model = LinearGaussian([[0.0]], [[0.0]], zero, R, m0=[0.0], P0=[[0.0]])
    learned = fit(model, y)
    expected = y.mT @ y / 300
    torch.testing.assert_close(model.R, expected, rtol=1e-6, atol=1e-8)
    diagonal = expected.diagonal()
    variance = (diagonal[:, None] * diagonal + expected.square()) / 300
    torch.testing.assert_close(learned.standard_errors["R"], variance.sqrt(), rtol=1e-4, atol=0)
    assert learned.diagnostics["num_parameters"] == 3


def test_hessian_is_that_of_the_dense_joint() -> None:
    """Second differences of the oracle's likelihood, which shares no recursion with ours."""
    model, y = LocalLevel(0.5, noise_variance=None), oracles.punch_holes(white_noise(12), 0.2, 0)
    objective = Objective(model, Series(y), Kalman())
    at = objective.vector()
    ours = hessian(objective, at)[0, 0]
    values = []
    for shift in (-1e-3, 0.0, 1e-3):
        objective.assign(at + shift)
        values.append(-oracles.log_likelihood(model.linear_parameters(), y).sum().item())
    assert ours == pytest.approx((values[0] - 2 * values[1] + values[2]) / 1e-6, rel=1e-4)


@pytest.mark.parametrize("prefix", ["", "trend."])
def test_a_variance_at_zero_is_said_and_the_others_keep_their_errors(prefix: str) -> None:
    """On the Nile the slope does not move; the level model is nested in it."""
    season = Seasonal(2, variance=0.0)
    model = LocalLinearTrend() + season if prefix else LocalLinearTrend()
    learned = fit(model, nile())
    name = f"{prefix}slope_variance"
    assert any(f"`{name}` sits at its bound 0" in text for text in learned.warnings)
    assert learned.standard_errors[name].isnan()
    assert learned.standard_errors["noise_variance"].item() > 0


def test_too_few_iterations_are_said() -> None:
    learned = fit(LocalLinearTrend() + Cycle(), nile(), max_iterations=1)
    assert any("Not converged" in text and "1 iterations" in text for text in learned.warnings)


def test_frozen_parameters_stay_and_fixed_ones_are_not_counted() -> None:
    model = LocalLinearTrend(slope_variance=0.0)
    model.level_variance = torch.tensor(1000.0, dtype=torch.float64)
    model.level_variance_unconstrained.requires_grad_(False)
    learned = fit(model, nile())
    assert model.level_variance.item() == pytest.approx(1000.0)
    assert set(learned.standard_errors) == {"noise_variance"}
    assert learned.diagnostics["num_parameters"] == 1


def test_tied_parameters_move_together() -> None:
    """Two independent channels with one variance: its maximum is the pooled mean square."""
    y = torch.cat([white_noise(100), 2 * white_noise(100)], -1)

    class Tied(LinearGaussian):
        def linear_parameters(self, u: Tensor | None, dt: Tensor | None):  # noqa: ANN202
            params = super().linear_parameters(u, dt)
            return params._replace(
                emission=params.emission._replace(cov=self.scale * params.emission.cov)
            )

    zero = torch.zeros(2, 1, dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    model = Tied([[0.0]], [[0.0]], zero, eye, m0=[0.0], P0=[[0.0]])
    model.scale = PyroParam(torch.tensor(1.0, dtype=torch.float64), constraints.positive)
    model.alias = nn.Module()
    model.alias.same = model.scale_unconstrained
    learned = fit(model, y)
    scale: Tensor = model.scale  # type: ignore[assignment]
    assert scale.item() == pytest.approx(y.square().mean().item(), rel=1e-7)
    assert learned.diagnostics["num_parameters"] == 1


def test_a_prior_makes_it_the_posterior_maximum() -> None:
    """Normal mean with a normal prior: precision-weighted mean, posterior sd as standard error."""
    y = white_noise(20)
    prior = dist.Normal(torch.tensor([0.0]).double(), torch.tensor([0.5]).double()).to_event(1)
    model = static([[4.0]], PyroSample(prior))
    learned = fit(model, y)
    precision = 20 / 4 + 1 / 0.25
    assert model.d.item() == pytest.approx((y.sum() / 4).item() / precision, rel=1e-8)
    assert learned.standard_errors["d"].item() == pytest.approx(precision**-0.5, rel=1e-5)
    total = learned.diagnostics["log_likelihood"] + learned.diagnostics["log_prior"]
    assert learned.objective == pytest.approx(total)


def test_a_prior_on_a_variance_counts_in_constrained_space() -> None:
    """Inverse gamma prior: the mode of the posterior is (b + S/2) / (a + N/2 + 1)."""
    y = white_noise(30)
    prior = dist.InverseGamma(
        torch.full((1, 1), 3.0, dtype=torch.float64), torch.full((1, 1), 5.0, dtype=torch.float64)
    ).to_event(2)
    model = static(PyroSample(prior), 3.0)
    fit(model, y)
    expected = (5.0 + 0.5 * (y - 3).square().sum().item()) / (3.0 + 15 + 1)
    assert model.R.item() == pytest.approx(expected, rel=1e-7)


def test_non_finite_values_are_walls_not_ends() -> None:
    """A likelihood that is NaN beyond a point must not stop the climb towards its maximum."""

    class Fragile(Kalman):
        def log_likelihood(self, model: object, series: Series) -> Tensor:
            value = super().log_likelihood(model, series)  # type: ignore[arg-type]
            return torch.where(model.R[0, 0] > 6.0, torch.nan, value)  # type: ignore[attr-defined]

    y = white_noise()
    model = static(positive(0.01), 3.0)
    learned = fit(model, y, inference=Fragile())
    assert model.R.item() == pytest.approx((y - 3).square().mean().item(), rel=1e-6)
    assert learned.diagnostics["gradient_norm"] < 1e-6


def test_several_starts_find_the_better_of_two_optima() -> None:
    """`y ~ N(cos-like two-well mean)`: the single start ends in the worse well."""

    class Wells(LinearGaussian):
        def linear_parameters(self, u: Tensor | None, dt: Tensor | None):  # noqa: ANN202
            params = super().linear_parameters(u, dt)
            x = self.x
            offset = (0.3 * (x + 1.2) ** 2 * (x - 1) ** 2 + 0.1 * (x - 1) ** 2)[None]
            return params._replace(emission=params.emission._replace(offset=offset))

    def model() -> Wells:
        wells = Wells([[0.0]], [[0.0]], [[0.0]], [[1.0]], m0=[0.0], P0=[[0.0]])
        wells.x = real(-1.3)
        return wells

    y = torch.zeros(50, 1, dtype=torch.float64)
    one, many = model(), model()
    fit(one, y)
    generator = torch.Generator().manual_seed(0)
    MaximumLikelihood(Kalman(), starts=8).fit(many, Series(y), progress=False, generator=generator)
    assert one.x.item() < 0 and many.x.item() == pytest.approx(1.0, abs=1e-2)


def test_series_of_a_batch_share_or_own_their_parameters() -> None:
    y = torch.stack([nile(), 2 * nile().flip(0)])
    shared, own = LocalLevel(), LocalLevel(series_shape=(2,))
    fit(shared, y)
    fit(own, y)
    assert own.level_variance[0].item() == pytest.approx(1469.1760, rel=1e-5)
    assert shared.level_variance.shape == ()


def test_many_parameters_come_without_standard_errors() -> None:
    learned = fit(LocalLevel(), nile(), curvature_limit=1)
    assert learned.standard_errors == {}
    assert any("`curvature_limit` = 1" in text for text in learned.warnings)


def test_an_infinite_start_is_an_error() -> None:
    model = LocalLevel(level_variance=0.0)
    model.noise_variance = torch.tensor(0.0)
    with pytest.raises(ValueError, match="not finite at the starting values"):
        fit(model, white_noise(5), initialize=False)


def test_a_method_without_gradient_is_an_error() -> None:
    class Blind(Kalman):
        def log_likelihood(self, model: object, series: Series) -> Tensor:
            return super().log_likelihood(model, series).detach()  # type: ignore[arg-type]

    with pytest.raises(ValueError, match="does not depend differentiably"):
        fit(LocalLevel(), white_noise(5), inference=Blind())


def test_errors_from_the_scores_are_those_of_statsmodels() -> None:
    """statsmodels 0.15.0, `UnobservedComponents(nile, "llevel")` at the optimum: `cov_type`
    `"opg"`, `"approx"` and `"robust"`; a Kalman recursion by hand gives the same robust ones."""
    opg = fit(LocalLevel(), nile(), errors="opg").standard_errors
    assert opg["noise_variance"].item() == pytest.approx(2590.09328615, rel=1e-5)
    assert opg["level_variance"].item() == pytest.approx(846.45083404, rel=1e-5)
    hessian_errors = fit(LocalLevel(), nile()).standard_errors
    assert hessian_errors["noise_variance"].item() == pytest.approx(3145.5475, rel=1e-5)
    assert hessian_errors["level_variance"].item() == pytest.approx(1280.3751, rel=1e-5)
    robust = fit(LocalLevel(), nile(), errors="robust").standard_errors
    assert robust["noise_variance"].item() == pytest.approx(2575.48197, rel=1e-5)
    assert robust["level_variance"].item() == pytest.approx(782.89453, rel=1e-5)


@pytest.mark.parametrize("errors", ["hessian", "opg", "robust"])
def test_all_errors_agree_on_a_large_right_sample(errors: str) -> None:
    """5 % of 40 000 draws of a normal variance: far beyond chance."""
    generator = torch.Generator().manual_seed(1)
    y = 2 * torch.randn(200, 200, 1, generator=generator, dtype=torch.float64)
    model = static(positive(1.0))
    found = fit(model, y, errors=errors).standard_errors["R"].item()
    assert found == pytest.approx(4 * (2 / 40_000) ** 0.5, rel=0.05)


def test_only_robust_errors_see_heavy_tails() -> None:
    """A variance has the variance `(kurtosis - 1) sigma^4 / n`: 5 for Laplace draws, 2 for normal
    ones."""
    generator = torch.Generator().manual_seed(2)
    u = torch.rand(100, 200, 1, generator=generator, dtype=torch.float64) - 0.5
    y = -u.sign() * (1 - 2 * u.abs()).log()
    normal = fit(static(positive(1.0)), y).standard_errors["R"].item()
    robust = fit(static(positive(1.0)), y, errors="robust").standard_errors["R"].item()
    assert robust / normal == pytest.approx((5 / 2) ** 0.5, rel=0.1)


@pytest.mark.parametrize(("r", "q"), [(1e-3, 1e3), (1e5, 1e-3), (1.0, 1e6), (1e-12, 1e-12)])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_far_starts_reach_the_optimum(r: float, q: float, batch: tuple[int, ...]) -> None:
    """Durbin & Koopman (2012), section 2.10: -633.4646 wherever a variance began."""
    model = LocalLevel(series_shape=batch)
    for name, value in (("noise_variance", r), ("level_variance", q)):
        setattr(model, name, torch.full(batch, value, dtype=torch.float64))
    y = nile().expand(*batch, 100, 1).clone()
    learned = fit(model, y, initialize=False)
    assert learned.objective == pytest.approx(-633.4645636 * max(1, len(batch) * 2), abs=1e-5)


def test_one_observation_identifies_nothing_and_is_at_no_bound() -> None:
    learned = fit(LocalLevel(), torch.tensor([[0.4]]).double())
    assert not any("bound" in text for text in learned.warnings)
    assert any("do not identify" in text for text in learned.warnings)


def test_a_parameter_without_influence_spoils_no_other_error() -> None:
    model, alone = LocalLevel(), fit(LocalLevel(), nile())
    model.spare = nn.Parameter(torch.zeros((), dtype=torch.float64))
    learned = fit(model, nile())
    assert learned.standard_errors["spare"].isnan()
    for name, error in alone.standard_errors.items():
        torch.testing.assert_close(learned.standard_errors[name], error, rtol=1e-5, atol=0)
    assert any("`spare`" in text for text in learned.warnings)


class HidesNoise(Kalman):
    """Scores of the right value, whose gradient by the noise is lost."""

    def log_likelihood(self, model: object, series: Series) -> Tensor:
        steps = super().log_likelihood(model, series)  # type: ignore[arg-type]
        if not torch.is_grad_enabled():
            return steps
        level = model.level_variance_unconstrained  # type: ignore[attr-defined]
        (slope,) = torch.autograd.grad(steps.sum(), level)
        return steps.detach() + slope.detach() * (level - level.detach()) / len(steps)


def test_a_likelihood_that_hides_a_parameter_is_refused() -> None:
    with pytest.raises(ValueError, match="differentiably on `noise_variance`"):
        fit(LocalLevel(), nile(), inference=HidesNoise())


def test_float32_models_converge() -> None:
    y = nile().float() / 100
    zero = torch.zeros(1, 1)
    model = LinearGaussian(
        PyroParam(torch.tensor([[0.5]]).double(), constraints.interval(0.0, 1.0)),
        PyroParam(torch.ones(1, 1).double(), constraints.positive),
        torch.ones(1, 1), torch.ones(1, 1), d=nn.Parameter(torch.zeros(1).double()),
        m0=torch.zeros(1), P0=zero,
    ).float()  # fmt: skip
    learned = fit(model, y)
    assert not any("Not converged" in text for text in learned.warnings)


@pytest.mark.parametrize("count", [0, -1, 1.5])
def test_counts_of_iterations_are_checked(count: float) -> None:
    with pytest.raises(ValueError, match="`max_iterations`.*`MaximumLikelihood"):
        fit(LocalLevel(), nile(), max_iterations=count)
