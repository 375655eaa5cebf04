"""Sums over conjugate pairs of poles at many nodes, in blocks that stay in the cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Complex numbers in a block: two megabytes.
_NUMBERS_AT_ONCE = 2**17


def cauchy_pairs(poles: Tensor, weights: Tensor, nodes: Tensor, scale: Tensor) -> Tensor:
    """Return `sum_n v_n / (d - s lambda_n) + v_n* / (d - s lambda_n*)` at every node.

    A pair is one fraction with real weights, `2 (d Re v - s Re(v lambda*)) / D` with
    `D = (d - s lambda) (d - s lambda*)`: half the reciprocals, and real matrix products.

    Args:
        poles: `lambda`, `(*batch, n)` complex.
        weights: `v`, `(*batch, k, n)` complex.
        nodes: `d`, `(nodes,)` complex.
        scale: `s`, `(nodes,)` complex.

    Returns:
        `(*batch, k, nodes)` complex, differentiable once in `poles` and `weights`.
    """
    direct, crossed = weights.real, (weights * poles.conj().unsqueeze(-2)).real
    rows = 2 * torch.cat([direct, crossed], -2)
    sums: Any = _PairSums.apply(poles.expand(*rows.shape[:-2], -1), rows, nodes, scale)
    of_nodes, of_scale = sums.chunk(2, -2)
    return nodes * of_nodes - scale * of_scale


class _PairSums(torch.autograd.Function):
    """`weights @ (1 / D)`; reciprocals are computed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, poles: Tensor, weights: Tensor, nodes: Tensor, scale: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(poles, weights, nodes, scale)
        sums = weights.new_empty(*weights.shape[:-1], len(nodes), 2)
        for block, fractions in _fractions(poles, nodes, scale):
            sums[..., block, :] = (weights @ fractions).unflatten(-1, (-1, 2))
        return torch.view_as_complex(sums)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:  # noqa: ANN401
        """`dD = -2 s (d - s a) da + 2 s^2 b db` for a pole `a + i b`."""
        poles, weights, nodes, scale = ctx.saved_tensors
        d_weights = torch.zeros_like(weights)
        d_factors = weights.new_zeros(*poles.shape, 2)
        factors = torch.view_as_real(torch.stack([scale * nodes, scale.square()]))
        for block, fractions in _fractions(poles, nodes, scale):
            d_sums = torch.view_as_real(grads[0][..., block].resolve_conj()).flatten(-2)
            d_weights += d_sums @ fractions.mT
            d_fractions = _complex(weights.mT @ d_sums)
            d_products = d_fractions.mul_(_complex(fractions).square().conj())
            d_factors -= (
                torch.view_as_real(d_products).flatten(-2) @ factors[:, block].flatten(1).mT
            )
        of_nodes, of_scale = d_factors.unbind(-1)
        d_real = 2 * (poles.real * of_scale - of_nodes)
        return torch.complex(d_real, 2 * poles.imag * of_scale), d_weights, None, None


def _fractions(poles: Tensor, nodes: Tensor, scale: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Return `1 / D`, block by block of nodes, `(*batch, n, 2 nodes)` as real numbers."""
    real, imag = poles.real, poles.imag
    upper = torch.stack([torch.ones_like(real), -real, -imag], -1)
    lower = torch.stack([torch.ones_like(real), -real, imag], -1)
    terms = torch.view_as_real(torch.stack([nodes, scale, 1j * scale]))
    size = max(16, _NUMBERS_AT_ONCE // max(poles.numel(), 1))
    for start in range(0, len(nodes), size):
        block = slice(start, start + size)
        columns = terms[:, block].flatten(1)
        product = _complex(upper @ columns).mul_(_complex(lower @ columns))
        yield block, torch.view_as_real(product.reciprocal_()).flatten(-2)


def _complex(x: Tensor) -> Tensor:
    """Read pairs of real numbers along the last axis as complex ones."""
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))
