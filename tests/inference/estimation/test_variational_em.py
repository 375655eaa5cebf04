from __future__ import annotations

import itertools
import math

import pytest
import torch
from pyro.distributions import Normal
from pyro.nn import PyroParam, PyroSample
from torch import Tensor, nn
from torch.distributions import constraints

import deepssm as ds
from deepssm.core.model import Series
from deepssm.inference.discrete.switching_bound import smooth_states, whiten_all
from deepssm.inference.discrete.switching_statistics import expected_density
from deepssm.inference.estimation.variational_em import VariationalEM
from deepssm.models.discrete.switching import SwitchingLinearGaussian
from deepssm.models.gaussian.linear_gaussian import LinearGaussian
from tests import oracles
from tests.nonlinear_models import NAN, case_4, matrix
from tests.switching_models import data, drawn, exact, path_parameters, random_mode, two_modes


def gappy(model: SwitchingLinearGaussian, time: int, seed: int) -> Tensor:
    y = drawn(model, time, seed)
    y[2, 0] = y[3] = NAN
    return y


@pytest.mark.parametrize("seed", range(3))
def test_the_bound_is_below_all_histories_and_near(seed: int) -> None:
    """Oracle: the sum over all 64 paths of modes, each one dense Gaussian."""
    model = two_modes()
    y = gappy(model, 6, seed)
    q = VariationalEM().posterior(model, Series(y))
    total = exact(model, y)["total"]
    assert total - 1.5 < q.bound < total


def test_the_bound_is_exact_where_modes_do_not_matter() -> None:
    """Equal modes: the posterior factorises, and the bound is the likelihood."""
    model = SwitchingLinearGaussian(
        [random_mode(1), random_mode(1)], transition=matrix([[0.9, 0.1], [0.3, 0.7]])
    )
    y = data(6)
    y[2, 1] = y[4] = NAN
    q = VariationalEM().posterior(model, Series(y))
    parameters = path_parameters(model, (0,) * 6)
    expected = oracles.smooth(parameters, y)
    torch.testing.assert_close(q.bound, oracles.log_likelihood(parameters, y).sum())
    torch.testing.assert_close(q.states.mean, expected.mean)
    torch.testing.assert_close(q.states.cov, expected.cov)
    torch.testing.assert_close(q.states.cross_cov, expected.cross_cov)


def dense_posterior(
    model: SwitchingLinearGaussian, y: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the mean of the best `q(z)` and its normaliser: one dense quadratic, summed up."""
    (mean, cov, _), (A, b, Q), (C, d, R) = model.mode_parameters(None, None)
    time, n = len(y), mean.shape[-1]
    precision = torch.zeros(time * n, time * n, dtype=torch.float64)
    linear, constant = precision[0].clone(), precision[0, 0].clone()

    def add(rows: Tensor, gap: Tensor, noise: Tensor, weight: Tensor) -> None:
        """Add `weight * log N(gap; rows z, noise)`."""
        nonlocal precision, linear, constant
        inverse = weight * torch.linalg.inv(noise)
        precision = precision + rows.mT @ inverse @ rows
        linear = linear + rows.mT @ inverse @ gap
        logs = torch.logdet(noise) + len(gap) * math.log(2 * math.pi)
        constant = constant - 0.5 * (gap @ inverse @ gap + weight * logs)

    eye = torch.eye(time * n, dtype=torch.float64).reshape(time, n, -1)
    for t, k in itertools.product(range(time), range(2)):
        seen = ~torch.isnan(y[t])
        observation = (y[t] - d[0, k])[seen]
        add(C[0, k][seen] @ eye[t], observation, R[0, k][seen][:, seen], weight[t, k])
        if t == 0:
            add(eye[0], mean[k], cov[k], weight[0, k])
        else:
            add(eye[t] - A[0, k] @ eye[t - 1], b[0, k], Q[0, k], weight[t, k])
    found = torch.linalg.solve(precision, linear)
    total = 0.5 * linear @ found - 0.5 * torch.logdet(precision) + constant
    return found.reshape(time, n), total + 0.5 * time * n * math.log(2 * math.pi)


def test_states_are_the_best_given_any_modes() -> None:
    """Oracle: the averaged log-density as one dense quadratic, without any recursion."""
    model = two_modes()
    y = gappy(model, 7, 0)
    weight = torch.softmax(data(7, seed=3), -1)
    parameters = model.mode_parameters(None, None)
    rows = whiten_all(parameters, ~torch.isnan(y))
    states, total = smooth_states(model, rows, parameters.initial, Series(y), weight)
    mean, expected = dense_posterior(model, y, weight)
    torch.testing.assert_close(states.mean, mean)
    torch.testing.assert_close(total, expected)


def mode_of(model: SwitchingLinearGaussian, k: int) -> LinearGaussian:
    mode = model.modes[k]
    assert isinstance(mode, LinearGaussian)
    return mode


def unknown(seed: int, ties: bool = False) -> SwitchingLinearGaussian:
    """Two linear motions to be learnt, seen through three instruments."""
    g = torch.Generator().manual_seed(seed)
    eye = torch.eye(3, dtype=torch.float64)
    H = matrix([[1.0, 0.3], [-0.2, 1.0], [0.5, -0.7]])
    modes = []
    for _ in range(2):
        noise = torch.randn(2, 2, generator=g, dtype=torch.float64)
        A = nn.Parameter(0.9 * eye[:2, :2] + 0.1 * noise)
        Q = PyroParam(0.2 * eye[:2, :2], constraints.positive_definite)
        R = PyroParam(0.3 * eye, constraints.positive_definite)
        start = {"m0": [0.0, 0.0], "P0": eye[:2, :2]}
        modes.append(LinearGaussian(A, Q, H, R, b=nn.Parameter(eye.new_zeros(2)), **start))
    if ties:
        modes[1].R_unconstrained = modes[0].R_unconstrained
    return SwitchingLinearGaussian(modes)


def rotations() -> SwitchingLinearGaussian:
    model = unknown(0)
    with torch.no_grad():
        for k, (angle, push) in enumerate(((0.5, 0.3), (-0.25, -0.3))):
            mode = mode_of(model, k)
            s, c = 0.98 * math.sin(angle), 0.98 * math.cos(angle)
            mode.A.data.copy_(matrix([[c, -s], [s, c]]))
            mode.b = nn.Parameter(torch.tensor([push, 0.1], dtype=torch.float64))
            mode.Q = 0.05 * torch.eye(2, dtype=torch.float64)
            mode.R = 0.1 * torch.eye(3, dtype=torch.float64)
        model.transition_logits.copy_(matrix([[0.97, 0.03], [0.05, 0.95]]).log())
    return model


def test_it_recovers_the_modes_of_two_rotations() -> None:
    """From random starts; the bound never fell and lies above that of the truth."""
    truth = rotations()
    z, y = ds.simulate(truth, 120, generator=torch.Generator().manual_seed(0))
    y[40:43] = y[70, 1] = NAN
    model = unknown(1, ties=True)
    method = VariationalEM(starts=2, max_iterations=12)
    fit = ds.fit(model, y, method=method, progress=False)
    bound = torch.tensor([record["objective"] for record in fit.learned.history])
    assert (bound.diff() > -1e-7).all()
    assert bound[-1] == fit.learned.objective
    assert bound[-1] > bound[0] + 10
    assert bound[-1] > VariationalEM().posterior(truth, Series(y)).bound
    assert fit.learned.diagnostics["log_likelihood"] > bound[-1]
    first = method.posterior(model, Series(y)).modes[..., 0] > 0.5
    right = (first == (z[:, 0] > 0.5)).double().mean().item()
    assert max(right, 1 - right) > 0.95
    assert model.modes[0].R_unconstrained is model.modes[1].R_unconstrained


def test_the_expected_density_has_the_slope_of_the_bound() -> None:
    """Envelope: at the best `q` its gradient is that of the bound, here by differences."""
    model = unknown(2)
    y = drawn(rotations(), 12, 0)
    y[3, 0] = y[5] = NAN
    method = VariationalEM(tolerance=1e-15, max_iterations=500)
    q = method.posterior(model, Series(y))
    with torch.no_grad():
        density = expected_density(model.mode_parameters(None, None), y, q)
    places = list(model.parameters())
    slopes = torch.autograd.grad(density.log_likelihood(model, Series(y)).sum(), places)
    for place, slope in zip(places, slopes, strict=True):
        flat, h = place.data.view(-1), 1e-4
        ends = []
        for step in (h, -h):
            flat[-1] += step
            ends.append(method.posterior(model, Series(y)).bound)
            flat[-1] -= step
        torch.testing.assert_close(
            (ends[0] - ends[1]) / (2 * h), slope.reshape(-1)[-1], rtol=1e-4, atol=1e-5
        )


def test_inputs_time_varying_laws_batches_and_frozen_parameters() -> None:
    """Moments summed over time or kept: the same step; frozen matrices stay."""
    model = unknown(3)
    mode = mode_of(model, 0)
    driven = LinearGaussian(
        mode.A, mode.Q, mode.C, mode.R, B=nn.Parameter(matrix([[0.1], [0.0]])),
        m0=[0.0, 0.0], P0=matrix([[1.0, 0.0], [0.0, 1.0]]),
    )  # fmt: skip
    other = SwitchingLinearGaussian([driven, mode_of(model, 1)])
    driven.A.requires_grad_(False)
    before = driven.A.clone()
    y, u = drawn(rotations(), 60, 1).reshape(2, 30, 3), data(30, 2)[..., :1]
    y[1, 25:] = NAN
    learned = VariationalEM(max_iterations=15).fit(other, Series(y, u), progress=False)
    bound = torch.tensor([record["objective"] for record in learned.history])
    assert (bound.diff() > -1e-7).all()
    assert torch.equal(driven.A, before)
    assert driven.B.abs().max() > 0.01
    constant = VariationalEM().posterior(other, Series(y, torch.zeros_like(u)))
    plain = SwitchingLinearGaussian(
        [LinearGaussian(driven.A, driven.Q, driven.C, driven.R, m0=[0.0, 0.0], P0=driven.P0),
         mode_of(model, 1)],
        transition=other.log_transition().detach().exp(),
        initial=other.log_initial().detach().exp(),
    )  # fmt: skip
    again = VariationalEM().posterior(plain, Series(y))
    torch.testing.assert_close(constant.bound, again.bound)


def test_a_prior_joins_the_bound() -> None:
    """A sharp prior holds an offset where the data, left alone, do not put it."""
    y, ends = drawn(rotations(), 40, 2), []
    for sd in (1e-4, 1e2):
        model = unknown(4)
        mode = mode_of(model, 0)
        mean = torch.tensor([1.0, -1.0], dtype=torch.float64)
        prior = PyroSample(Normal(mean, sd).to_event(1))
        held = LinearGaussian(mode.A, mode.Q, mode.C, mode.R, b=prior, m0=mode.m0, P0=mode.P0)
        other = SwitchingLinearGaussian([held, mode_of(model, 1)])
        learned = VariationalEM(max_iterations=8).fit(other, Series(y), progress=False)
        bound = torch.tensor([record["objective"] for record in learned.history])
        assert (bound.diff() > -1e-7).all()
        ends.append((held.b - mean).abs().max())
    assert ends[0] < 1e-4
    assert ends[1] > 0.1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: VariationalEM().fit(case_4(), Series(data(3))), "needs a `SwitchingLinear"),
        (lambda: VariationalEM().posterior(case_4(), Series(data(3))), "needs a `SwitchingLinear"),
        (
            lambda: VariationalEM().posterior(noiseless(), Series(data(3))),
            "`Q` must be invertible in every mode",
        ),
    ],
)
def test_errors_say_what_to_do(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]


def noiseless() -> SwitchingLinearGaussian:
    mode = random_mode(1)
    still = LinearGaussian(mode.A, 0 * mode.Q, mode.C, mode.R, m0=mode.m0, P0=mode.P0)
    return SwitchingLinearGaussian([mode, still])
