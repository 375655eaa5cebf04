"""One input at a time equals the dense recurrence, for every structure, rule and shape."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from deepssm.linear import (
    Bilinear,
    Dense,
    Diagonal,
    Discretization,
    LinearSystem,
    LowRankPlusDiagonal,
    Structure,
    ZeroOrderHold,
    looped,
)
from deepssm.linear.stepping import stepper

N, TIME = 3, 6
Build = Callable[..., Structure]


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def poles(*shape: int) -> Tensor:
    return torch.complex(-normal(*shape).exp(), normal(*shape))


def dense(*axes: int) -> Structure:
    return Dense(normal(*axes, N, N) - 2 * torch.eye(N))


def diagonal(*axes: int) -> Structure:
    return Diagonal(poles(*axes, N))


def real(*axes: int) -> Structure:
    return Diagonal(-normal(*axes, N).exp())


def low_rank(*axes: int) -> Structure:
    return LowRankPlusDiagonal(
        poles(*axes, N), torch.complex(normal(*axes, N, 1), normal(*axes, N, 1))
    )


def rank_two(*axes: int) -> Structure:
    return LowRankPlusDiagonal(
        poles(*axes, N), torch.complex(normal(*axes, N, 2), normal(*axes, N, 2))
    )


STRUCTURES: tuple[Build, ...] = (dense, diagonal, real, low_rank, rank_two)
RULES = (Bilinear(), Bilinear(0.75), Bilinear(1.0), Bilinear(0.0), ZeroOrderHold())
CASES = [*itertools.product(STRUCTURES, RULES), (dense, None), (diagonal, None), (real, None)]


@pytest.mark.parametrize("m, p", [(1, 1), (2, 1), (1, 2), (2, 3)])
@pytest.mark.parametrize("axes", [(), (4,)])
@pytest.mark.parametrize("build, rule", CASES)
def test_steps_are_the_loop(
    build: Build, rule: Discretization | None, axes: tuple[int, ...], m: int, p: int
) -> None:
    structure = build(*axes)
    imaginary = build not in (dense, real)
    B, C = normal(*axes, N, m), normal(*axes, p, N)
    if imaginary:
        B, C = torch.complex(B, normal(*axes, N, m)), torch.complex(C, normal(*axes, p, N))
    system = LinearSystem(structure, B, C, normal(*axes, p, m), rule)
    u = normal(2, *axes, TIME, m)
    options: dict[str, Any] = {} if rule is None else {"dt": 0.3, "rate": 2.0}
    whole, last = system.run(u, view=looped, **options)
    step, z = stepper(system, **options), None
    for t in range(TIME):
        y, z = step(u[..., t, :], z)
        torch.testing.assert_close(y, whole[..., t, :], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(z, last, rtol=1e-10, atol=1e-10)


def test_gradients_reach_the_matrices() -> None:
    """By steps as by the loop."""
    found = []
    for stepped in (True, False):
        torch.manual_seed(3)
        eigenvalues, P = poles(N).requires_grad_(), torch.complex(normal(N, 1), normal(N, 1))
        B, C = torch.complex(normal(N, 1), normal(N, 1)), torch.complex(normal(1, N), normal(1, N))
        system = LinearSystem(
            LowRankPlusDiagonal(eigenvalues, P.requires_grad_()), B, C, None, Bilinear()
        )
        u, total = normal(TIME, 1), torch.zeros((), dtype=torch.float64)
        if stepped:
            step, z = stepper(system), None
            for t in range(TIME):
                y, z = step(u[t], z)
                total = total + y.square().sum()
        else:
            total = system.apply(u, view=looped).square().sum()
        found.append(torch.autograd.grad(total, (eigenvalues, P)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_half_precision_around_it_changes_nothing() -> None:
    """Under autocast the steps stay in the precision of the system."""
    system = LinearSystem(Diagonal(poles(N)), normal(N, 2) + 0j, normal(2, N) + 0j)
    u, step = normal(2), stepper(system)
    plain, z = step(u, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, _ = step(u, None)
        again, _ = step(u, z)
    assert torch.equal(plain, inside)
    assert torch.equal(again, step(u, z)[0])
