"""Matrix products by the fastest library there is, for functions with their own backward pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_LARGE = 3_000_000  # multiplications, below which oneDNN's start-up of 10 us does not pay
_SMALL = 2_000  # hidden numbers a step, below which calls of tensor functions dominate


def linear(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return `rows weight' + bias`, with a gradient.

    Args:
        rows: `(*axes, inner)`.
        weight: `(columns, inner)`.
        bias: `(columns,)`.
    """
    return _Linear.apply(rows.to(weight.dtype), weight, bias)  # type: ignore[return-value]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(rows, weight)
        flat = times_turned(rows.flatten(0, -2), weight)
        return flat.add_(bias).unflatten(0, rows.shape[:-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:  # noqa: ANN401
        rows, weight = ctx.saved_tensors
        flat = grad.flatten(0, -2)
        back = None
        if ctx.needs_input_grad[0]:
            back = times_turned(flat, weight.t().contiguous()).view(rows.shape)
        return back, summed_outer(flat, rows.flatten(0, -2)), flat.sum(0)


def times_turned(left: Tensor, right: Tensor) -> Tensor:
    """Return `left @ right'` without a gradient.

    In float32 on a CPU it asks oneDNN, which uses the vector units of any maker; the library
    behind `left @ right` runs at half their width on AMD's.

    Args:
        left: `(rows, inner)`.
        right: `(columns, inner)`.

    Returns:
        `(rows, columns)`.
    """
    large = left.shape[0] * left.shape[1] * right.shape[0] > _LARGE
    if large and left.dtype == torch.float32 and left.device.type == "cpu" and _one_dnn():
        return torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
    return left @ right.t()


def _one_dnn() -> bool:
    available = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
    return available and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def summed_outer(left: Tensor, right: Tensor) -> Tensor:
    """Return `sum left[..., :, None] * right[..., None, :]` over all leading axes.

    It is the gradient of a weight: one product over all steps and series.

    Args:
        left: `(*axes, rows)`.
        right: `(*axes, columns)`.
    """
    return times_turned(left.flatten(0, -2).t(), right.flatten(0, -2).t())


def compiled(hidden: Tensor) -> bool:
    """Return whether a recursion over `(time, rows, hidden)` is best left to a compiled loop."""
    return hidden.device.type == "cpu" and hidden.shape[-2] * hidden.shape[-1] <= _SMALL


def arrays(*tensors: Tensor) -> list[np.ndarray]:
    """Return tensors as contiguous arrays, without a copy where they are contiguous."""
    return [tensor.contiguous().numpy() for tensor in tensors]
