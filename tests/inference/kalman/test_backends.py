"""The batched Kalman backends against the dense Gaussian, the compiled loop and each other."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from deepssm.core.model import GaussianInitial, LinearConditional, LinearParameters, Series
from deepssm.inference import Kalman
from deepssm.inference.kalman import backends as backends
from deepssm.inference.kalman.parallel.adjoint import Run
from deepssm.linear import LinearSystem, Recurrence, View, chunked, convolved, looped, scanned
from deepssm.models import S4D, LinearGaussian
from tests import oracles
from tests.given import Given

from .batched import ENGINES, F64, Batched, check_engine, close, gradient, rebuilt

CONSTANT: dict[str, dict[str, Any]] = {
    "constant": {},
    "inputs": {"inputs": True},
    "batch of parameters": {"batch": (2,)},
    "rank-1 Q": {"process_rank": 1},
    "P0 = 0": {"initial_rank": 0},
    "singular Q, R and P0": {"process_rank": 2, "noise_rank": 1, "initial_rank": 1},
}
VARYING: dict[str, dict[str, Any]] = {
    "varying": {"time_varying": True},
    "Q = 0": {"process_rank": 0},
    "varying, rank-1 Q, P0 = 0": {"time_varying": True, "process_rank": 1, "initial_rank": 0},
    "varying, batch": {"time_varying": True, "batch": (2,)},
}
CASES: list[tuple[Batched, str]] = [
    *(("stationary", name) for name in CONSTANT),
    *(("scan", name) for name in CONSTANT | VARYING),
]


def make(name: str, time: int, *, obs: int = 2, series: int = 2) -> tuple[Given, Tensor]:
    """A model and series with gaps after which the gains are steady again, each elsewhere."""
    options = (CONSTANT | VARYING)[name]
    parameters = oracles.random_linear_gaussian(3, obs, time, 1, **options)
    y = 2 * torch.randn(series, time, obs, dtype=F64)
    y[..., time // 2, 0], y[..., time // 2 + 2, :] = math.nan, math.nan
    y[0, time // 2 + 3, 1], y[-1, time - 4 :] = math.nan, math.nan
    return Given(parameters), y


@pytest.mark.parametrize(("backend", "name"), CASES)
def test_likelihood_and_smoother_are_the_joint_gaussian(backend: Batched, name: str) -> None:
    model, y = make(name, 180 if backend == "stationary" else 30)
    check_engine(backend, model, y)
    smoothed, expected = Kalman(backend).smooth(model, Series(y)), oracles.smooth(model.given, y)
    close(smoothed.mean, expected.mean)
    close(smoothed.cov, expected.cov)
    close(smoothed.cross_cov, expected.cross_cov)
    close(smoothed.log_likelihood, oracles.log_likelihood(model.given, y))


@pytest.mark.parametrize(("backend", "name"), CASES)
def test_filter_and_gradient_equal_the_compiled_loop(backend: Batched, name: str) -> None:
    model, y = make(
        name, 200 if backend == "stationary" else 37, series=3 if "batch" not in name else 2
    )
    check_engine(backend, model, y)
    ours, theirs = (Kalman(b).filter(model, Series(y)) for b in (backend, "sequential"))
    for actual, expected in zip(ours, theirs, strict=True):
        close(actual.double(), expected.double())
    weight = torch.linspace(0.5, 2.0, len(y), dtype=F64)
    grads = [gradient(b, model, y, weight) for b in (backend, "sequential")]
    for actual, expected in zip(*grads, strict=True):
        close(actual, expected, 1e-9)


@pytest.mark.parametrize("backend", ENGINES)
def test_long_series_keep_their_digits(backend: Batched) -> None:
    """`Q` of rank 1, `P0 = 0`, gaps. From 10 000 steps on another loop would be compiled."""
    parameters = oracles.random_linear_gaussian(3, 2, 1, 1, process_rank=1, initial_rank=0)
    y = 10 * torch.randn(9_999, 2, dtype=F64)
    y[3_000:3_100], y[7_000, 0] = math.nan, math.nan
    check_engine(backend, model := Given(parameters), y)
    for verb in ("filter", "smooth"):
        results = [getattr(Kalman(b), verb)(model, Series(y)) for b in (backend, "sequential")]
        for actual, expected in zip(*results, strict=True):
            close(actual.double(), expected.double())


@pytest.mark.parametrize("backend", ENGINES)
def test_a_vague_start_far_from_the_data(backend: Batched) -> None:
    """Relative to their own deviations, since `P0` is 1e12 times the noise and the level 1e5."""
    A, one = torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=F64), torch.eye(1, dtype=F64)
    Q, P0 = torch.diag(torch.tensor([0.3, 0.1], dtype=F64)), 1e8 * torch.eye(2, dtype=F64)
    model = LinearGaussian(A, Q, A[:1] - A[1:], 1e-4 * one, P0=P0)
    y = 1e5 + torch.randn(200, 1, dtype=F64).cumsum(0)
    run = backends.start(backend, model.linear_parameters(None, None), y)
    assert isinstance(run, Run) and run.engine is ENGINES[backend]
    ours, theirs = (Kalman(b).smooth(model, Series(y)) for b in (backend, "sequential"))
    sd = theirs.cov.diagonal(dim1=-2, dim2=-1).sqrt()
    assert float(((ours.mean - theirs.mean) / sd).abs().max()) < 1e-6
    close(ours.cov, theirs.cov, 1e-7)
    close(ours.log_likelihood, theirs.log_likelihood, 1e-9)


@pytest.mark.parametrize("backend", ENGINES)
def test_steps_equal_the_differentiable_recursion(backend: Batched) -> None:
    model, y = make("constant", 200)
    ours, theirs = (Kalman(b).log_likelihood(model, Series(y)) for b in (backend, "autograd"))
    close(ours, theirs)


@pytest.mark.parametrize("backend", ENGINES)
def test_gradients_by_finite_differences(backend: Batched) -> None:
    """Covariances move as Gramians, so that they stay symmetric."""
    time = 80 if backend == "stationary" else 4
    start, transition, emission = oracles.random_linear_gaussian(2, 2, 1, 4)
    y = torch.randn(2, time, 2, dtype=F64)
    factors = [torch.linalg.cholesky(x) for x in (start.cov, transition.cov, emission.cov)]
    A, C = 0.2 * transition.matrix, emission.matrix
    leaves = [start.mean, A, transition.offset, C, emission.offset, *factors]
    y[0, time // 2, 0] = math.nan

    def total(*x: Tensor) -> Tensor:
        m, A, b, C, d, P, Q, R = x
        given = [y, m, P @ P.mT, A, b, Q @ Q.mT, C, d, R @ R.mT]
        model = Given(rebuilt(LinearParameters(start, transition, emission), given))
        check_engine(backend, model, y)
        return Kalman(backend).log_likelihood(model, Series(y)).sum()

    assert torch.autograd.gradcheck(total, [x.clone().requires_grad_() for x in leaves])


def test_steady_steps_refuse_a_model_that_varies() -> None:
    model, y = make("varying", 30)
    with pytest.raises(ValueError, match='`backend="stationary"` needs a model whose'):
        Kalman("stationary").filter(model, Series(y))


EYE = torch.eye(2, dtype=F64)
HANDED_OVER: dict[str, tuple[Batched, Any]] = {
    "transients fill the series": ("stationary", dict(A=0.95 * EYE, Q=EYE, C=EYE, R=EYE, P0=EYE)),
    "no steady state": ("stationary", dict(A=EYE, Q=0 * EYE, C=EYE, R=EYE, P0=EYE)),
    "unstable and unseen": ("stationary", dict(A=1.1 * EYE, Q=EYE, C=0 * EYE, R=EYE, P0=EYE)),
    "repeated sensor": ("scan", dict(A=EYE, Q=EYE, C=EYE[[0, 0]], R=0 * EYE, P0=EYE)),
    "repeated sensor, steady": (
        "stationary",
        dict(A=0.5 * EYE, Q=EYE, C=EYE[[0, 0]], R=0 * EYE, P0=EYE),
    ),
}


@pytest.mark.parametrize("name", HANDED_OVER)
def test_what_a_backend_cannot_do_goes_to_the_compiled_loop(name: str) -> None:
    backend, matrices = HANDED_OVER[name]
    model = LinearGaussian(**matrices)
    y = torch.randn(12, 2, dtype=F64)
    y[:, 1] = y[:, 0]
    ours, theirs = (Kalman(b).smooth(model, Series(y)) for b in (backend, "sequential"))
    assert all(torch.equal(x, y) for x, y in zip(ours, theirs, strict=True))
    sums = [Kalman(b).log_likelihood(model, Series(y)) for b in (backend, "sequential")]
    assert torch.equal(*sums)


@pytest.mark.parametrize("backend", ENGINES)
def test_skew_coordinates_go_to_the_compiled_loop(backend: Batched) -> None:
    """Units may be any; in coordinates of condition 1e6 products of steps lose their digits."""
    (m0, P0, _), (A, b, Q), (C, d, R) = oracles.random_linear_gaussian(3, 2, 1, 1)
    U, _, V = torch.linalg.svd(torch.randn(3, 3, dtype=F64))
    y, units = torch.randn(200, 2, dtype=F64), torch.diag(torch.tensor([1e3, 1.0, 1e-3]).double())
    for M, taken in ((units, True), (U @ units @ V, False)):
        back = torch.linalg.inv(M)
        turned = [(x + x.mT) / 2 for x in (M @ P0 @ M.mT, M @ Q @ M.mT)]
        start = GaussianInitial((M @ m0[:, None])[:, 0], turned[0], None)
        moved = LinearConditional(M @ A @ back, (M @ b[..., None])[..., 0], turned[1])
        emission = LinearConditional(C @ back, d, R)
        run = backends.start(backend, LinearParameters(start, moved, emission), y)
        assert (run is not None) == taken


def test_steps_that_are_all_equal_are_one_constant_model() -> None:
    """Entry 0 of the transition drives nothing, so it may differ."""
    model, y = make("constant", 200)
    start, transition, emission = model.given
    many = [x.expand(200, *x.shape[1:]).clone() for x in (*transition, *emission)]
    many[0][0] = math.nan
    leaves = [y, start.mean, start.cov, *many]
    varied = Given(rebuilt(model.given, leaves))
    check_engine("stationary", varied, y)
    ours = Kalman("stationary").smooth(varied, Series(y))
    close(ours.mean, Kalman("stationary").smooth(model, Series(y)).mean)
    weight = torch.ones(2, dtype=F64)
    grads = [gradient(b, varied, y, weight) for b in ("stationary", "scan")]
    for actual, expected in zip(*grads, strict=True):
        assert actual.shape == expected.shape
        close(actual, expected, 1e-9)


@pytest.mark.parametrize("backend", ENGINES)
def test_forecasts_and_draws(backend: Batched) -> None:
    """Draws: equal to those of the compiled loop with the same noise."""
    model, y = make("inputs", 160)
    y[..., -5:, :] = math.nan
    results = []
    for b in (backend, "sequential"):
        noise = torch.Generator().manual_seed(7)
        results.append(Kalman(b).forecast(model, Series(y), 5, 3, noise))
    for actual, expected in zip(*results, strict=True):
        close(actual, expected)


@pytest.mark.parametrize("backend", ENGINES)
def test_single_precision_in_and_out(backend: Batched) -> None:
    model, y = make("constant", 160)
    single = [x.float() for x in (model.given.initial.mean, model.given.initial.cov)]
    leaves = [y, *single, *(x.float() for part in model.given[1:] for x in part)]
    rounded = Given(rebuilt(model.given, leaves))
    results = [Kalman(b).smooth(rounded, Series(y.float())) for b in (backend, "sequential")]
    for actual, expected in zip(*results, strict=True):
        assert actual.dtype == expected.dtype
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", ENGINES)
def test_empty_series_and_weighted_steps(backend: Batched) -> None:
    model, y = make("constant", 160)
    method = Kalman(backend)
    assert method.log_likelihood(model, Series(y[:, :0])).shape == (2, 0)
    assert method.smooth(model, Series(y[:0])).mean.shape == (0, 160, 3)
    data = y.clone().requires_grad_()
    ll = method.log_likelihood(model, Series(data))
    with pytest.raises(NotImplementedError, match="different weights"):
        (ll * torch.arange(160)).sum().backward()
    with pytest.raises(NotImplementedError, match="can be taken once"):
        torch.autograd.grad(ll.sum(), data, create_graph=True)


def test_a_deep_layer_and_the_filter_call_the_same_function(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Proof by recording: `LinearSystem.apply` itself is replaced, and both arrive there."""
    calls: list[str] = []
    original = LinearSystem.apply

    def recording(self: LinearSystem, u: Tensor, *args: Any, **options: Any) -> Tensor:  # noqa: ANN401
        calls.append(type(self.structure).__name__)
        return original(self, u, *args, **options)

    layer, (model, _) = S4D(3, 4), make("constant", 160)
    u, y = torch.randn(2, 10, 3), torch.randn(160, 2, dtype=F64)
    expected = layer(u), Kalman("stationary").smooth(model, Series(y)).mean
    monkeypatch.setattr(LinearSystem, "apply", recording)
    torch.testing.assert_close(layer(u), expected[0])
    assert set(calls) == {"Diagonal"}
    calls.clear()
    torch.testing.assert_close(Kalman("stationary").smooth(model, Series(y)).mean, expected[1])
    assert calls == ["Dense", "Dense"]  # the filter, and its transpose for the smoother


@pytest.mark.parametrize("view", [looped, scanned, chunked, convolved])
def test_every_view_of_that_function_serves_the_filter(
    view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, y = make("rank-1 Q", 300)
    expected = Kalman("sequential").smooth(model, Series(y))
    used: list[int] = []

    def recording(recurrence: Recurrence, u: Tensor, z0: Tensor | None) -> Any:  # noqa: ANN401
        used.append(u.shape[-2])
        return view(recurrence, u, z0)

    monkeypatch.setattr(
        "deepssm.inference.kalman.parallel.stationary.view_for", lambda u: recording
    )
    monkeypatch.setattr(
        "deepssm.inference.kalman.parallel.stationary_smoother.view_for", lambda u: recording
    )
    actual = Kalman("stationary").smooth(model, Series(y))
    assert len(used) == 4 and sum(used) > 300  # two steady stretches, there and back
    close(actual.mean, expected.mean)
    close(actual.log_likelihood, expected.log_likelihood)


def test_auto_depends_on_the_device_and_the_model() -> None:
    """The choice alone: a GPU is not needed to know it."""
    stationary, scan = backends.STATIONARY, backends.SCAN
    assert backends.engines("auto", cuda=False, varying=False) == []
    assert backends.engines("auto", cuda=True, varying=False) == [stationary, scan]
    assert backends.engines("auto", cuda=True, varying=True) == [scan]
    assert backends.engines("stationary", cuda=False, varying=False) == [stationary]
    assert backends.engines("stationary", cuda=True, varying=False) == [stationary, scan]
    assert backends.engines("scan", cuda=False, varying=False) == [scan]
    assert backends.engines("sequential", cuda=True, varying=False) == []


@pytest.mark.gpu
@pytest.mark.parametrize(("backend", "name"), CASES)
def test_results_do_not_depend_on_the_device(backend: Batched, name: str) -> None:
    """Runs on the CPU too, where it only repeats itself."""
    model, y = make(name, 200)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    start, transition, emission = model.given
    leaves = [x.to(device) for x in (y, start.mean, start.cov, *transition, *emission)]
    moved = Given(rebuilt(model.given, leaves))
    expected = Kalman(backend).smooth(model, Series(y))
    for chosen in (backend, "auto") if "singular" not in name else (backend,):
        actual = Kalman(chosen).smooth(moved, Series(leaves[0]))
        for x, reference in zip(actual, expected, strict=True):
            assert x.device.type == device
            close(x.cpu().double(), reference.double())
        ll = Kalman(chosen).log_likelihood(moved, Series(leaves[0]))
        close(ll.cpu(), expected.log_likelihood)
