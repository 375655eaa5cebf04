"""What a model can do beyond its three distributions: one named Protocol for each ability.

A method asks `isinstance(model, Ability)`, never for a name that no file declares. A model has an
ability by having its members; nothing is registered. `api/defaults.py` maps abilities to the
method and the learner that are taken where the caller names none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor
from torch.distributions import Distribution

from .model import LinearParameters, Readable, Series


@runtime_checkable
class LinearGaussianModel(Protocol):
    """A model whose three distributions are linear and Gaussian, and which can say so.

    `Kalman()` infers exactly, `MaximumLikelihood()` learns.
    """

    def linear_parameters(self, u: Tensor | None, dt: Tensor | None) -> LinearParameters:
        """Return the matrices; `B u` and `D u` are part of the offsets.

        Args:
            u: `(*batch, time, input)` or `None`.
            dt: `(*batch, time)`, `()` or `None`.
        """
        ...


@runtime_checkable
class ConditionallyLinear(Protocol):
    """A model whose state is linear and Gaussian given a path of an intermediate variable `a`.

    The state can then be integrated out exactly, and only `a` is drawn.
    """

    def linear_parameters_given(
        self, a: Tensor, u: Tensor | None, dt: Tensor | None
    ) -> LinearParameters:
        """Return the matrices of `p(z, a)`; entry `t` may read `a` up to step `t - 1`.

        Args:
            a: `(*batch, time, intermediate)`.
            u: `(*batch, time, input)` or `None`.
            dt: `(*batch, time)`, `()` or `None`.
        """
        ...


@runtime_checkable
class DiscreteModel(Protocol):
    """A Markov chain over finitely many states; `z` is one-hot. `ForwardBackward()` is exact."""

    def log_initial(self) -> Tensor:
        """Return `log p(z_1)`, `(states,)`."""
        ...

    def log_transition(self, u: Tensor | None = None, dt: Tensor | None = None) -> Tensor:
        """Return `log p(z_t = j | z_{t-1} = i)` as row `i`, column `j`.

        Args:
            u: `(*batch, time, input)` or `None`.
            dt: `(*batch, time)`, `()` or `None`.

        Returns:
            `(states, states)` if it is always the same, else `(*batch, time, states, states)`.
        """
        ...

    def log_emission(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        """Return `log p(y_t | z_t)` of every state, `(*batch, time, states)`; missing adds 0.

        Args:
            y: `(*batch, time, obs)`, NaN where missing.
            u: `(*batch, time, input)` or `None`.
        """
        ...


@runtime_checkable
class SwitchingModel(Protocol):
    """A Markov chain of modes, each a linear-Gaussian model. `Switching()` infers."""

    def log_initial(self) -> Tensor:
        """Return `log p(mode_1)`, `(modes,)`."""
        ...

    def log_transition(self) -> Tensor:
        """Return `log p(mode_t = j | mode_{t-1} = i)`, `(modes, modes)`."""
        ...

    def mode_parameters(self, u: Tensor | None, dt: Tensor | None) -> LinearParameters:
        """Return the matrices of all modes, which are the last batch axis of each.

        Args:
            u: `(*batch, time, input)` or `None`.
            dt: `(*batch, time)`, `()` or `None`.
        """
        ...


@runtime_checkable
class ReadsEarlierObservations(Protocol):
    """A discrete model whose emission reads the last `lags` observations (0: none)."""

    @property
    def lags(self) -> int:
        """How many earlier observations the emission reads."""
        ...

    def emission_after(self, z: Tensor, past: Tensor, u: Tensor | None = None) -> Distribution:
        """Return `p(y_t | z_t = z, y_{t-1}, ...)`.

        Args:
            z: `(*axes, state)`.
            past: The last observations, oldest first, `(*axes, lags, obs)`.
            u: `(*axes, input)`.
        """
        ...


@runtime_checkable
class ClosedFormEM(Protocol):
    """A discrete model that can maximise its expected log joint density; `BaumWelch` learns it."""

    @property
    def has_closed_form(self) -> bool:
        """Whether `maximize` sets every free parameter at once."""
        ...

    def maximize(self, series: Series, first: Tensor, pairs: Tensor, smoothed: Tensor) -> None:
        """Set the free parameters to the maximum of the expected log joint density.

        Args:
            series: The data.
            first: `p(z_1 | y)`, `(*batch, states)`.
            pairs: `p(z_{t-1}, z_t | y)`, `(*batch, time, states, states)`.
            smoothed: `p(z_t | y)`, `(*batch, time, states)`.
        """
        ...


@runtime_checkable
class NonAdditiveNoise(Protocol):
    """A model whose noise enters inside its functions, `f(z, w)`, where it is told so."""

    @property
    def inner_noise(self) -> tuple[Tensor, Tensor] | None:
        """Factors of the covariances of the noises inside `f` and `h`; `None` if they add."""
        ...


@runtime_checkable
class PaintsImages(Protocol):
    """A model whose observations may be images, row by row; its guide reads by convolutions."""

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Rows and columns; `None` where the observations are no images."""
        ...


@runtime_checkable
class HasWeightPrior(Protocol):
    """A model whose parameters `SVI` learns under a normal prior."""

    prior_scale: float | None
    """Standard deviation of the prior, in the units of the parameters; `None` for none."""


@runtime_checkable
class HasReadableParameters(Protocol):
    """A model that says how a person reads its parameters, such as the rates behind logarithms."""

    def readable(self) -> Mapping[str, Readable]:
        """Return what a person reads, by the name of the parameter that holds it."""
        ...
