"""Matrix products by the fastest library there is."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

_WORTH_ONEDNN = 2_000_000  # multiplications, below which oneDNN's start-up of 10 us does not pay
_MOST_FOR_LOOPS = 2_000  # hidden numbers a step, below which calls of tensor functions dominate


def linear(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return `rows weight' + bias`, with a gradient.

    Args:
        rows: `(*axes, inner)`.
        weight: `(columns, inner)`.
        bias: `(columns,)`.
    """
    # A compiler chooses the product itself.
    plain = rows.ndim < 2 or torch.compiler.is_compiling()
    plain = plain or not _pays(rows.numel() * len(weight), rows)
    if plain or torch._C._are_functorch_transforms_active():
        return F.linear(rows, weight, bias)
    return _Linear.apply(rows.to(weight.dtype), weight, bias)  # type: ignore[return-value]


class Linear(nn.Linear):
    """`torch.nn.Linear`, the same weights by the faster product."""

    def forward(self, input: Tensor) -> Tensor:
        """Return `input weight' + bias`.

        Args:
            input: `(*axes, in_features)`.
        """
        return linear(input, self.weight, self.bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(rows, weight)
        flat = times_turned(rows.flatten(0, -2), weight)
        return flat.add_(bias).unflatten(0, rows.shape[:-1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:  # noqa: ANN401
        rows, weight = ctx.saved_tensors
        flat, inputs, back = grad.flatten(0, -2), rows.flatten(0, -2), None
        twice = torch.is_grad_enabled()  # a second derivative is wanted: plain operations have it
        if ctx.needs_input_grad[0]:
            back = flat @ weight if twice else times_turned(flat, weight.t())
            back = back.view(rows.shape)
        outer = flat.t() @ inputs if twice else summed_outer(flat, inputs)
        return back, outer, flat.sum(0)


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
    if right.is_mkldnn or _pays(left.numel() * len(right), left):
        left, right = _dense(left), _dense(right)
        return torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
    return left @ right.t()


def packed(right: Tensor, rows: int) -> Tensor:
    """Return a matrix as oneDNN lays it out, for many products `times_turned(left, right)`.

    Args:
        right: `(columns, inner)`.
        rows: Rows of every `left` to come.
    """
    if not _pays(rows * right.numel(), right):
        return right
    return torch.ops.mkldnn._reorder_linear_weight(right.detach().contiguous(), rows)


def _dense(matrix: Tensor) -> Tensor:
    """Copy a matrix with gaps between its rows, for which oneDNN has no fast code."""
    dense = matrix.is_mkldnn or matrix.is_contiguous() or matrix.t().is_contiguous()
    return matrix if dense else matrix.contiguous()


def _pays(multiplications: int, rows: Tensor) -> bool:
    """Return whether oneDNN is there for these numbers and worth calling."""
    if multiplications < _WORTH_ONEDNN or rows.dtype != torch.float32 or rows.device.type != "cpu":
        return False
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
    return hidden.device.type == "cpu" and hidden.shape[-2] * hidden.shape[-1] <= _MOST_FOR_LOOPS


def arrays(*tensors: Tensor) -> list[np.ndarray]:
    """Return tensors as contiguous arrays, without a copy where they are contiguous."""
    return [tensor.contiguous().numpy() for tensor in tensors]
