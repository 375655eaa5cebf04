"""What a model can do beyond its three distributions: one named Protocol for each ability.

A method asks `isinstance(model, Ability)`, never for a name that no file declares. A model has an
ability by having its members; nothing is registered. `api/defaults.py` maps abilities to the
method and the learner that are taken where the caller names none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import Distribution

from .model import LinearParameters, Readable, Series

if TYPE_CHECKING:
    from .results import Smoothed


@runtime_checkable
class LinearGaussianModel(Protocol):
    """A model whose three distributions are linear and Gaussian, and which can say so.

    `Kalman()` infers exactly, `MaximumLikelihood()` learns. Simulation and every filter read
    these matrices in the place of the three distributions.
    """

    def linear_parameters(self, u: Tensor | None, dt: Tensor | None) -> LinearParameters:
        """Return the matrices; `B u` and `D u` are part of the offsets.

        Args:
            u: `(*batch, time, input)` or `None`.
            dt: `(*batch, time)`, `()` or `None`.

        Returns:
            Conditionals whose fields have a time axis, of size 1 where nothing changes; entry `t`
            of the transition leads from `t - 1` to `t`, and entry 0 is unused.
        """
        ...


def is_linear_gaussian(model: object) -> TypeGuard[LinearGaussianModel]:
    """Return whether a model is a `LinearGaussianModel`, by its class.

    Asking the instance takes 7 us each time, a tenth of a short filter; what a class answers is
    remembered by Python itself.
    """
    return issubclass(type(model), LinearGaussianModel)


@runtime_checkable
class ReadsNoiseVariances(Protocol):
    """A model some of whose inputs are the noise variances of the observations of their step."""

    @property
    def noise_columns(self) -> slice:
        """Which columns of `u` they are, one for each component of `y`."""
        ...


@runtime_checkable
class HasMatrices(Protocol):
    """A linear-Gaussian model with matrices by name, which `ExpectationMaximization` sets.

    With `LinearGaussianModel` beside it. Each matrix is an attribute of the model under its name:
    a buffer, an `nn.Parameter`, a `PyroParam`, or `None` where it has none.
    """

    start: tuple[str, ...]
    """How each state starts: `"known"` by `m0`, `P0`, else `"stationary"` or `"diffuse"`."""

    def matrices(self) -> Mapping[str, Tensor | None]:
        """Return the constrained values of `A, B, b, Q, C, D, d, R, m0, P0` by these names."""
        ...


@runtime_checkable
class MaximizesMoments(Protocol):
    """A linear-Gaussian model that says how it climbs its expected log joint density.

    With `LinearGaussianModel` beside it; `ExpectationMaximization` learns it.
    """

    def maximize_moments(self, series: Series, smoothed: Smoothed) -> None:
        """Set the free parameters to the maximum of `E[log p(y, z)]`, or nearer it.

        Args:
            series: The data.
            smoothed: Moments of the states given all data, under the present parameters.
        """
        ...


@runtime_checkable
class DiscreteModel(Protocol):
    """A Markov chain over finitely many states; `ForwardBackward()` is exact.

    `z` is a one-hot vector of size `state_dim`. `initial()` and `transition()` return
    distributions over such vectors and are read by simulation and by particles only;
    `emission(z)` takes a one-hot `z` and needs a mean and a variance for forecasts. All that
    `ForwardBackward()` filters, smooths, draws and learns by are the three logarithms here.
    """

    def log_initial(self) -> Tensor:
        """Return `log p(z_1)`, `(states,)`, in nats; `-inf` where impossible."""
        ...

    def log_transition(self, u: Tensor | None = None, dt: Tensor | None = None) -> Tensor:
        """Return `log p(z_t = j | z_{t-1} = i)` as row `i`, column `j`.

        Args:
            u: `(*batch, time, input)` or `None`.
            dt: `(*batch, time)`, `()` or `None`.

        Returns:
            `(states, states)` if it is always the same, else `(*batch, time, states, states)`,
            where `time` may be 1. Entry `t` leads from `t - 1` to `t`; entry 0 is unused.
        """
        ...

    def log_emission(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        """Return `log p(y_t | z_t)` of every state, `(*batch, time, states)`.

        Args:
            y: `(*batch, time, obs)`, NaN where missing; what is missing adds exactly 0.
            u: `(*batch, time, input)` or `None`.
        """
        ...


@runtime_checkable
class SwitchingModel(Protocol):
    """A Markov chain of modes, each a linear-Gaussian model of one common state.

    `Switching()` and `RaoBlackwellised()` infer. The state of all methods is
    `(one-hot mode, state)`, so that `state_dim` is `num_modes + latent_dim`.
    """

    @property
    def num_modes(self) -> int:
        """Number of modes."""
        ...

    @property
    def latent_dim(self) -> int:
        """Size of the state that the modes share."""
        ...

    def log_initial(self) -> Tensor:
        """Return `log p(mode_1)`, `(modes,)`, in nats; `-inf` where impossible."""
        ...

    def log_transition(self) -> Tensor:
        """Return `log p(mode_t = j | mode_{t-1} = i)` as row `i`, column `j`, `(modes, modes)`."""
        ...

    def mode_parameters(self, u: Tensor | None, dt: Tensor | None) -> LinearParameters:
        """Return the matrices of all modes, with an axis for the mode before the event axes.

        Args:
            u: `(*batch, time, input)` or `None`.
            dt: `(*batch, time)`, `()` or `None`.

        Returns:
            Conditionals with `matrix` `(*batch, time or 1, modes, out, in)`, `offset`
            `(*batch, time or 1, modes, out)` and `cov` alike; a proper start with `mean`
            `(modes, latent)` and `cov` `(modes, latent, latent)`.
        """
        ...


@runtime_checkable
class ReadsEarlierObservations(Protocol):
    """A discrete model whose emission reads the last `lags` observations (0: none).

    Its `log_emission` finds them in `y` itself; `emission_after` draws one step.
    """

    @property
    def lags(self) -> int:
        """How many earlier observations the emission reads."""
        ...

    def emission_after(self, z: Tensor, past: Tensor, u: Tensor | None = None) -> Distribution:
        """Return `p(y_t | z_t = z, y_{t-1}, ...)`.

        Args:
            z: `(*axes, state)`.
            past: The last observations, oldest first, `(*axes, lags, obs)`, zeros before the
                first.
            u: `(*axes, input)`.
        """
        ...


def lags_of(model: object) -> int:
    """Return how many earlier observations a model's emission reads."""
    return model.lags if isinstance(model, ReadsEarlierObservations) else 0


@runtime_checkable
class ClosedFormEM(Protocol):
    """A discrete model that can maximise its expected log joint density; `BaumWelch` learns it.

    With `DiscreteModel` beside it.
    """

    @property
    def has_closed_form(self) -> bool:
        """Whether `maximize` sets every free parameter at once, so that EM is the default."""
        ...

    def restart(self, series: Series, generator: torch.Generator) -> None:
        """Draw new starting values of the free parameters.

        Args:
            series: The data, from which they may be guessed.
            generator: Source of randomness.

        Raises:
            ValueError: `series.y` holds an observation that no state can emit.
        """
        ...

    def maximize(self, series: Series, first: Tensor, pairs: Tensor, smoothed: Tensor) -> None:
        """Set the free parameters to the maximum of the expected log joint density, or nearer it.

        Args:
            series: The data.
            first: `p(z_1 | y)`, `(*batch, states)`.
            pairs: `p(z_{t-1}, z_t | y)`, `(*batch, time, states, states)`; entry 0 is zero. Where
                all transitions are alike only their sum over time and series comes, as entry 1
                of `(2, states, states)`.
            smoothed: `p(z_t | y)`, `(*batch, time, states)`.
        """
        ...


@runtime_checkable
class HasStepFunctions(Protocol):
    """A model of two plain functions and Gaussian noise whose size the state does not change.

    Gaussian filters trace the functions and run them compiled.
    """

    def transition_function_of(
        self, z: Tensor, u: Tensor | None, dt: Tensor | None, w: Tensor | None
    ) -> Tensor:
        """Return `f(z, u, dt)`, or `f(z, u, dt, w)` where the noise enters inside."""
        ...

    def emission_function_of(self, z: Tensor, u: Tensor | None, v: Tensor | None) -> Tensor:
        """Return `h(z, u)`, or `h(z, u, v)` where the noise enters inside."""
        ...

    def noise_factors(self, dt: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return factors of `Q`, `(*axes, state, state)` with the axes of `dt`, and of `R`."""
        ...


@runtime_checkable
class NonAdditiveNoise(Protocol):
    """A model whose noise enters inside its functions, `f(z, w)`, where it is told so.

    Its `transition` and `emission` then return a `core.gaussian.Pushforward`, whose function
    of the noise Gaussian filters push points through.
    """

    @property
    def inner_noise(self) -> tuple[Tensor, Tensor] | None:
        """Factors of the covariances of the noises inside `f` and `h`; `None` if they add.

        `(noise, noise)` each, with `L L'` the covariance.
        """
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
class HasDerivedNumbers(Protocol):
    """A model with numbers that follow from its parameters and that people ask for."""

    def derived(self) -> Mapping[str, Tensor]:
        """Return them by name, differentiable, such as the coefficients of an autoregression."""
        ...


@runtime_checkable
class HasReadableParameters(Protocol):
    """A model that says how a person reads its parameters, such as the rates behind logarithms."""

    def readable(self) -> Mapping[str, Readable]:
        """Return what a person reads, by the name of the parameter that holds it."""
        ...
