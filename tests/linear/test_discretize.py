"""Discretization rules and the noise between two times, against scipy and closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
import torch

from deepssm.linear.discretize import (
    Bilinear,
    Dirac,
    Discretization,
    ZeroOrderHold,
    relative_expm1,
    van_loan,
)

F64 = torch.float64


def legs(n: int) -> torch.Tensor:
    k = torch.arange(n, dtype=F64)
    root = (2 * k + 1).sqrt()
    return -torch.tril(root[:, None] * root, -1) - torch.diag(k + 1)


@pytest.mark.parametrize(
    ("rule", "name", "alpha"),
    [
        (ZeroOrderHold(), "zoh", None),
        (Bilinear(), "bilinear", None),
        (Bilinear(0.0), "euler", None),
        (Bilinear(1.0), "backward_diff", None),
        (Bilinear(0.3), "gbt", 0.3),
    ],
)
def test_dense_rules_equal_scipy(rule: Discretization, name: str, alpha: float | None) -> None:
    A, B = legs(8), torch.randn(8, 2, dtype=F64)
    continuous = (A.numpy(), B.numpy(), np.eye(8), np.zeros((8, 2)))
    expected: Any = scipy.signal.cont2discrete(continuous, 0.01, name, alpha=alpha)
    transition, gain = rule.dense(A, torch.tensor(0.01, dtype=F64))
    np.testing.assert_allclose(transition, expected[0], atol=1e-12, rtol=0)
    np.testing.assert_allclose(gain @ B, expected[1], atol=1e-12, rtol=0)


@pytest.mark.parametrize("rule", [ZeroOrderHold(), Bilinear(), Bilinear(0.2), Dirac()])
def test_diagonal_rules_equal_the_dense_ones(rule: Discretization) -> None:
    eigenvalues = torch.tensor([-0.5 + 3j, -2.0 - 1j, 0j, -1e-9 + 0j], dtype=torch.complex128)
    dt = torch.tensor([0.3, 1.7, 0.0], dtype=F64)
    transition, gain = rule.diagonal(eigenvalues, dt)
    dense_transition, dense_gain = rule.dense(torch.diag(eigenvalues), dt.to(torch.complex128))
    torch.testing.assert_close(transition, dense_transition.diagonal(dim1=-2, dim2=-1))
    torch.testing.assert_close(gain, dense_gain.diagonal(dim1=-2, dim2=-1))


def test_zero_order_hold_survives_a_long_stiff_step() -> None:
    A, dt = legs(16), torch.tensor([1e-6, 0.5, 40.0], dtype=F64)
    transition, gain = ZeroOrderHold().dense(A, dt)
    for i, step in enumerate(dt.tolist()):
        expected = scipy.linalg.expm(A.numpy() * step)
        np.testing.assert_allclose(transition[i], expected, atol=1e-11, rtol=0)
        # A G = exp(A dt) - I holds without integrating anything.
        np.testing.assert_allclose(A @ gain[i], expected - np.eye(16), atol=1e-10, rtol=0)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("size", [1e-12, 1e-6, 1e-3, 0.04999, 0.05001, 1.0, 20.0])
def test_relative_expm1_is_accurate_at_every_size(size: float, dtype: torch.dtype) -> None:
    z = size * torch.exp(1j * torch.linspace(0, 6, 13, dtype=F64))
    big = z.numpy().astype(np.clongdouble)
    expected = np.expm1(big) / big
    result = relative_expm1(z.to(dtype)).to(torch.complex128).numpy()
    np.testing.assert_allclose(
        result, expected.astype(complex), rtol=max(1, size) * 8 * torch.finfo(dtype).eps
    )


def test_relative_expm1_gradient_near_zero() -> None:
    z = torch.tensor([0.0, 1e-9, 1e-3, 0.04, 0.06, 2.0], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(relative_expm1, z, eps=1e-6, atol=1e-8)


def test_van_loan_equals_brown_and_hwang() -> None:
    """Brown & Hwang (2012), Introduction to Random Signals, example 3.6: printed numbers."""
    F = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=F64)
    diffusion = torch.tensor([[0.0, 0.0], [0.0, 4.0]], dtype=F64)
    A, Q = van_loan(F, diffusion, torch.tensor(0.1, dtype=F64))
    np.testing.assert_allclose(A, [[0.99500417, 0.09983342], [-0.09983342, 0.99500417]], atol=5e-9)
    np.testing.assert_allclose(Q, [[0.00133067, 0.01993342], [0.01993342, 0.39866933]], atol=5e-9)


def test_van_loan_equals_quadrature() -> None:
    torch.manual_seed(1)
    F, L = torch.randn(4, 4, dtype=F64) - torch.eye(4), torch.randn(4, 2, dtype=F64)
    _, Q = van_loan(F, L @ L.mT, torch.tensor(1.3, dtype=F64))
    nodes, weights = np.polynomial.legendre.leggauss(40)
    expected = np.zeros((4, 4))
    for node, weight in zip(nodes, weights, strict=True):
        half = scipy.linalg.expm(F.numpy() * 1.3 * (node + 1) / 2) @ L.numpy()
        expected += 1.3 / 2 * weight * half @ half.T
    np.testing.assert_allclose(Q, expected, rtol=1e-12)
    assert torch.equal(Q, Q.mT)


def test_van_loan_of_an_integrated_wiener_process_is_exact_at_every_step() -> None:
    """Entries of very different size keep their relative accuracy, so Cholesky works."""
    F = torch.diag(torch.ones(2, dtype=F64), 1)
    diffusion = torch.zeros(3, 3, dtype=F64)
    diffusion[2, 2] = 1.0
    dt = torch.tensor([[1e-7, 1e-3, 1.0], [0.0, 100.0, 1e5]], dtype=F64)
    A, Q = van_loan(F, diffusion, dt)
    t = dt[..., None, None]
    shape = torch.tensor([[5, 4, 3], [4, 3, 2], [3, 2, 1]])
    scale = torch.tensor([[20.0, 8, 6], [8, 3, 2], [6, 2, 1]], dtype=F64)
    torch.testing.assert_close(Q, t**shape / scale, rtol=1e-12, atol=0)
    torch.testing.assert_close(A[..., 0, 2], dt**2 / 2, rtol=1e-12, atol=0)
    assert torch.equal(A[1, 0], torch.eye(3, dtype=F64)) and not Q[1, 0].any()
    torch.linalg.cholesky(Q[dt > 0])


def test_van_loan_does_not_overflow_on_a_long_stable_step() -> None:
    F = torch.tensor([[-50.0, 1.0], [0.0, -1.0]], dtype=F64)
    A, Q = van_loan(F, torch.eye(2, dtype=F64), torch.tensor(1e3, dtype=F64))
    torch.testing.assert_close(A, torch.zeros(2, 2, dtype=F64))
    stationary = scipy.linalg.solve_continuous_lyapunov(F.numpy(), -np.eye(2))
    np.testing.assert_allclose(Q, stationary, rtol=1e-12)


def test_van_loan_gradients() -> None:
    F = torch.randn(3, 3, dtype=F64, requires_grad=True)
    L = torch.randn(3, 2, dtype=F64, requires_grad=True)
    dt = torch.tensor([0.0, 0.4, 2.1], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda F, L, dt: van_loan(F, L @ L.mT, dt), (F, L, dt))


@pytest.mark.parametrize("n", [1, 4, 7])
def test_van_loan_does_not_depend_on_who_asks_for_a_gradient(n: int) -> None:
    """Compiled loops where nobody differentiates, tensors where somebody does."""
    generator = torch.Generator().manual_seed(n)
    F, L = torch.randn(2, 3, n, n, generator=generator, dtype=F64)
    diffusion, dt = L @ L.mT, torch.tensor([0.0, 1e-3, 2.75], dtype=F64)
    A, Q = van_loan(F, diffusion, dt)
    other = van_loan(F.clone().requires_grad_(), diffusion, dt)
    exponential = torch.linalg.matrix_exp(F * dt[:, None, None])
    torch.testing.assert_close(A, exponential, rtol=1e-12, atol=1e-12 * float(A.abs().max()))
    for actual, expected in zip((A, Q), other, strict=True):
        scale = float(expected.detach().abs().max())
        torch.testing.assert_close(actual, expected.detach(), rtol=0, atol=1e-12 * scale)
    single, _ = van_loan(F.float(), diffusion.float(), dt.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), A, rtol=1e-4, atol=1e-4 * float(A.abs().max()))
