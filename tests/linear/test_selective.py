"""Input-dependent recurrences against a plain loop, also through the state they return."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from deepssm.linear import scalar_decay_scan, selective_compiled, selective_scan

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


@pytest.mark.parametrize("threads", [1, 2])
def test_compiled_loop_on_uneven_tiles_and_threads(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """130 channels are three pieces, the last of two; a batch axis of `B` is broadcast."""
    monkeypatch.setattr(selective_compiled, "_THREADED", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    batch, time, d, n = 2, 70, 130, 3
    u, delta = torch.randn(batch, time, d, dtype=F64), torch.rand(batch, time, d, dtype=F64)
    A, z0 = -torch.rand(d, n, dtype=F64), torch.randn(batch, d, n, dtype=F64)
    B, C = torch.randn(1, time, 1, n, dtype=F64), torch.randn(batch, 1, 1, n, dtype=F64)
    leaves = [x.requires_grad_() for x in (u, delta, A, B, C, z0)]
    results = []
    for function in (selective_scan, plain):
        y, last = function(*leaves)
        objective = y.square().sum() + last.square().sum()
        results.append((y, last, torch.autograd.grad(objective, leaves)))
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_compiled_exponential(dtype: type[np.floating]) -> None:
    """Through a decay of one step, from underflow to overflow; what is not a number stays so."""
    x = np.concatenate([np.linspace(-80, 80, 4001), [0.0, -1e-30, math.nan]]).astype(dtype)
    A = torch.from_numpy(x)[:, None]
    one, none = torch.ones(1, len(x), dtype=A.dtype), torch.zeros(1, 1, 1, dtype=A.dtype)
    _, last = selective_scan(0 * one, one, A, none, none, torch.ones_like(A))
    expected = np.exp(x.astype(np.float64))
    tolerance = 3 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(last[:, 0].double().numpy(), expected, rtol=tolerance)
    _, deep = selective_scan(0 * one, one, A - 1e4, none, none, torch.ones_like(A))
    assert 0 <= deep[:-1].min() and deep[:-1].max() < 1e-37 and deep[-1].isnan()


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
