"""Sums over conjugate pairs against the sum as it is written."""

from __future__ import annotations

import torch
from torch import Tensor

from deepssm.linear.cauchy import cauchy_pairs

F64, C128 = torch.float64, torch.complex128


def arguments(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return poles of two systems, three weights each, and nodes near the unit circle."""
    poles = torch.complex(-torch.rand(2, 5, dtype=F64), 3 * torch.randn(2, 5, dtype=F64))
    w = torch.polar(torch.full((count,), 0.99, dtype=F64), torch.linspace(0, 3, count, dtype=F64))
    return poles, torch.randn(2, 3, 5, dtype=C128), 1 - w, 0.3 + 0.7 * w


def plain(poles: Tensor, weights: Tensor, nodes: Tensor, scale: Tensor) -> Tensor:
    sums = torch.zeros(2, 3, len(nodes), dtype=C128)
    for v, pole in ((weights, poles), (weights.conj(), poles.conj())):
        sums = sums + (v[..., None] / (nodes - scale * pole[:, None, :, None])).sum(-2)
    return sums


def test_pairs_equal_the_sum_over_both_members_in_several_blocks() -> None:
    poles, weights, nodes, scale = arguments(14_000)
    leaves = poles.requires_grad_(), weights.requires_grad_()
    results = []
    for function in (plain, cauchy_pairs):
        sums = function(*leaves, nodes, scale)
        results.append((sums, torch.autograd.grad(sums.abs().log().sum(), leaves)))
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


def test_gradients_equal_differences() -> None:
    poles, weights, nodes, scale = arguments(40)
    leaves = poles.requires_grad_(), weights.requires_grad_()
    assert torch.autograd.gradcheck(lambda p, v: cauchy_pairs(p, v, nodes, scale), leaves)
