"""Results that carry the labels of the user's frame, and show their sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

from torch import Tensor

from .lazy import Lazy

if TYPE_CHECKING:
    import pandas as pd

_R = TypeVar("_R", bound="Labelled")


class Labelled:
    """Row and column labels a result inherits from the data; not part of its fields.

    Attributes:
        index: Time labels, or `None`.
        names: Column names of the observations (or of the states), or `None`.
    """

    index: pd.Index | None = None
    names: tuple[str, ...] | None = None

    def labelled(self: _R, index: pd.Index | None, names: tuple[str, ...] | None) -> _R:
        """Attach labels; return the result as numbers, without the graph of their computation.

        Every verb hands its result out through here, so that it can be drawn, copied and pickled.
        A gradient is that of `ds.log_likelihood`, or of a method's own result.
        """
        result = self
        # Entries as they are: what is made when read stays unmade.
        entries = tuple(tuple.__iter__(cast(Any, self)))
        if any(map(_carries_graph, entries)):
            result = type(self)(*map(_without_graph, entries))
            vars(result).update(vars(self))
        result.index, result.names = index, names
        return result

    def __repr__(self) -> str:
        """Name the fields and their shapes, not their numbers."""
        fields = zip(cast(Any, self)._fields, tuple.__iter__(cast(Any, self)), strict=True)
        shapes = [f"{name}: {_shape(value)}" for name, value in fields if value is not None]
        names = [] if self.names is None else [f"names: {_shortened(self.names)}"]
        return f"{type(self).__name__}({', '.join(shapes + names)})"


def _carries_graph(value: object) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _without_graph(value: object) -> object:
    if isinstance(value, Lazy):
        return value.detached()
    return value.detach() if isinstance(value, Tensor) else value


def _shape(value: object) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    return " x ".join(str(size) for size in value.shape) or f"{value.item():g}"


def _shortened(names: tuple[str, ...], most: int = 4) -> str:
    shown = ", ".join(str(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown}, ... ({len(names)})"
