"""Tensors that are made when they are first read, and then kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

from torch import Tensor


class Lazy:
    """A tensor that is made when somebody asks for it.

    Args:
        make: Makes it; called once.
    """

    def __init__(self, make: Callable[[], Tensor]) -> None:
        self._make: Callable[[], Tensor] | None = make
        self._value: Tensor | None = None

    def __call__(self) -> Tensor:
        """Return the tensor."""
        if self._make is not None:
            self._value, self._make = self._make(), None
        return cast(Tensor, self._value)

    def detached(self) -> Lazy:
        """Return what makes the same tensor without the graph of its computation."""
        return Lazy(lambda: self().detach())

    def __repr__(self) -> str:
        """Say that it waits, or how large it is."""
        if self._value is None:
            return "made when read"
        return " x ".join(str(size) for size in self._value.shape)


class LazyTuple(tuple[Any, ...]):
    """A tuple whose `Lazy` entries are made when they are read, by name, by place or in turn."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401
        """Return an entry, or a tuple of them."""
        found = tuple.__getitem__(self, index)
        if isinstance(index, slice):
            return tuple(_made(x) for x in found)
        return _made(found)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the entries, all of them made."""
        return (self[i] for i in range(len(self)))


def _made(value: object) -> object:
    return value() if isinstance(value, Lazy) else value
