"""Answers that must stay, or change by a known amount, when the question is restated."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import deepssm as ds
from deepssm.core.model import GaussianInitial, LinearConditional, LinearParameters
from tests import oracles
from tests.given import Given

N, P, TIME = 3, 3, 25


def make(seed: int = 3, *, gaps: float = 0.2) -> tuple[LinearParameters, Tensor]:
    """A time-varying model in generic position with offsets, and data with gaps."""
    params = oracles.random_linear_gaussian(N, P, TIME, seed, time_varying=True, inputs=True)
    y = oracles.sample(params, TIME, seed)[1]
    return params, oracles.punch_holes(y, gaps, seed)


def close(actual: Tensor, expected: Tensor, rtol: float = 1e-9, atol: float = 1e-11) -> None:
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


def test_state_similarity() -> None:
    """Other coordinates of the state: same likelihood, moments transformed."""
    params, y = make()
    start, (A, b, Q), (C, d, R) = params
    M = torch.randn(N, N, dtype=torch.float64)
    back = torch.linalg.inv(M)
    turned = LinearParameters(
        GaussianInitial(M @ start.mean, _even(M @ start.cov @ M.mT)),
        LinearConditional(M @ A @ back, (M @ b[..., None])[..., 0], _even(M @ Q @ M.mT)),
        LinearConditional(C @ back, d, R),
    )
    ours, theirs = ds.smooth(Given(params), y), ds.smooth(Given(turned), y)
    close(theirs.log_likelihood, ours.log_likelihood)
    close(theirs.mean, (M @ ours.mean[..., None])[..., 0])
    close(theirs.cov, M @ ours.cov @ M.mT)


@pytest.mark.parametrize("power", range(-8, 9, 2))
@pytest.mark.parametrize("gaps", [0.0, 0.3])
def test_units_of_the_data(power: int, gaps: float) -> None:
    """`y -> s y` moves the log-likelihood by `-log s` an observation, and nothing else."""
    s = 10.0**power
    params, y = make(gaps=gaps)
    start, (A, b, Q), (C, d, R) = params
    scaled = LinearParameters(
        GaussianInitial(s * start.mean, s * s * start.cov),
        LinearConditional(A, s * b, s * s * Q),
        LinearConditional(C, s * d, s * s * R),
    )
    ours, theirs = ds.smooth(Given(params), y), ds.smooth(Given(scaled), s * y)
    jacobian = math.log(s) * (~y.isnan()).sum(-1).double()
    base = float(ours.log_likelihood.sum())
    assert abs(float((theirs.log_likelihood + jacobian).sum()) - base) < 1e-9 * abs(base)
    close(theirs.mean / s, ours.mean)
    close(theirs.cov / s**2, ours.cov)
    assert not bool(theirs.ill_conditioned)


@pytest.mark.parametrize("order", [(0, 2, 1), (1, 2, 0), (2, 1, 0)])
def test_the_order_of_the_sensors(order: tuple[int, ...]) -> None:
    params, y = make()
    i = torch.tensor(order)
    C, d, R = params.emission
    turned = params._replace(emission=LinearConditional(C[:, i], d[:, i], R[:, i][:, :, i]))
    ours, theirs = ds.smooth(Given(params), y), ds.smooth(Given(turned), y[:, i])
    close(theirs.log_likelihood, ours.log_likelihood)
    close(theirs.mean, ours.mean)
    close(theirs.cov, ours.cov)


def test_the_order_of_the_sensors_of_a_long_steady_series() -> None:
    """Constant gains, and three sensors whose noises are correlated."""
    params = oracles.random_linear_gaussian(2, 3, 1, 5)
    y = oracles.sample(params, 120, 5)[1]
    i = torch.tensor([2, 0, 1])
    C, d, R = params.emission
    turned = params._replace(emission=LinearConditional(C[:, i], d[:, i], R[:, i][:, :, i]))
    ours, theirs = ds.filter(Given(params), y), ds.filter(Given(turned), y[:, i])
    close(theirs.log_likelihood, ours.log_likelihood)
    close(theirs.mean, ours.mean)


def test_rows_of_one_step_as_steps_of_their_own() -> None:
    """Decorrelate `R = M D M'`, then take one row a step with nothing happening in between."""
    params, y = make(gaps=0.0)
    start, (A, b, Q), (C, d, R) = params
    factor = torch.linalg.cholesky(R)
    scale = factor.diagonal(dim1=-2, dim2=-1)
    M = factor / scale[..., None, :]
    rows = torch.linalg.solve_triangular(M, torch.cat((C, (y - d)[..., None]), -1), upper=False)
    still = torch.eye(N, dtype=torch.float64).repeat(TIME * P, 1, 1)
    A3, b3, Q3 = still, torch.zeros(TIME * P, N).double(), torch.zeros(TIME * P, N, N).double()
    A3[::P], b3[::P], Q3[::P] = A, b, Q
    split = LinearParameters(
        start,
        LinearConditional(A3, b3, Q3),
        LinearConditional(
            rows[..., :N].reshape(-1, 1, N),
            torch.zeros(1, 1).double(),
            scale.square().reshape(-1, 1, 1),
        ),
    )
    ours, theirs = (
        ds.smooth(Given(params), y),
        ds.smooth(Given(split), rows[..., N].reshape(-1, 1)),
    )
    close(theirs.log_likelihood.reshape(TIME, P).sum(-1), ours.log_likelihood)
    close(theirs.mean[::P], ours.mean)
    close(theirs.mean[P - 1 :: P], ours.mean)
    close(theirs.cov[::P], ours.cov, atol=1e-10)


def test_padding_before_and_after() -> None:
    """Unobserved steps after the data change nothing; before it they move the start."""
    params, y = make()
    start, (A, b, Q), emission = params
    late = params._replace(
        transition=LinearConditional(*(torch.cat((x, x[:4])) for x in (A, b, Q))),
        emission=LinearConditional(*(torch.cat((x, x[:4])) for x in emission)),
    )
    padded = torch.cat((y, torch.full((4, P), math.nan, dtype=y.dtype)))
    ours, theirs = ds.smooth(Given(params), y), ds.smooth(Given(late), padded)
    assert torch.equal(theirs.log_likelihood[:TIME], ours.log_likelihood)
    assert torch.equal(theirs.log_likelihood[TIME:], torch.zeros(4, dtype=y.dtype))
    close(theirs.mean[:TIME], ours.mean, rtol=1e-12)


def test_a_missing_row_is_a_deleted_row() -> None:
    """To 1e-12: values, and the gradient by what remains."""
    params, y = make(gaps=0.0)
    y[:, 1] = math.nan
    keep = torch.tensor([0, 2])
    C, d, R = params.emission
    without = params._replace(
        emission=LinearConditional(C[:, keep], d[:, keep], R[:, keep][:, :, keep])
    )
    ours, theirs = ds.smooth(Given(params), y), ds.smooth(Given(without), y[:, keep])
    close(theirs.log_likelihood, ours.log_likelihood, 1e-12, 1e-12)
    close(theirs.mean, ours.mean, 1e-12, 1e-12)
    close(theirs.cov, ours.cov, 1e-12, 1e-12)


def test_the_payload_of_a_missing_entry_reaches_nothing() -> None:
    """Parameters of a masked row may be anything: value and gradient stay the same bits."""
    params, y = make(gaps=0.0)
    y[4], y[9, 1] = math.nan, math.nan
    results = []
    for payload in (0.0, 1e6, -3e150):
        C, d, R = (x.clone() for x in params.emission)
        C[4], d[4], R[4] = payload, payload, abs(payload) * torch.eye(P).double()
        C[9, 1], d[9, 1] = payload, payload
        leaves = [params.transition.matrix.clone().requires_grad_(), C.requires_grad_()]
        given = params._replace(
            transition=params.transition._replace(matrix=leaves[0]),
            emission=LinearConditional(leaves[1], d, R),
        )
        data = y.clone().requires_grad_()
        ll = ds.log_likelihood(Given(given), data)
        results.append((ll.detach(), *torch.autograd.grad(ll.sum(), [*leaves, data])))
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(other, results[0], strict=True))
    assert not bool(results[0][2][4].any()) and not bool(results[0][3][4].any())


def test_chunks_through_an_online_state() -> None:
    """Save, load and go on: the same filter as in one go."""
    params = oracles.random_linear_gaussian(N, P, 1, 8)
    y = oracles.punch_holes(oracles.sample(params, 30, 8)[1], 0.2, 8)
    model = ds.models.LinearGaussian(
        params.transition.matrix[0], params.transition.cov[0], params.emission.matrix[0],
        params.emission.cov[0], b=params.transition.offset[0], d=params.emission.offset[0],
        m0=params.initial.mean, P0=params.initial.cov,
    )  # fmt: skip
    whole = ds.filter(model, y)
    first = ds.online(model)
    for t in range(12):
        if t > 0:
            first.predict()
        first.update(y[t])
    second = ds.online(model)
    second.load_state_dict(first.state_dict())
    for t in range(12, 30):
        second.predict()
        assert abs(second.update(y[t]) - float(whole.log_likelihood[t])) < 1e-10
        close(second.mean, whole.mean[t])
        close(second.cov, whole.cov[t])


def test_a_batch_of_series_is_its_series() -> None:
    """Whatever the neighbours: same gaps, other gaps, a hundred of them."""
    params = oracles.random_linear_gaussian(N, P, 1, 9)
    y = torch.stack([oracles.sample(params, 40, seed)[1] for seed in range(20)])
    y[3:7] = oracles.punch_holes(y[3:7], 0.2, 9)
    together = ds.smooth(Given(params), y)
    for i in range(0, 20, 3):
        alone = ds.smooth(Given(params), y[i])
        close(together.log_likelihood[i], alone.log_likelihood, 1e-12, 1e-12)
        close(together.mean[i], alone.mean, 1e-12, 1e-12)
        close(together.cov[i], alone.cov, 1e-12, 1e-12)


def test_time_reversal_of_a_stationary_model() -> None:
    """The reversed series under the reversed chain `A~ = P A' P^-1` has the same likelihood."""
    rng = np.random.default_rng(4)
    A = torch.from_numpy(rng.normal(size=(N, N)))
    A = 0.8 * A / torch.linalg.eigvals(A).abs().max()
    params = oracles.random_linear_gaussian(N, P, 1, 4)
    Q, (C, d, R) = params.transition.cov[0], params.emission
    forward = ds.models.LinearGaussian(A, Q, C[0], R[0], d=d[0], initial="stationary")
    cov = forward.linear_parameters(None, None).initial.cov
    turned = cov @ A.mT @ torch.linalg.inv(cov)
    noise = _even(cov - turned @ cov @ turned.mT)
    backward = ds.models.LinearGaussian(turned, noise, C[0], R[0], d=d[0], initial="stationary")
    y = oracles.punch_holes(torch.from_numpy(rng.normal(size=(30, P))), 0.2, 1)
    ours, theirs = ds.smooth(forward, y), ds.smooth(backward, y.flip(0))
    close(theirs.log_likelihood.sum(), ours.log_likelihood.sum())
    close(theirs.mean.flip(0), ours.mean, atol=1e-9)
    close(theirs.cov.flip(0), ours.cov, atol=1e-9)


def _even(x: Tensor) -> Tensor:
    return (x + x.mT) / 2
