"""Every view of one system agrees with the plain loop, with states, masks, steps and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.signal
import torch
from torch import Tensor

from deepssm.linear import (
    Bilinear,
    Dense,
    Diagonal,
    Discretization,
    LinearSystem,
    LowRankPlusDiagonal,
    View,
    ZeroOrderHold,
    chunked,
    convolved,
    looped,
    scanned,
)

F64, C128 = torch.float64, torch.complex128
VIEWS = [scanned, chunked, convolved]
KINDS = ["dense", "real", "complex", "low rank", "channels"]


def system(kind: str, rule: Discretization | None = None) -> LinearSystem:
    """Systems in generic position: n=4, m=3, p=2, or three independent channels."""
    rule = rule or ZeroOrderHold()
    if kind == "channels":
        modes = torch.complex(-torch.rand(3, 4, dtype=F64), 3 * torch.randn(3, 4, dtype=F64))
        B, C = torch.randn(3, 4, 1, dtype=C128), torch.randn(3, 1, 4, dtype=C128)
        return LinearSystem(Diagonal(modes), B, C, torch.randn(3, 1, 1, dtype=F64), rule)
    if kind == "low rank":
        modes = torch.complex(-torch.rand(2, dtype=F64), 3 * torch.randn(2, dtype=F64))
        B, C, P = (torch.randn(s, dtype=C128) for s in ((2, 3), (2, 2), (2, 1)))
        structure = LowRankPlusDiagonal(modes, 0.5 * P)
        return LinearSystem(structure, B, C, torch.randn(2, 3, dtype=F64), rule)
    dtype = C128 if kind == "complex" else F64
    B, C = torch.randn(4, 3, dtype=dtype), torch.randn(2, 4, dtype=dtype)
    D = torch.randn(2, 3, dtype=F64)
    if kind == "dense":
        A = 0.4 * torch.randn(4, 4, dtype=F64) - torch.eye(4, dtype=F64)
        return LinearSystem(Dense(A), B, C, D, rule)
    modes = -torch.rand(4, dtype=F64)
    if kind == "complex":
        modes = torch.complex(modes, 3 * torch.randn(4, dtype=F64))
    return LinearSystem(Diagonal(modes), B, C, D, rule)


def entries(model: LinearSystem) -> Tensor:
    structure = model.structure
    assert isinstance(structure, Dense | Diagonal | LowRankPlusDiagonal)
    return structure.matrix if isinstance(structure, Dense) else structure.eigenvalues


def inputs(model: LinearSystem, time: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return `u, z0, dt, mask` for two series (of three channels where the system has them)."""
    batch = (2, *model.B.shape[:-2])
    u = torch.randn(*batch, time, model.B.shape[-1], dtype=F64)
    z0 = torch.randn(*batch, 4, dtype=model.structure.dtype)
    dt = torch.rand(*batch, time, dtype=F64)
    return u, z0, dt, torch.rand(*batch, time) > 0.3


@pytest.mark.parametrize("time", [1, 2, 63, 64, 200])
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("kind", KINDS)
def test_views_agree_with_the_loop(kind: str, view: View, time: int) -> None:
    model = system(kind)
    u, z0, dt, mask = inputs(model, time)
    grids: list[dict[str, Any]] = [{}, {"rate": 0.5}, {"rate": 2.0, "dt": 0.7}, {"dt": dt}]
    for options in grids:
        for reverse in (False, True):
            expected = model.run(u, z0, mask=mask, reverse=reverse, view=looped, **options)
            result = model.run(u, z0, mask=mask, reverse=reverse, view=view, **options)
            torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-10)
            only = model.apply(u, z0, mask=mask, reverse=reverse, view=view, **options)
            assert torch.equal(only, result[0])


@pytest.mark.parametrize("varying", [False, True])
@pytest.mark.parametrize("rule", [ZeroOrderHold(), Bilinear()])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_the_views_agree(kind: str, rule: Discretization, varying: bool) -> None:
    """With a mask and a rate; one of the rules forwards, the other backwards in time."""
    model = system(kind, rule)
    reverse = isinstance(rule, Bilinear)
    u, z0, dt, mask = inputs(model, 70)
    dt = dt if varying else dt[..., 0].sum()
    leaves = [x.requires_grad_() for x in (entries(model), model.B, model.C, u, z0, dt)]
    assert model.D is not None
    leaves.append(model.D.requires_grad_())
    weight = None
    gradients = []
    for view in (looped, *VIEWS):
        y, last = model.run(u, z0, dt=dt, rate=0.5, mask=mask, reverse=reverse, view=view)
        weight = torch.randn_like(y) if weight is None else weight
        objective = (y * weight).sum() + last.abs().square().sum()
        gradients.append(torch.autograd.grad(objective, leaves))
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("kind", KINDS)
def test_carried_state_joins_the_pieces(kind: str, view: View) -> None:
    model = system(kind)
    u, z0, dt, mask = inputs(model, 131)
    whole, last = model.run(u, z0, dt=dt, mask=mask, view=looped)
    pieces, z = [], z0
    for time in (slice(0, 1), slice(1, 65), slice(65, 100), slice(100, 131)):
        y, z = model.run(u[..., time, :], z, dt=dt[..., time], mask=mask[..., time], view=view)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, -2), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(z, last, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_step_and_kernel_agree_with_apply(kind: str) -> None:
    model = system(kind)
    u, z0, dt, _ = inputs(model, 9)
    expected, last = model.run(u, z0, dt=dt)
    z, outputs = z0, []
    for t in range(9):
        y, z = model.step(u[..., t, :], z, dt=dt[..., t])
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, -2), expected)
    torch.testing.assert_close(z, last)
    impulse = torch.zeros_like(u)
    impulse[..., 0, 0] = 1.0
    response, _ = model.discretized(0.3).run(impulse)
    kernel = model.kernel(9, dt=0.3)[..., 0, :].mT.expand_as(response)
    torch.testing.assert_close(kernel, response)


def test_dense_system_equals_the_diagonal_one_in_its_eigenbasis() -> None:
    A = torch.randn(4, 4, dtype=F64) - 2 * torch.eye(4, dtype=F64)
    B, C = torch.randn(4, 3, dtype=F64), torch.randn(2, 4, dtype=F64)
    values, vectors = torch.linalg.eig(A)
    keep = values.imag >= 0
    weight = torch.where(values.imag > 0, 1.0, 0.5)[keep]
    B_modes = torch.linalg.solve(vectors, B.to(C128))[keep]
    C_modes = (C.to(C128) @ vectors)[:, keep] * weight
    u = torch.randn(2, 50, 3, dtype=F64)
    dt = torch.rand(2, 50, dtype=F64)
    for step in (0.2, dt):
        expected, _ = LinearSystem(Dense(A), B, C).run(u, dt=step)
        result, _ = LinearSystem(Diagonal(values[keep]), B_modes, C_modes).run(u, dt=step)
        torch.testing.assert_close(result, expected)


def test_outputs_equal_scipy_shifted_by_one_sample() -> None:
    """scipy's `dlsim` reads the state before the input arrives, this library after it."""
    model = system("dense")._replace(D=None)
    discrete = model.discretized(0.3)
    u = torch.randn(30, 3, dtype=F64)
    matrices = (discrete.structure.dense(), discrete.B, discrete.C)
    simulated: Any = scipy.signal.dlsim((*map(np.asarray, matrices), np.zeros((2, 3)), 1.0), u)
    np.testing.assert_allclose(model.apply(u, dt=0.3)[:-1], simulated[1][1:], atol=1e-12)


def test_masked_inputs_do_not_exist() -> None:
    model = system("complex")
    u, z0, _, mask = inputs(model, 20)
    clean = model.run(u, z0, mask=mask)
    dirty = torch.where(mask[..., None], u, torch.nan).requires_grad_()
    result = model.run(dirty, z0, mask=mask)
    assert torch.equal(result[0], clean[0]) and torch.equal(result[1], clean[1])
    (gradient,) = torch.autograd.grad(result[0].sum(), dirty)
    assert not gradient[~mask].any() and gradient[mask].all()


def test_hold_has_the_semigroup_property() -> None:
    """Two steps with one input are one step of the double length; the bilinear rule is not so."""
    for kind in KINDS:
        model = system(kind)
        u, z0, dt, _ = inputs(model, 12)
        held = u.repeat_interleave(2, -2)
        halves = torch.stack([0.3 * dt, 0.7 * dt], -1).flatten(-2)
        long, _ = model.run(u, z0, dt=dt)
        short, _ = model.run(held, z0, dt=halves)
        torch.testing.assert_close(short[..., 1::2, :], long, rtol=1e-12, atol=1e-12)
        fast, _ = model.run(held, z0)
        slow, _ = model.run(u, z0, rate=2.0)
        torch.testing.assert_close(fast[..., 1::2, :], slow, rtol=1e-12, atol=1e-12)
    rough = system("complex", Bilinear())
    fast, _ = rough.run(held[:, 0].expand(2, 24, 3))
    slow, _ = rough.run(u[:, 0].expand(2, 12, 3), rate=2.0)
    assert (fast[..., 1::2, :] - slow).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_hold_solves_the_differential_equation(kind: str) -> None:
    """Sixteen fourth-order Runge-Kutta steps over one held input."""
    model = system(kind)
    u, z0, _, _ = inputs(model, 1)
    z, h = z0, 1 / 256
    for _ in range(16):
        k1 = model.derivative(z, u[..., 0, :])
        k2 = model.derivative(z + h / 2 * k1, u[..., 0, :])
        k3 = model.derivative(z + h / 2 * k2, u[..., 0, :])
        k4 = model.derivative(z + h * k3, u[..., 0, :])
        z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    _, expected = model.run(u, z0, dt=1 / 16)
    torch.testing.assert_close(z, expected, rtol=1e-8, atol=1e-8)


def test_errors_name_the_argument() -> None:
    model = system("dense")
    u, z0, dt, _ = inputs(model, 5)
    with pytest.raises(ValueError, match=r"`u` must be \(\*batch, time, 3\), got \(5, 2\)"):
        model.run(u[0, :, :2])
    with pytest.raises(ValueError, match="`u` must be real, got torch.complex128"):
        model.run(u.to(C128))
    with pytest.raises(ValueError, match="`z0` must end in an axis of size 4"):
        model.run(u, z0[..., :3])
    with pytest.raises(ValueError, match="`dt` must end in the time axis of `u`, of size 5"):
        model.run(u, dt=dt[..., None])
    with pytest.raises(ValueError, match="`u` must have a step or more, got shape"):
        model.run(u[..., :0, :])
    array: Any = dt.numpy()  # reversed, an array would have kept its order
    with pytest.raises(ValueError, match="`dt` must be a number or a tensor, got ndarray"):
        model.run(u, dt=array, reverse=True)
    with pytest.raises(ValueError, match="`dt` and `rate` need a system in continuous time"):
        model.discretized(0.1).run(u, rate=2.0)
    with pytest.raises(ValueError, match="`derivative` needs a system in continuous time"):
        model.discretized(0.1).derivative(z0, u[..., 0, :])
