"""Input-dependent recurrences against a plain loop, also through the state they return."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deepssm.linear import scalar_decay_scan, selective_scan

F64 = torch.float64


def plain(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, z: Tensor
) -> tuple[Tensor, Tensor]:
    shape = (*u.shape, A.shape[-1])
    B, C, outputs = B.expand(shape), C.expand(shape), []
    for t in range(u.shape[1]):
        hold = delta[:, t, :, None]
        z = (hold * A).exp() * z + hold * B[:, t] * u[:, t, :, None]
        y = (C[:, t] * z).sum(-1)
        outputs.append(2 * y.real if y.is_complex() else y)
    return torch.stack(outputs, 1), z


@pytest.mark.parametrize("time", [1, 64, 150])
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_selective_scan_equals_a_loop(dtype: torch.dtype, fixed: bool, time: int) -> None:
    batch, d, n = 2, 3, 4
    A = -torch.rand(d, n, dtype=dtype) - 0.1
    shape = (1, 1, d, n) if fixed else (batch, time, 1, n)
    B, C, z0 = (torch.randn(s, dtype=dtype) for s in (shape, shape, (batch, d, n)))
    u, delta = torch.randn(batch, time, d, dtype=F64), torch.rand(batch, time, d, dtype=F64)
    leaves = [x.requires_grad_() for x in (u, delta, A, B, C, z0)]
    results = []
    for function in (selective_scan, plain):
        y, last = function(*leaves)
        objective = y.square().sum() + (last.abs() ** 2).sum()
        results.append((y, last, torch.autograd.grad(objective, leaves)))
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("time", [1, 64, 150])
@pytest.mark.parametrize("shared", [True, False])
def test_scalar_decay_equals_the_selective_scan(shared: bool, time: int) -> None:
    """A head is `p` channels with one decay; both forms return the state and its gradient."""
    batch, heads, p, n = 2, 3, 2, 4
    u = torch.randn(batch, time, heads, p, dtype=F64)
    delta, A = torch.rand(batch, time, heads, dtype=F64), -torch.rand(heads, dtype=F64)
    groups = 1 if shared else heads
    B, C = (torch.randn(batch, time, groups, n, dtype=F64) for _ in range(2))
    z0 = torch.randn(batch, heads, p, n, dtype=F64)
    leaves = [x.requires_grad_() for x in (u, delta, A, B, C, z0)]

    y, last = scalar_decay_scan(u * delta[..., None], delta * A, B, C, z0)
    objective = y.square().sum() + last.square().sum()
    result = (y, last, *torch.autograd.grad(objective, leaves))

    B, C = (x.expand(batch, time, heads, n).repeat_interleave(p, 2) for x in (B, C))
    rates = A.repeat_interleave(p)[:, None].expand(heads * p, n)
    delta = delta.repeat_interleave(p, -1)
    y, last = selective_scan(u.flatten(2), delta, rates, B, C, z0.flatten(1, 2))
    objective = y.square().sum() + last.square().sum()
    gradients = torch.autograd.grad(objective, leaves)
    expected = (y.unflatten(2, (heads, p)), last.unflatten(1, (heads, p)), *gradients)
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-10)
