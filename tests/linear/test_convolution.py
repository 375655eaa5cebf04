"""Causal convolution against the sum as it is written, with first and second derivatives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deepssm.linear import causal_convolution

F64 = torch.float64


def plain(u: Tensor, kernel: Tensor) -> Tensor:
    size = u.shape[-1]
    lags = range(min(size, kernel.shape[-1]))
    return sum(
        (
            kernel[..., lag, None] * torch.nn.functional.pad(u, (lag, 0))[..., :size]
            for lag in lags
        ),
        torch.zeros_like(u),
    )


@pytest.mark.parametrize("length", [1, 5, 9, 14])
@pytest.mark.parametrize("dtype", [F64, torch.complex128])
def test_convolution_and_gradients(dtype: torch.dtype, length: int) -> None:
    """The kernel is shared by a batch axis and shorter, equal or longer than the series."""
    u = torch.randn(3, 2, 9, dtype=dtype, requires_grad=True)
    kernel = torch.randn(2, length, dtype=dtype, requires_grad=True)
    results = []
    for function in (causal_convolution, plain):
        y = function(u, kernel)
        results.append((y, torch.autograd.grad(y.abs().pow(3).sum(), (u, kernel))))
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


def test_one_series_and_many_kernels() -> None:
    u = torch.randn(7, dtype=F64, requires_grad=True)
    kernel = torch.randn(2, 4, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(causal_convolution, (u, kernel))


def test_second_derivatives() -> None:
    u = torch.randn(2, 5, dtype=F64, requires_grad=True)
    for length in (3, 8):
        kernel = torch.randn(length, dtype=F64, requires_grad=True)
        assert torch.autograd.gradgradcheck(causal_convolution, (u, kernel))
