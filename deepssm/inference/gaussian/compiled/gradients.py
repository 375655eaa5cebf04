"""Gradients of what compiled loops computed: by torch, when and only when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ....core.model import Series, StateSpaceModel

Route = Callable[[], tuple[Tensor, ...]]


def learnables(model: StateSpaceModel, series: Series) -> list[Tensor]:
    """Return parameters and data that want gradients."""
    data = [x for x in series if x is not None]
    return [x for x in (*model.parameters(), *data) if x.requires_grad]


def in_transform(model: StateSpaceModel, series: Series) -> bool:
    """Tell whether numbers are hidden from compiled code by `vmap`, `grad` or forward mode."""
    tensors = [*model.parameters(), *model.buffers(), *(x for x in series if x is not None)]
    for x in tensors:
        if forward_ad.unpack_dual(x).tangent is not None:
            return True
        if torch._C._functorch.is_functorch_wrapped_tensor(x):  # pyright: ignore[reportAttributeAccessIssue]
            return True
    return False


def foreign(tensors: list[Tensor], learnt: list[Tensor]) -> bool:
    """Tell whether a gradient of the tensors reaches anything but what is to be learnt."""
    known, seen = {id(x) for x in learnt}, set()
    if any(x.requires_grad and x.is_leaf and id(x) not in known for x in tensors):
        return True
    waiting = [x.grad_fn for x in tensors if x.grad_fn is not None]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name().endswith("AccumulateGrad") and id(node.variable) not in known:  # type: ignore[attr-defined]
            return True
        waiting += [following for following, _ in node.next_functions]
    return False


def attached(results: list[Tensor], route: Route, learnt: list[Tensor]) -> list[Tensor]:
    """Return the results with the gradients of `route`, which computes the same by torch.

    Args:
        results: What was computed.
        route: Runs only when a gradient is asked for.
        learnt: What it may be asked of; nothing if there is none.
    """
    if not learnt:
        return results
    out = _Recomputed.apply(route, len(results), *results, *learnt)
    return list(out)  # type: ignore[arg-type]


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, route: Route, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        ctx.route, ctx.count = route, count
        ctx.save_for_backward(*tensors[count:])
        return tuple(x.clone() for x in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *bars: Tensor) -> tuple[Any, ...]:  # noqa: ANN401  # pyright: ignore[reportIncompatibleMethodOverride]
        again = torch.is_grad_enabled()  # somebody wants derivatives of the gradient
        with torch.enable_grad():
            results = ctx.route()
        pairs = [(r, bar) for r, bar in zip(results, bars, strict=True) if r.requires_grad]
        grads = torch.autograd.grad(
            [r for r, _ in pairs], ctx.saved_tensors, [bar for _, bar in pairs],
            allow_unused=True, create_graph=again,
        )  # fmt: skip
        return (None, None, *[None] * ctx.count, *grads)
