"""What a pass of the batched backends leaves behind, and how a stationary one divided time."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from ....linear.system import LinearSystem

if TYPE_CHECKING:
    from .passes import Plan


class Gains(NamedTuple):
    """What a step does to second moments; all `(slots, members, ...)`.

    Attributes:
        L: Factor of the predicted covariance, `(n, n)`. F: of the filtered one.
        G: Whitened gain, `(n, p)`. H: Whitened emission `S^{-1/2} C`, `(p, n)`.
        W: `S^{-1/2}`, `(p, p)`; rows of missing components are zero in `H` and `W`.
        volume: `log |S| / 2` of what is observed, `()`.
        worst: Smallest part of a deviation that an observation or its noise leaves, `()`.
    """

    L: Tensor
    F: Tensor
    G: Tensor
    H: Tensor
    W: Tensor
    volume: Tensor
    worst: Tensor

    def at(self, slot: Tensor | slice | None) -> Gains:
        """Return the gains of each step, given which slot each one uses."""
        return self if slot is None else Gains(*(x[slot] for x in self))


class Forward(NamedTuple):
    """Filtered and predicted moments of all steps.

    Attributes:
        a: Predicted means, `(time, members, n, columns)`. m: Filtered means.
        e: Whitened innovations, `(time, members, p, columns)`.
        log_likelihood: `(time, members, columns)`.
        gains: Second moments. slot: Which of them each step uses, or `None`: its own.
        plan: Which stretches were steady, if the stationary filter ran.
    """

    a: Tensor
    m: Tensor
    e: Tensor
    log_likelihood: Tensor
    gains: Gains
    slot: Tensor | None = None
    plan: Plan | None = None


class SteadyFilter(NamedTuple):
    """A model's steady filter.

    Attributes:
        filter: From `(y - d, b)` to filtered means. adjoint: Its transpose, from `S^{-1} v`.
        gains: One slot. cov: Filtered covariance, `(members or 1, n, n)`.
        limit: What the smoother's `N` converges to, `(members or 1, n, n)`.
        steps: After so many steps a small disturbance of the covariance has gone.
    """

    filter: LinearSystem
    adjoint: LinearSystem
    gains: Gains
    cov: Tensor
    limit: Tensor
    steps: int


class Stretch(NamedTuple):
    """Steps `first ... last - 1`, steady or not."""

    first: int
    last: int
    steady: bool


class Plan(NamedTuple):
    """How a series was divided."""

    steady: SteadyFilter
    stretches: list[Stretch]
