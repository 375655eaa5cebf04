"""HiPPO matrices, their normal-plus-low-rank form, and what published code computes from them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from deepssm.linear import (
    Bilinear,
    Dense,
    Hippo,
    LinearSystem,
    LowRankPlusDiagonal,
    ZeroOrderHold,
    chunked,
    convolved,
    fourier,
    lagt,
    legs,
    legt,
    looped,
    lru_ring,
    s4d_inv,
    s4d_legs,
    s4d_lin,
    s4d_real,
    scanned,
)

F64 = torch.float64
MEASURES = [legs, legt, lagt, fourier]


@pytest.mark.parametrize("size", [4, 16, 64, 256])
def test_legs_plus_low_rank_is_minus_half_plus_skew(size: int) -> None:
    A, _, P = legs(size)
    normal = A + P @ P.mT
    assert (normal + normal.mT + torch.eye(size)).abs().max() <= 1e-12


@pytest.mark.parametrize("size", [4, 16, 64, 256])
@pytest.mark.parametrize("measure", MEASURES)
def test_modes_rebuild_the_matrix_with_a_unitary_basis(
    measure: Callable[[int], Hippo], size: int
) -> None:
    hippo = measure(size)
    modes = hippo.modes()
    V = torch.cat([modes.basis, modes.basis.conj()], 1)
    assert (V.mH @ V - torch.eye(size)).abs().max() <= 1e-13
    poles = torch.cat([modes.eigenvalues, modes.eigenvalues.conj()])
    P = torch.cat([modes.low_rank, modes.low_rank.conj()])
    rebuilt = V @ (torch.diag(poles) - P @ P.mH) @ V.mH
    assert (rebuilt - hippo.A).abs().max() <= 1e-10 * torch.linalg.matrix_norm(hippo.A, 2)
    assert hippo.low_rank.shape[1] == (2 if measure is legt else 1)


@pytest.mark.parametrize("size", [5, 8, 33])
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("rule", [ZeroOrderHold(), Bilinear(), Bilinear(0.8)])
def test_low_rank_system_equals_the_dense_one(
    measure: Callable[[int], Hippo], size: int, rule: ZeroOrderHold | Bilinear
) -> None:
    """Odd sizes have a single real mode and the Fourier matrix has a zero pair."""
    hippo = measure(size)
    modes = hippo.modes()
    C = torch.randn(2, size, dtype=F64)
    dense = LinearSystem(Dense(hippo.A), hippo.B[:, None], C, None, rule)
    structure = LowRankPlusDiagonal(modes.eigenvalues, modes.low_rank)
    system = LinearSystem(structure, modes.B[:, None], C.to(torch.complex128) @ modes.basis)
    system = system._replace(rule=rule)
    u, dt = torch.randn(3, 70, 1, dtype=F64), 0.05 * torch.rand(3, 70, dtype=F64)
    for step in (0.02, dt):
        expected = dense.apply(u, dt=step, view=looped)
        for view in (looped, scanned, chunked, convolved, None):
            result = system.apply(u, dt=step, view=view)
            torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)


def s4(size: int, dtype: torch.dtype) -> tuple[LinearSystem, LinearSystem]:
    """Return a LegS system as low rank and as dense, single input, single output."""
    hippo = legs(size)
    modes, C = hippo.modes(), torch.randn(1, size, dtype=F64)
    structure = LowRankPlusDiagonal(modes.eigenvalues.to(dtype), modes.low_rank.to(dtype))
    C_modes = (C.to(torch.complex128) @ modes.basis).to(dtype)
    system = LinearSystem(structure, modes.B[:, None].to(dtype), C_modes, None, Bilinear())
    return system, LinearSystem(Dense(hippo.A), hippo.B[:, None], C, None, Bilinear())


@pytest.mark.parametrize("time", [1, 2, 784, 1001, 1024, 4096])
def test_cauchy_kernel_equals_matrix_powers(time: int) -> None:
    system, dense = s4(64, torch.complex128)
    expected = dense.kernel(time, dt=0.01)
    error = (system.kernel(time, dt=0.01) - expected).abs().max() / expected.abs().max()
    assert error <= 1e-10
    single, dense = s4(64, torch.complex64)
    expected = dense.kernel(time, dt=0.01)
    error = (single.kernel(time, dt=0.01) - expected).abs().max() / expected.abs().max()
    assert error <= 1e-4


def test_cauchy_kernel_gradients() -> None:
    system, _ = s4(6, torch.complex128)
    assert isinstance(system.structure, LowRankPlusDiagonal)
    leaves = [system.structure.eigenvalues, system.structure.low_rank, system.B, system.C]
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]

    def kernel(poles: Tensor, P: Tensor, B: Tensor, C: Tensor, dt: Tensor) -> Tensor:
        model = LinearSystem(LowRankPlusDiagonal(poles, P), B, C, None, Bilinear())
        return model.kernel(7, dt=dt)

    assert torch.autograd.gradcheck(
        kernel, (*leaves, torch.tensor(0.3, dtype=F64, requires_grad=True))
    )


def test_low_rank_state_and_gradient_agree_between_views() -> None:
    """Channels with their own matrices, rank 2, carried state, time step and mask."""
    torch.manual_seed(3)
    poles = torch.complex(-torch.rand(3, 4, dtype=F64), torch.randn(3, 4, dtype=F64))
    P = 0.5 * torch.randn(3, 4, 2, dtype=torch.complex128)
    B, C = torch.randn(3, 4, 1).to(P), torch.randn(3, 1, 4).to(P)
    u, z0 = torch.randn(2, 3, 90, 1, dtype=F64), torch.randn(2, 3, 8, dtype=F64)
    mask, dt = torch.rand(2, 3, 90) > 0.3, torch.tensor(0.4, dtype=F64)
    leaves = [x.requires_grad_() for x in (poles, P, B, C, u, z0, dt)]
    system = LinearSystem(LowRankPlusDiagonal(poles, P), B, C, None, Bilinear())
    results = []
    for view in (looped, scanned, chunked, convolved):
        y, last = system.run(u, z0, dt=dt, rate=0.5, mask=mask, view=view)
        gradients = torch.autograd.grad(y.square().sum() + last.sum(), leaves)
        results.append((y, last, gradients))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-9, atol=1e-9)


def test_diagonal_initializations() -> None:
    n = np.arange(32)
    np.testing.assert_allclose(s4d_lin(32), -0.5 + 1j * np.pi * n)
    expected = [1283.425461, 414.227265, 240.387626, 165.884925]
    np.testing.assert_allclose(s4d_inv(32).imag[:4], expected, atol=5e-7)
    np.testing.assert_allclose(s4d_real(3), [-1, -2, -3])
    assert (s4d_legs(32).real + 0.5).abs().max() < 1e-13
    assert abs(s4d_legs(32).imag.max().item() - 1303.3) < 0.05
    ring = lru_ring(2000, 0.5, 0.9, 0.3, generator=torch.Generator().manual_seed(0))
    assert 0.5 <= ring.abs().min() and ring.abs().max() <= 0.9
    # Uniform on the ring: the squared radius has mean (r0^2 + r1^2) / 2 = 0.53, sd 0.0036.
    assert abs(ring.abs().square().mean().item() - 0.53) < 5 * 0.0037
    assert 0 <= ring.angle().min() and ring.angle().max() <= 0.3
