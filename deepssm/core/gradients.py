"""Gradients that a computation needs inside, whatever the gradient mode of its caller."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from .model import Series

T = TypeVar("T", Tensor, Tensor | None)


@contextmanager
def gradients_on() -> Generator[None]:
    """Let gradients be taken inside, also under `torch.no_grad()` and `inference_mode()`."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def plain_series(series: Series) -> Series:
    """Return a series of tensors that autograd can record."""
    return Series(recordable(series.y), recordable(series.u), recordable(series.dt))


def recordable(tensor: T) -> T:
    """Return a tensor that autograd can record; those of `inference_mode()` are copied.

    Args:
        tensor: Any tensor, or `None`.
    """
    if tensor is None or not tensor.is_inference():
        return tensor
    with torch.inference_mode(False):
        return tensor.clone()
