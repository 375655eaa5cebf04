"""Learning on behalf of a caller: gradients are on, and what is learnt becomes the fit's own."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ..core.gradients import gradients_on, plain_series
from ..core.methods import InferenceMethod, Learned, LearningMethod, UsesGuide
from ..core.model import Series, StateSpaceModel


def learn(
    learner: LearningMethod,
    model: StateSpaceModel,
    series: Series,
    progress: bool,
    generator: torch.Generator | None,
) -> tuple[Learned, Series]:
    """Learn, whatever the caller's gradient mode is; return the data that was learnt from too.

    Args:
        learner: How to learn.
        model: The model, moved in place.
        series: Checked data; what is returned shares no memory with the caller's.
        progress: Show a progress bar.
        generator: Source of randomness.

    Raises:
        ValueError: The model was made under `torch.inference_mode()`.
    """
    require_gradients(model)
    with gradients_on():
        y, u, dt = plain_series(series)
        own = Series(y.detach().clone(), _copied(u), _copied(dt))
        return learner.fit(model, own, progress=progress, generator=generator), own


def _copied(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().clone()


def require_gradients(model: StateSpaceModel) -> None:
    """Raise if no gradient can ever reach the parameters of a model.

    Raises:
        ValueError: The model was made under `torch.inference_mode()`.
    """
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if tensor.is_inference():
            raise ValueError(
                f"`{name}` was made under `torch.inference_mode()`, where no tensor can ever have "
                "a gradient, so it cannot be learnt. Make the model outside of it; `ds.fit` "
                "itself may be called there, or under `torch.no_grad()`."
            )


def own_copy(model: StateSpaceModel, learned: Learned) -> tuple[StateSpaceModel, Learned]:
    """Return a model and what was learnt about it, sharing no parameter with the originals.

    The method of inference is copied together with the model, so that a guide or an average over
    parameter draws that refers to the model refers to the copy. What cannot be copied is shared,
    and the fit says so.

    Args:
        model: The model that was moved.
        learned: What its learner returned.
    """
    memo: dict[int, Any] = {}
    for tensor in _computed(model, learned.method):
        # A tensor with a history cannot be copied with it; as a number it can.
        memo[id(tensor)] = tensor.detach().clone()
    try:
        with gradients_on():
            own, method = copy.deepcopy((model, learned.method), memo)
    except (TypeError, RuntimeError, AttributeError, NotImplementedError) as error:
        return model, learned._replace(
            warnings=[
                *learned.warnings,
                f"{type(model).__name__} cannot be copied ({error}), so this fit shares its "
                "parameters with the model you gave: learning that again changes this fit too.",
            ]
        )
    for parameter in own.parameters():
        parameter.grad = None
    return own, learned._replace(method=method)


def _computed(model: StateSpaceModel, method: InferenceMethod) -> Iterator[Tensor]:
    """Yield the tensors with a history that modules hold beside parameters and buffers."""
    guide = [method.guide] if isinstance(method, UsesGuide) else []
    for root in (model, *guide):
        for module in root.modules():
            yield from _with_history(module)


def _with_history(module: nn.Module) -> Iterator[Tensor]:
    for value in (*vars(module).values(), *module.buffers(recurse=False)):
        if isinstance(value, Tensor) and not value.is_leaf:
            yield value
