"""Results of which large fields are made when they are first read, and then kept.

A chain of `K` states has `T K^2` covariances, which few callers look at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

from torch import Tensor

from .results import Filtered, Smoothed


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

    def __repr__(self) -> str:
        """Say that it waits, or show it."""
        return "<made when read>" if self._value is None else repr(self._value)


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


class LazyFiltered(LazyTuple, Filtered):
    """`Filtered` with covariances that are made when they are read."""

    @property
    def cov(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Filtered covariances, `(*batch, time, state, state)`."""
        return self[1]

    @property
    def predicted_cov(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Predicted covariances, `(*batch, time, state, state)`."""
        return self[3]


class LazySmoothed(LazyTuple, Smoothed):
    """`Smoothed` with covariances that are made when they are read."""

    @property
    def cov(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Smoothed covariances, `(*batch, time, state, state)`."""
        return self[1]

    @property
    def cross_cov(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Lag-one covariances, `(*batch, time, state, state)`; entry 0 is zero."""
        return self[2]


def lazy_filtered(
    mean: Tensor,
    cov: Callable[[], Tensor],
    predicted_mean: Tensor,
    predicted_cov: Callable[[], Tensor],
    log_likelihood: Tensor,
    ill_conditioned: Tensor,
) -> Filtered:
    """Return a `Filtered` whose covariances wait; the arguments are its fields."""
    fields = mean, Lazy(cov), predicted_mean, Lazy(predicted_cov), log_likelihood, ill_conditioned
    return LazyFiltered(*cast(Any, fields))


def lazy_smoothed(
    mean: Tensor,
    cov: Callable[[], Tensor],
    cross_cov: Callable[[], Tensor],
    log_likelihood: Tensor,
    ill_conditioned: Tensor,
) -> Smoothed:
    """Return a `Smoothed` whose covariances wait; the arguments are its fields."""
    fields = mean, Lazy(cov), Lazy(cross_cov), log_likelihood, ill_conditioned
    return LazySmoothed(*cast(Any, fields))


def _made(value: object) -> object:
    return value() if isinstance(value, Lazy) else value
