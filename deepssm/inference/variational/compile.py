"""Compilation of what is plain tensor code in a training step, for `SVI(compile=True)`."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...core.guides import DifferentiatesModel, PlainTensorCode
from ...core.model import StateSpaceModel
from ..guides.recurrences.cuda_graph import Replay, Replayable, direct


@contextmanager
def compiled_parts(
    model: StateSpaceModel, guide: nn.Module, *, backend: str | Callable[..., Any] = "inductor"
) -> Iterator[None]:
    """Run the networks of a model and the readers of a guide compiled, for any lengths.

    On a GPU the recursion of a `GateCombiner` is recorded as a CUDA graph, one for each shape.
    Modules, their weights and the names of these stay what they are.

    Args:
        model: Its direct parts are compiled.
        guide: Its readers and combiners are; encoders have loops of their own.
        backend: Of `torch.compile`.

    Raises:
        ValueError: the compiler is not installed, or the guide differentiates the model.
    """
    cuda = model.device.type == "cuda"
    if any(isinstance(m, DifferentiatesModel) and m.differentiates_model for m in guide.modules()):
        raise ValueError(
            "`compile=True` needs a guide that does not differentiate the model: compiled code "
            "has no second derivative. Pass `SVI(guide=SmoothingGuide(...))`, or `compile=False`."
        )
    check_compiler(cuda=cuda)
    plain = [m for m in guide.modules() if isinstance(m, PlainTensorCode) and m.plain_tensor_code]
    candidates = [*model.children(), *plain]
    parts = [part for part in candidates if part._compiled_call_impl is None]
    looping = [m for m in guide.modules() if cuda and isinstance(m, Replayable)]
    try:
        for part in parts:
            part._compiled_call_impl = _while_learning(part, backend)
        for part in looping:
            part.run_loops = Replay()
        yield
    finally:
        for part in parts:
            part._compiled_call_impl = None
        for part in looping:
            part.run_loops = direct


def _while_learning(part: nn.Module, backend: str | Callable[..., Any]) -> Callable[..., Any]:
    """Return a part's call: compiled where gradients are on, so that scoring compiles nothing."""
    plain = part._call_impl
    compiled = torch.compile(plain, dynamic=True, backend=backend)
    return lambda *parts, **named: (compiled if torch.is_grad_enabled() else plain)(
        *parts, **named
    )


def check_compiler(*, cuda: bool) -> None:
    """Refuse to compile where a tool is missing that `torch.compile` calls.

    Args:
        cuda: Whether the model lies on a GPU.

    Raises:
        ValueError: Triton, a C++ compiler or Python's headers are missing.
    """
    if cuda:
        missing = "" if importlib.util.find_spec("triton") else "the package 'triton'"
    else:
        missing = _missing_tool()
    if missing:
        raise ValueError(
            f"`compile=True` needs {missing}, which is not installed here: install it, or train "
            "with `compile=False`, which gives the same results."
        )


def _missing_tool() -> str:
    names = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++", "cl"]
    if not any(map(shutil.which, names)):
        return f"a C++ compiler ({' or '.join(names)})"
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return "" if headers.is_file() else f"Python's headers ({headers}, 'python3-dev')"
