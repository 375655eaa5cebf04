from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from deepssm.ops import products
from deepssm.ops.products import Linear, linear


def _numbers(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_large_products_of_floats_are_right() -> None:
    """Large enough for oneDNN; against float64, in units of the row norms."""
    left, right = _numbers(300, 150), _numbers(120, 150, seed=1)
    assert products._pays(left.numel() * 120, left.float()) == torch.backends.mkldnn.enabled
    got = products.times_turned(left.float(), right.float())
    size = left.norm(dim=1)[:, None] * right.norm(dim=1)
    assert ((got - left @ right.T) / size).abs().max() < 1e-6


def test_a_packed_matrix_gives_the_same_products() -> None:
    """Against float64; the start of a long recursion packs its weight once."""
    left, right = _numbers(20, 600), _numbers(200, 600, seed=1)
    stored = products.packed(right.float(), 20)
    assert stored.is_mkldnn == torch.backends.mkldnn.enabled
    size = left.norm(dim=1)[:, None] * right.norm(dim=1)
    got = products.times_turned(left.float(), stored)
    assert ((got - left @ right.T) / size).abs().max() < 1e-6
    assert products.packed(right, 20) is right


def test_large_layers_have_the_value_and_both_derivatives_of_plain_ones() -> None:
    """Against `F.linear` in float64; the second derivative is of the squared first one."""
    x, layer = _numbers(4, 75, 150), Linear(150, 120)
    results = []
    for dtype, run in ((torch.float32, layer), (torch.float64, F.linear)):
        rows, weight, bias = (
            part.detach().to(dtype).requires_grad_() for part in (x, layer.weight, layer.bias)
        )
        out = linear(rows, weight, bias) if run is layer else F.linear(rows, weight, bias)
        first = torch.autograd.grad(out.square().sum(), (rows, weight, bias), create_graph=True)
        second = torch.autograd.grad(first[0].square().sum(), weight)
        results.append([out, *first, *second])
    for got, expected in zip(*results, strict=True):
        assert (got.double() - expected).abs().max() < 1e-5 * expected.abs().max()


def test_functional_transforms_pass_through_a_large_layer() -> None:
    layer, x = Linear(150, 120), _numbers(300, 150).float()
    with torch.no_grad():
        jacobian = torch.func.jacrev(lambda b: linear(x, layer.weight, b).sum(0))(layer.bias)
    torch.testing.assert_close(jacobian, 300 * torch.eye(120))
