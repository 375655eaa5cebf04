"""Tensors that say they are not on the CPU, and compute there.

A mixture of devices, and `.numpy()` of such a tensor, fail as on a GPU: this finds code that one
would refuse, on machines without. Numbers come out as the CPU has them. The device is called
"meta", for torch without CUDA cannot even index what is called "cuda"; so code that asks for
"cuda" by name is not reached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

DEVICE = torch.device("meta")
_MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Pretend(Tensor):
    """Wraps a CPU tensor; `held` is what it stands for."""

    held: Tensor

    @staticmethod
    def __new__(cls: type[Pretend], held: Tensor) -> Pretend:
        pretend = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.shape, strides=held.stride(), dtype=held.dtype, device=DEVICE,
            storage_offset=held.storage_offset(),
        )  # fmt: skip
        # A pretended tensor has no conjugate bit, which torch would look for.
        pretend.held = held.resolve_conj().resolve_neg()
        return pretend

    def numpy(self, *, force: bool = False) -> Any:  # noqa: ANN401
        if not force:
            raise TypeError("can't convert a tensor of a device to numpy")
        return self.held.detach().numpy()

    def new_tensor(self, data: Any, **options: Any) -> Tensor:  # noqa: ANN401
        return Pretend(self.held.new_tensor(data, **options))

    def tolist(self) -> Any:  # noqa: ANN401
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(
        cls,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: Any = (),  # noqa: ANN401
        kwargs: dict[str, Any] | None = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        return compute(func, args, kwargs or {})


class PretendMode(TorchDispatchMode):
    """Tensors made on "cuda" are pretended ones; under this key torch looks for no driver."""

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: Any = (),  # noqa: ANN401
        kwargs: dict[str, Any] | None = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        return compute(func, args, kwargs or {})


def compute(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
    """Run an operation on what its tensors stand for."""
    seen: list[Tensor] = []

    def plain(x: Any) -> Any:  # noqa: ANN401
        if isinstance(x, Tensor):
            seen.append(x)
        return x.held if isinstance(x, Pretend) else x

    device = kwargs.get("device")
    args, kwargs = tree_map(plain, args), tree_map(plain, kwargs)
    pretended = any(isinstance(x, Pretend) for x in seen)
    # Numbers without axes may be anywhere.
    strangers = [x for x in seen if not isinstance(x, Pretend) and x.ndim > 0]
    if pretended and strangers and func not in _MOVES and not _indexes(func):
        raise RuntimeError(f"{func}: tensors on both cuda:0 and cpu")
    if device is not None:
        pretended = torch.device(device).type == DEVICE.type
        kwargs["device"] = torch.device("cpu")
        kwargs.pop("pin_memory", None)
    out = func(*args, **kwargs)
    if func in _MOVES[1:] or str(func).split(".")[1].endswith("_"):
        return next(x for x in seen)
    return tree_map(lambda x: Pretend(x) if pretended and isinstance(x, Tensor) else x, out)


def pretend(x: Tensor) -> Tensor:
    """Return a leaf on the pretended device."""
    return Pretend(x.detach().clone()).requires_grad_(x.requires_grad)


@contextmanager
def pretending(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let pass what torch does outside of the operations that a tensor can take over."""
    autocast = torch.autocast

    def on_cpu(device: str, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        return autocast("cpu" if device == DEVICE.type else device, *args, **kwargs)

    patch.setattr(torch, "autocast", on_cpu)
    patch.setattr(torch, "tensor", _making(torch.tensor))
    patch.setattr(torch, "as_tensor", _making(torch.as_tensor))
    yield


def _making(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def made(data: Any, *, device: Any = None, **options: Any) -> Tensor:  # noqa: ANN401
        if device is None or torch.device(device).type != DEVICE.type:
            return make(data, device=device, **options)
        if isinstance(data, Tensor):
            return data.to(device, options.get("dtype"))
        return Pretend(make(data, **options))

    return made


def _indexes(func: Any) -> bool:  # noqa: ANN401
    return "index" in str(func)
