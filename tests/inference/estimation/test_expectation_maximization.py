"""EM against maximum likelihood, closed forms and its own promise never to go down."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroParam, PyroSample
from torch import Tensor, nn
from torch.distributions import constraints

import deepssm as ds
from deepssm.core.model import Series
from deepssm.inference.estimation.expectation_maximization import ExpectationMaximization
from deepssm.inference.estimation.maximum_likelihood import MaximumLikelihood
from deepssm.inference.kalman.method import Kalman
from deepssm.models import LinearGaussian, LocalLevel

from ... import oracles

NAMES = ("A", "Q", "C", "R", "B", "D", "b", "d", "m0", "P0")


def values(seed: int = 0) -> dict[str, Any]:
    (m0, P0, _), (A, b, Q), (C, d, R) = oracles.random_linear_gaussian(2, 2, 1, seed)
    g = torch.Generator().manual_seed(seed)
    B, D = torch.randn(2, 2, 1, generator=g, dtype=torch.float64)
    parts = (A[0], Q[0], C[0], R[0], B, D, b[0], d[0], m0, P0)
    return dict(zip(NAMES, parts, strict=True))


def model(free: str, **changes: Any) -> LinearGaussian:  # noqa: ANN401
    """A generic model whose matrices named in `free` are learnt."""
    arguments: dict[str, Any] = values() | changes
    for name in free.split():
        if name in ("Q", "R", "P0"):
            arguments[name] = PyroParam(arguments[name], constraints.positive_definite)
        else:
            arguments[name] = nn.Parameter(arguments[name])
    return LinearGaussian(**arguments)


def data(time: int = 60, seed: int = 5) -> Series:
    """Two series drawn from another model of the same sizes, so that its noise is identified."""
    g = torch.Generator().manual_seed(seed)
    u = torch.randn(2, time, 1, generator=g, dtype=torch.float64)
    truth = LinearGaussian(**values(seed=8))
    draws = [
        oracles.sample(truth.linear_parameters(u[i], None), time, seed=seed + i)[1]
        for i in range(2)
    ]
    return Series(oracles.punch_holes(torch.stack(draws), 0.25, seed), u)


def em(model: Any, series: Series, **kwargs: Any) -> Any:  # noqa: ANN401
    return ExpectationMaximization(**kwargs).fit(model, series, progress=False)


@pytest.mark.parametrize("free", ["Q R", "A b", "C D", "B d", "A Q R b", "m0"])
def test_the_maximum_of_the_likelihood_is_a_fixed_point(free: str) -> None:
    """A wrong moment, gap or input would push the parameters off the stationary point."""
    learnt = model(free)
    MaximumLikelihood(Kalman(), curvature_limit=0).fit(learnt, data(), progress=False)
    before = {name: getattr(learnt, name).detach().clone() for name in NAMES}
    em(learnt, data(), max_iterations=2, tolerance=-1.0)
    for name in NAMES:
        torch.testing.assert_close(getattr(learnt, name).detach(), before[name], rtol=0, atol=2e-5)


def test_no_step_goes_down_with_everything_free() -> None:
    learned = em(model(" ".join(NAMES)), data(), max_iterations=40)
    values = torch.tensor([record["objective"] for record in learned.history])
    assert len(values) == 40 and (values.diff() > -1e-9).all()
    assert values[-1] - values[0] > 10
    assert any("Not converged after 40 iterations" in text for text in learned.warnings)


@pytest.mark.parametrize("free", ["R", "Q", "A", "C", "b", "d", "B D", "m0 P0", "A b", "C D"])
def test_only_the_free_matrices_move_and_upwards(free: str) -> None:
    learnt = model(free)
    learned = em(learnt, data(), max_iterations=4)
    assert learned.objective > learned.history[0]["objective"] + 1e-3
    start = values()
    moved = {
        name for name in NAMES if not torch.allclose(getattr(learnt, name).detach(), start[name])
    }
    assert moved == set(free.split())


def test_frozen_parameters_stay() -> None:
    learnt = model("A R")
    learnt.A.requires_grad_(False)
    em(learnt, data(), max_iterations=20)
    torch.testing.assert_close(learnt.A.detach(), values()["A"])
    assert not torch.allclose(learnt.R.detach(), values()["R"])


def test_gaps_of_a_static_model_reach_the_likelihoods_maximum() -> None:
    """No state: EM is the textbook one for a normal sample with missing components."""
    y = data(100).y[0]
    zero = torch.zeros(2, 1, dtype=torch.float64)
    arguments: dict[str, Any] = dict(m0=[0.0], P0=[[0.0]])
    R = PyroParam(torch.eye(2, dtype=torch.float64), constraints.positive_definite)
    d = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    learnt = LinearGaussian([[0.0]], [[0.0]], zero, R, d=d, **arguments)
    learned = em(learnt, Series(y), tolerance=1e-13)
    assert learned.diagnostics["gradient_norm"] < 1e-6


def test_diagonal_noise_stays_diagonal_and_optimal() -> None:
    y = torch.nan_to_num(data(100).y[0])
    zero = torch.zeros(2, 1, dtype=torch.float64)
    R = PyroParam(torch.eye(2, dtype=torch.float64), constraints.positive_definite)
    learnt = LinearGaussian([[0.0]], [[0.0]], zero, R, m0=[0.0], P0=[[0.0]])
    em(learnt, Series(y), diagonal=("R",))
    torch.testing.assert_close(learnt.R.detach(), torch.diag(y.square().mean(0)))


def test_a_diffuse_start_is_allowed() -> None:
    """The Nile by EM: Durbin & Koopman (2012), sections 2.10 and 7.3.4."""
    datasets = pytest.importorskip("statsmodels.datasets")
    y = torch.tensor(datasets.nile.load_pandas().data["volume"].values).double()[:, None]
    Q, R = (
        PyroParam(torch.tensor([[x]], dtype=torch.float64), constraints.positive)
        for x in (3000.0, 10000.0)
    )
    learnt = LinearGaussian([[1.0]], Q, [[1.0]], R, initial="diffuse")
    em(learnt, Series(y), tolerance=1e-12)
    assert learnt.R.item() == pytest.approx(15098.52, rel=1e-3)
    assert learnt.Q.item() == pytest.approx(1469.18, rel=1e-3)


def test_a_covariance_that_becomes_singular_ends_it_with_a_warning() -> None:
    """Constant data leave nothing for the noise."""
    y = torch.zeros(20, 2, dtype=torch.float64)
    zero = torch.zeros(2, 1, dtype=torch.float64)
    R = PyroParam(torch.eye(2, dtype=torch.float64), constraints.positive_definite)
    learned = em(LinearGaussian([[0.0]], [[0.0]], zero, R, m0=[0.0], P0=[[0.0]]), Series(y))
    assert any("`R` has become singular" in text for text in learned.warnings)


def test_what_has_no_closed_form_is_refused_by_name() -> None:
    prior = dist.Normal(torch.zeros(2).double(), 1.0).to_event(1)
    with pytest.raises(ValueError, match="needs a `LinearGaussian`, got LocalLevel"):
        em(LocalLevel(), data())
    with pytest.raises(ValueError, match="`b` has a prior"):
        em(model("A", b=PyroSample(prior)), data())
    bounded = PyroParam(values()["b"].tanh(), constraints.interval(-1.0, 1.0))
    with pytest.raises(ValueError, match="`b` has the constraint Interval"):
        em(model("A", b=bounded), data())
    with pytest.raises(ValueError, match="`C` varies in time"):
        em(model("A", C=values()["C"].expand(60, 2, 2)), data())
    tied = model("A")
    tied.C = tied.A
    with pytest.raises(ValueError, match="tied or additional parameters"):
        em(tied, data())
    stable = 0.5 * torch.eye(2, dtype=torch.float64)
    still = model("Q", A=stable, m0=None, P0=None, initial="stationary")
    with pytest.raises(ValueError, match='`initial="stationary"` ties the start'):
        em(still, data())


NILE = dict(A=[[1.0]], Q=[[1469.0]], C=[[1.0]], R=[[15098.0]], m0=[0.0], P0=[[0.0]])


def nile() -> Tensor:
    return torch.tensor(ds.data.nile().to_numpy()).double()[:, None]


def spd(value: float) -> PyroParam:
    return PyroParam(torch.tensor([[value]]).double(), constraints.positive_definite)


@pytest.mark.parametrize(
    ("name", "rest"),
    [
        ("m0", {}),
        ("b", {"Q": [[0.0]], "P0": [[1e6]]}),
        ("d", {"R": [[0.0]], "P0": [[1e6]], "m0": [1000.0]}),
    ],
)
def test_offsets_without_noise_are_least_squares(name: str, rest: dict[str, Any]) -> None:
    """Oracle: weighted least squares on the dense joint Gaussian of all observations."""

    def build(value: Any) -> LinearGaussian:  # noqa: ANN401
        return LinearGaussian(**(NILE | rest | {name: value}))

    y = nile()
    model = build(nn.Parameter(torch.zeros(1).double()))
    learned = ExpectationMaximization().fit(model, Series(y), progress=False)
    means, cov = [], None
    for value in (0.0, 1.0):
        mean, cov = oracles.joint_observation(build([value]).linear_parameters(None, None), y)
        means.append(mean)
    X, e = means[1] - means[0], y[:, 0] - means[0]
    white = torch.linalg.solve(cov, torch.stack([X, e], -1))
    expected = (X @ white[:, 1]) / (X @ white[:, 0])
    assert getattr(model, name).item() == pytest.approx(expected.item(), rel=1e-6)
    assert not learned.warnings


def test_noise_of_a_walk_seen_exactly_is_the_mean_square_of_its_steps() -> None:
    model = LinearGaussian(**(NILE | {"Q": spd(1.0), "R": [[0.0]], "P0": [[1e6]]}))
    ExpectationMaximization().fit(model, Series(nile()), progress=False)
    assert model.Q.item() == pytest.approx(nile().diff(dim=0).square().mean().item(), rel=1e-9)


@pytest.mark.parametrize(("name", "noise"), [("A", "Q"), ("C", "R")])
def test_regressions_without_noise_are_refused(name: str, noise: str) -> None:
    free = nn.Parameter(torch.ones(1, 1).double())
    model = LinearGaussian(**(NILE | {name: free, noise: [[0.0]]}))
    with pytest.raises(ValueError, match=f"`{name}` is to be learnt where `{noise}`"):
        ExpectationMaximization().fit(model, Series(nile()), progress=False)


@pytest.mark.parametrize(("q", "r"), [(1e-3, 1e5), (1e6, 1.0)])
def test_far_starts_reach_the_optimum(q: float, r: float) -> None:
    """Durbin & Koopman (2012), section 2.10."""
    model = LinearGaussian([[1.0]], spd(q), [[1.0]], spd(r), initial="diffuse")
    learned = ExpectationMaximization().fit(model, Series(nile()), progress=False)
    assert learned.objective == pytest.approx(-633.46456, abs=1e-4) and not learned.warnings


def test_dynamic_factors_reach_the_likelihoods_maximum() -> None:
    """Oracle: `MaximumLikelihood`; no step goes down, with gaps."""
    g = torch.Generator().manual_seed(1)
    truth = ds.models.DynamicFactor(3, 1, 2)
    y = ds.simulate(truth, 60, generator=g).y
    y[torch.rand(y.shape, generator=g) < 0.2] = torch.nan
    model, other = ds.models.DynamicFactor(3, 1, 2), ds.models.DynamicFactor(3, 1, 2)
    model.initialize_from(Series(y))
    learned = ExpectationMaximization(tolerance=1e-8).fit(model, Series(y), progress=False)
    best = MaximumLikelihood(Kalman()).fit(other, Series(y), progress=False)
    assert learned.objective == pytest.approx(best.objective, abs=2e-3)
    values = [record["objective"] for record in learned.history]
    assert min(b - a for a, b in zip(values, values[1:], strict=False)) > -1e-8
