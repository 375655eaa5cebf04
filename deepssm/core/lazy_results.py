"""Results of which large fields are made when they are first read, and then kept.

A chain of `K` states has `T K^2` covariances, which few callers look at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor

from .lazy import Lazy, LazyTuple
from .results import Filtered, Smoothed


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
