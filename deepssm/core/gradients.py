"""Gradients that a computation needs inside, whatever the gradient mode of its caller."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T", Tensor, Tensor | None)


@contextmanager
def gradients_on() -> Iterator[None]:
    """Let gradients be taken inside, also under `torch.no_grad()` and `inference_mode()`."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def recordable(tensor: T) -> T:
    """Return a tensor that autograd can record; those of `inference_mode()` are copied.

    Args:
        tensor: Any tensor, or `None`.
    """
    if tensor is None or not tensor.is_inference():
        return tensor
    with torch.inference_mode(False):
        return tensor.clone()
