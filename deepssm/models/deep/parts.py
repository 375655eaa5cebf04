"""What the parts of a `DeepMarkov` must do, and what they may do."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor
from torch.distributions import Distribution


class Transition(Protocol):
    """`p(z_t | z_{t-1}, u_t)`: an `nn.Module` whose `forward` is `__call__` here.

    Its distribution should have a `mean` and a `variance`, which Gaussian filters and guides read,
    and an `rsample`. Derive from `NeuralTransition` for a learnt diagonal noise.
    """

    def __call__(
        self, z: Tensor, u: Tensor | None = None, dt: Tensor | None = None
    ) -> Distribution:
        """Return the distribution of the next state, batch shape `axes`, event shape `(state,)`.

        Args:
            z: `(*axes, state)`, any leading axes: one step or all at once.
            u: Input of the arriving step in units of one, `(*axes, input)`, or `None`.
            dt: Time since the last step, `(*axes)` or `()`; `None` means equal steps. A part that
                cannot use it raises a `ValueError`.
        """
        ...


class Emission(Protocol):
    """`p(y_t | z_t, u_t)`: an `nn.Module` whose `forward` is `__call__` here.

    Its distribution should have a `mean` and a `variance`. Where components of `y` may be missing
    one by one, it is an `Independent` or a `MultivariateNormal`.
    """

    def __call__(self, z: Tensor, u: Tensor | None = None) -> Distribution:
        """Return the distribution of an observation, batch shape `axes`, event shape `(obs,)`.

        Args:
            z: `(*axes, state)`.
            u: In units of one, `(*axes, input)`, or `None`.
        """
        ...


@runtime_checkable
class InitializesEmission(Protocol):
    """An emission that looks at the data once, before it is trained."""

    def initialize_from(self, y: Tensor) -> None:
        """Store scales of the data and choose starting weights.

        Args:
            y: `(*batch, time, obs)`, NaN where missing.
        """
        ...


@runtime_checkable
class MeasuresNoise(Protocol):
    """An emission that tells a first guess of the noise, from which the transition starts too."""

    def noise_level(self, y: Tensor) -> Tensor:
        """Return the noise of each component in units of its spread, `(obs,)`.

        Args:
            y: `(*batch, time, obs)`, NaN where missing.
        """
        ...


@runtime_checkable
class InitializesNoise(Protocol):
    """A transition whose noise can be started at a given size."""

    def initialize_scale(self, scale: float) -> None:
        """Start the noise at one standard deviation, in the units of `z`."""
        ...


@runtime_checkable
class HasStateSize(Protocol):
    """A part made for states of one size."""

    state_dim: int


@runtime_checkable
class HasObservationSize(Protocol):
    """A part made for observations of one size."""

    obs_dim: int


@runtime_checkable
class HasInputSize(Protocol):
    """A part made for inputs of one size."""

    input_dim: int
