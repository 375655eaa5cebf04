"""Models of two layers: linear and Gaussian given what lies between states and observations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor
from torch.distributions import Distribution

from .model import LinearParameters

if TYPE_CHECKING:
    pass


@runtime_checkable
class ConditionallyLinear(Protocol):
    """A model of two layers: `z` linear and Gaussian given a path of `a`, and `y` read from `a`.

    `p(y, a, z) = prod_t p(y_t | a_t) p(a_t, z_t | z_{t-1}, a_{<t})`. Given `a` the linear state
    `z` is integrated out exactly, and only `a` is drawn: `Collapsed` infers, `CollapsedSVI`
    learns. The state of all methods is `(z, a, ...)`, so that it has a transition and an emission;
    what comes after `a` is a function of the path of `a`.
    """

    @property
    def linear_dim(self) -> int:
        """Size of `z`, the first components of the state."""
        ...

    @property
    def latent_dim(self) -> int:
        """Size of `a`, the next components of the state."""
        ...

    def linear_parameters_given(
        self, a: Tensor, u: Tensor | None, dt: Tensor | None
    ) -> LinearParameters:
        """Return the matrices of `p(z, a)`; entry `t` may read `a` up to step `t - 1`.

        Args:
            a: `(*batch, time, latent)`, without NaN.
            u: `(*batch, time, input)` or `None`.
            dt: `(*batch, time)`, `()` or `None`.
        """
        ...

    def emission_given(self, a: Tensor, u: Tensor | None = None) -> Distribution:
        """Return `p(y_t | a_t = a)`, batch shape `axes`, event shape `(obs,)`.

        Args:
            a: `(*axes, latent)`.
            u: `(*axes, input)` or `None`.
        """
        ...

    def state_given(self, z: Tensor, a: Tensor) -> Tensor:
        """Return the states of all methods, `(*batch, time, state)`.

        Args:
            z: `(*batch, time, linear)`.
            a: `(*batch, time, latent)`.
        """
        ...
