"""Steady states against scipy and closed forms; the filter as a system against a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from deepssm.linear import (
    View,
    adjoint_innovations,
    chunked,
    convolved,
    innovations,
    looped,
    lyapunov,
    scanned,
    steady_state,
)

F64 = torch.float64


def model(seed: int, n: int = 4, p: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A random observable model with spectral radius 0.95, full `R` and rank-deficient `Q`."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=F64, generator=generator)

    A = draw(n, n)
    A = 0.95 * A / torch.linalg.eigvals(A).abs().max()
    L, r = draw(n, n - 1), draw(p, p)
    return A, draw(p, n), L @ L.mT, r @ r.mT + 0.1 * torch.eye(p, dtype=F64)


def kalman(
    A: Tensor, C: Tensor, Q: Tensor, R: Tensor, b: Tensor, y: Tensor, m: Tensor, P: Tensor
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """Textbook filter that predicts before its first update."""
    means, covs, predicted, predicted_covs = [], [], [], []
    for t in range(len(y)):
        m, P = A @ m + b[t], A @ P @ A.mT + Q
        predicted.append(m)
        predicted_covs.append(P)
        K = P @ C.mT @ torch.linalg.inv(C @ P @ C.mT + R)
        m, P = m + K @ (y[t] - C @ m), P - K @ C @ P
        means.append(m)
        covs.append(P)
    return means, covs, predicted, predicted_covs


def test_steady_covariance_equals_scipy_on_100_systems() -> None:
    for seed in range(100):
        A, C, Q, R = model(seed, n=2 + seed % 5, p=1 + seed % 3)
        steady = steady_state(A, C, Q, R)
        expected = scipy.linalg.solve_discrete_are(A.mT, C.mT, Q, R)
        np.testing.assert_allclose(steady.cov, expected, atol=1e-10 * expected.max(), rtol=0)
        assert steady.converged


def test_batch_of_models_equals_one_by_one() -> None:
    models = [model(seed) for seed in range(3)]
    batched = steady_state(*(torch.stack(parts) for parts in zip(*models, strict=True)))
    for i, one in enumerate(models):
        torch.testing.assert_close(batched.cov[i], steady_state(*one).cov)


def test_nile_local_level_and_its_derivatives() -> None:
    """Closed form of the local level: `P = (q + sqrt(q^2 + 4 q r)) / 2`."""
    q = torch.tensor([[1469.1]], dtype=F64, requires_grad=True)
    r = torch.tensor([[15099.0]], dtype=F64, requires_grad=True)
    one = torch.ones(1, 1, dtype=F64)
    steady = steady_state(one, one, q, r)
    assert math.isclose(steady.cov.item(), 5501.2579418, rel_tol=1e-10)
    assert math.isclose(steady.gain.item(), 0.2670480126, rel_tol=1e-9)
    by_q, by_r = torch.autograd.grad(steady.cov, (q, r), create_graph=True)
    assert math.isclose(by_q.item(), 2.1608475066, rel_tol=1e-9)
    assert math.isclose(by_r.item(), 0.1541000642, rel_tol=1e-8)
    root = math.sqrt(1469.1**2 + 4 * 1469.1 * 15099)
    (second,) = torch.autograd.grad(by_r, r)
    assert math.isclose(second.item(), -2 * 1469.1**2 / root**3, rel_tol=1e-8)


def test_gradients_of_the_steady_state() -> None:
    A, C, Q, R = (x.requires_grad_() for x in model(3))

    def outputs(A: Tensor, C: Tensor, Q: Tensor, R: Tensor) -> tuple[Tensor, Tensor]:
        steady = steady_state(A, C, Q @ Q.mT, R @ R.mT)
        return steady.cov, steady.gain

    assert torch.autograd.gradcheck(outputs, (A, C, Q, R))


def test_weakly_observable_states_converge_by_doubling() -> None:
    """A plain recursion needs more than 20 000 steps here."""
    A = torch.tensor([[1.0, 1e-4], [0.0, 1.0]], dtype=F64)
    C = torch.tensor([[1.0, 0.0]], dtype=F64)
    Q, R = torch.diag(torch.tensor([0.0, 1e-12], dtype=F64)), torch.eye(1, dtype=F64)
    steady = steady_state(A, C, Q, R)
    again = A @ (steady.cov - steady.gain @ C @ steady.cov) @ A.mT + Q
    assert steady.converged
    torch.testing.assert_close(again, steady.cov, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("level", "noise", "seen"), [(1.0, 0.0, 1.0), (1.1, 1.0, 0.0), (1.0, 1.0, 0.0)]
)
def test_no_steady_state_is_reported(level: float, noise: float, seen: float) -> None:
    """A constant level is learnt ever better; an unseen level is known ever worse."""
    A, C, Q = (torch.tensor([[x]], dtype=F64) for x in (level, seen, noise))
    assert not steady_state(A, C, Q, torch.eye(1, dtype=F64)).converged


def test_singular_observation_noise_is_settled_where_the_state_moves() -> None:
    """Oracle: a plain recursion; one sensor has no noise, two share theirs."""
    A, C, Q, _ = model(0, p=3)
    for noise in (torch.diag(torch.tensor([0.0, 1.0, 2.0])), torch.ones(3, 3)):
        R = noise.double()
        P = Q
        for _ in range(1_000):
            P = A @ (P - P @ C.mT @ torch.linalg.solve(C @ P @ C.mT + R, C @ P)) @ A.mT + Q
        steady = steady_state(A, C, Q, R)
        assert steady.converged
        torch.testing.assert_close(steady.cov, P, rtol=1e-10, atol=1e-10)


def test_a_repeated_sensor_without_noise_is_refused() -> None:
    A, C, Q, _ = model(0)
    with pytest.raises(ValueError, match="`R \\+ C Q C'` must be positive definite"):
        steady_state(A, C[:1].expand(2, 4), Q, torch.zeros(2, 2, dtype=F64))


@pytest.mark.parametrize("view", [None, looped, scanned, chunked, convolved])
def test_steady_filter_and_smoother_are_linear_systems(view: View | None) -> None:
    A, C, Q, R = model(1)
    steady = steady_state(A, C, Q, R)
    filtered_cov = steady.cov - steady.gain @ C @ steady.cov
    m0, b, y = (torch.randn(*s, dtype=F64) for s in ((4,), (300, 4), (300, 2)))
    means, _, predicted, _ = kalman(A, C, Q, R, b, y, m0, filtered_cov)
    system = innovations(A, C, Q, R, offset=True)
    result, last = system.run(torch.cat([y, b], -1), m0, view=view)
    torch.testing.assert_close(result, torch.stack(means), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(last, means[-1], rtol=1e-11, atol=1e-11)

    smoothed = [means[-1]]
    J = filtered_cov @ A.mT @ torch.linalg.inv(steady.cov)
    for t in reversed(range(299)):
        smoothed.insert(0, means[t] + J @ (smoothed[0] - predicted[t + 1]))
    v = y - torch.stack(predicted) @ C.mT
    r = adjoint_innovations(A, C, Q, R).apply(v, reverse=True, view=view)[1:]
    costate = result[:-1] + r @ filtered_cov
    torch.testing.assert_close(costate, torch.stack(smoothed[:-1]), rtol=1e-11, atol=1e-11)


def test_filter_converges_to_the_system() -> None:
    A, C, Q, R = model(2)
    y, b = torch.randn(200, 2, dtype=F64), torch.zeros(200, 4, dtype=F64)
    start = torch.zeros(4, dtype=F64)
    means, _, _, covs = kalman(A, C, Q, R, b, y, start, 10 * torch.eye(4, dtype=F64))
    torch.testing.assert_close(covs[-1], steady_state(A, C, Q, R).cov, rtol=1e-10, atol=1e-10)
    later = innovations(A, C, Q, R).apply(y[100:], means[99])
    torch.testing.assert_close(later, torch.stack(means[100:]), rtol=1e-11, atol=1e-11)


def test_lyapunov_equals_scipy() -> None:
    A, _, Q, _ = model(5)
    expected = scipy.linalg.solve_discrete_lyapunov(A, Q)
    np.testing.assert_allclose(lyapunov(A, Q), expected, rtol=1e-11)
    assert not lyapunov(1.2 * A / 0.95, Q).isfinite().any()
