"""Long sequences in both precisions: the views agree where rounding has thousands of steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deepssm.linear import (
    Diagonal,
    LinearSystem,
    View,
    chunked,
    convolved,
    looped,
    s4d_lin,
    scanned,
)

OUTPUT, GRADIENT = (
    {torch.float32: 1e-5, torch.float64: 1e-11},
    {
        torch.float32: 1e-4,
        torch.float64: 1e-9,
    },
)


def channels(size: int, dtype: torch.dtype) -> list[Tensor]:
    """Return `A, B, C, log dt` of S4D-Lin with 32 modes and steps from 1e-3 to 1e-1."""
    torch.manual_seed(0)
    wide = torch.complex64 if dtype == torch.float32 else torch.complex128
    A = s4d_lin(32).to(wide).expand(size, -1).clone()
    B = torch.ones(size, 32, 1, dtype=wide)
    C = torch.randn(size, 1, 32, dtype=wide)
    return [A, B, C, torch.linspace(-6.9, -2.3, size, dtype=dtype)]


def system(A: Tensor, B: Tensor, C: Tensor, log_dt: Tensor) -> LinearSystem:
    dt = log_dt.exp()[:, None]
    return LinearSystem(Diagonal(A * dt), B * dt[..., None], C)


def relative(result: Tensor, expected: Tensor) -> float:
    return ((result - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("time", [4096, 4097])
def test_views_agree_over_thousands_of_steps(time: int, dtype: torch.dtype) -> None:
    leaves = [x.requires_grad_() for x in channels(4, dtype)]
    u = torch.randn(2, 4, time, 1, dtype=dtype, requires_grad=True)
    z0 = torch.randn(2, 4, 32, dtype=leaves[0].dtype, requires_grad=True)
    weight = torch.randn(2, 4, time, 1, dtype=dtype)
    results = []
    for view in (scanned, convolved, chunked):
        y, last = system(*leaves).run(u, z0, view=view)
        gradients = torch.autograd.grad((y * weight).sum(), [*leaves, u, z0])
        results.append((y, last, gradients))
    y, last, gradients = results[0]
    for other, other_last, other_gradients in results[1:]:
        assert relative(other, y) <= OUTPUT[dtype]
        assert relative(other_last, last) <= OUTPUT[dtype]
        for result, expected in zip(other_gradients, gradients, strict=True):
            assert relative(result, expected) <= GRADIENT[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("view", [scanned, convolved, chunked])
@pytest.mark.parametrize("rate", [0.5, 1.0, 2.0])
def test_four_pieces_at_three_rates_equal_the_loop(
    rate: float, view: View, dtype: torch.dtype
) -> None:
    model = system(*channels(2, dtype))
    u = torch.randn(1, 2, 1025, 1, dtype=dtype)
    with torch.no_grad():
        expected, _ = model.run(u, rate=rate, view=looped)
        z, pieces = None, []
        for piece in u.split([256, 256, 256, 257], -2):
            y, z = model.run(piece, z, rate=rate, view=view)
            pieces.append(y)
    assert relative(torch.cat(pieces, -2), expected) <= OUTPUT[dtype]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_views_agree_at_full_size(dtype: torch.dtype) -> None:
    """64 channels of 32 modes, length 4096, one series at a time to spare memory."""
    model = system(*channels(64, dtype))
    with torch.no_grad():
        for _ in range(4):
            u = torch.randn(1, 64, 4096, 1, dtype=dtype)
            expected = model.apply(u, view=looped)
            for view in (scanned, convolved, chunked):
                assert relative(model.apply(u, view=view), expected) <= OUTPUT[dtype]


def test_a_million_steps() -> None:
    """The convolution is checked on its first and, by the carried state, on its last steps."""
    model = system(*channels(2, torch.float32))
    u = torch.randn(1, 2, 1_000_000, 1)
    with torch.no_grad():
        y = model.apply(u, view=convolved)
        assert relative(y[..., :1000, :], model.apply(u[..., :1000, :], view=looped)) <= 1e-5
        _, z = model.run(u[..., :-1000, :], view=chunked)
        assert relative(y[..., -1000:, :], model.apply(u[..., -1000:, :], z, view=looped)) <= 1e-5
