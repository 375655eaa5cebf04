"""Starting a running filter, whatever the method."""

from __future__ import annotations

import torch

from ...core.methods import InferenceMethod, OnlineFilter, OnlineMethod
from ...core.model import StateSpaceModel


def start_online(model: StateSpaceModel, method: InferenceMethod) -> OnlineFilter:
    """Start an online filter.

    Args:
        model: The model.
        method: How to filter.

    Raises:
        ValueError: The method works on whole series only.
    """
    if not isinstance(method, OnlineMethod):
        raise ValueError(
            f"`{type(method).__name__}` works on whole series and has no online form. Use "
            "`Kalman()`, `Extended()`, `Unscented()`, `Switching()` or `ForwardBackward()`."
        )
    from .autoregressive import RememberingFilter

    with torch.no_grad():
        started = method.online(model)
        return RememberingFilter(started, model) if model.reads_past else started
