"""State space models of your own functions, with Gaussian noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from pyro import settings
from pyro.distributions import MultivariateNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn
from torch.distributions import constraints

from ...core.arguments import checked
from ...core.gaussian import Pushforward, mvn, psd_factor
from ...core.model import StateSpaceModel

Numbers = Tensor | Sequence[Sequence[float]] | PyroParam | PyroSample
TransitionFunction = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]
EmissionFunction = Callable[[Tensor, Tensor | None], Tensor]


@checked
class NonlinearGaussian(StateSpaceModel):
    """`z_t = f(z_{t-1}, u_t, dt_t) + w_t`, `y_t = h(z_t, u_t) + v_t`, Gaussian `w`, `v`, `z_1`.

    `f` and `h` are plain torch functions that treat leading axes as batches. An `nn.Module` may
    stand for either, and its parameters (physical constants, networks) are then learnt with the
    rest. A covariance is fixed if it is given as numbers, and learnt if it is an `nn.Parameter`
    or a `PyroParam`.

    Args:
        transition: `f(z, u, dt)` with `z` `(*axes, state)`, `u` `(*axes, input)` or `None`, `dt`
            `(*axes)` or `None`; returns `(*axes, state)`.
        emission: `h(z, u)`; returns `(*axes, obs)`.
        Q: Covariance of `w_t`, `(state, state)`, possibly singular, or a function of `dt` that
            returns `(*axes, state, state)`.
        R: Covariance of `v_t`, `(obs, obs)`.
        m0: Mean of the state that emits the first observation, `(state,)`.
        P0: Its covariance, `(state, state)`.
        noise: Where the noise enters: `"added"` to the results of `f` and `h`, or `"inside"`, in
            which case the functions are `f(z, u, dt, w)` and `h(z, u, v)` and the sizes of `w`
            and `v` are those of `Q` and `R`.
        input_dim: Size of `u`.
        circular_state: Which components of `z` are angles in radians.
        circular_obs: Which components of `y` are angles in radians; their differences are taken
            the short way round by every filter.

    Raises:
        ValueError: a shape does not fit, or a covariance is not positive semi-definite.

    Source: Särkkä & Svensson (2023), Bayesian Filtering and Smoothing, equation 7.1.
    """

    Q: Tensor
    R: Tensor
    m0: Tensor
    P0: Tensor

    def __init__(
        self,
        transition: TransitionFunction,
        emission: EmissionFunction,
        *,
        Q: Numbers | Callable[[Tensor | None], Tensor],
        R: Numbers,
        m0: Tensor | Sequence[float] | PyroParam | PyroSample,
        P0: Numbers,
        noise: Literal["added", "inside"] = "added",
        input_dim: int = 0,
        circular_state: tuple[int, ...] = (),
        circular_obs: tuple[int, ...] = (),
    ) -> None:
        with settings.context(module_local_params=True):  # see `_own`
            super().__init__()
        self.transition_function, self.emission_function = transition, emission
        self.noise_function = Q if callable(Q) and not isinstance(Q, _VALUES) else None
        if self.noise_function is None:
            self._hold("Q", Q)
        self._hold("R", R)
        self._hold("P0", P0)
        self._hold("m0", m0)
        self.noise, self.state_dim, self.input_dim = noise, len(self.m0), input_dim
        self.obs_dim = self._observation_size()
        self.circular_state, self.circular_obs = circular_state, circular_obs
        self._factors: dict[str, tuple[int, int, Tensor]] = {}
        self._check_shapes()

    def initial(self) -> MultivariateNormal:
        """Return `p(z_1) = N(m0, P0)`."""
        return mvn(self.m0, self._factor("P0"))

    def transition(
        self, z: Tensor, u: Tensor | None = None, dt: Tensor | None = None
    ) -> MultivariateNormal | Pushforward:
        """Return `p(z_t | z_{t-1} = z)`: `N(f(z, u, dt), Q)` if the noise is added.

        Args:
            z: `(*axes, state)`.
            u: `(*axes, input)`.
            dt: `(*axes)` or `()`.
        """
        noise = self.noise_function
        factor = self._factor("Q") if noise is None else psd_factor(noise(dt), "Q")
        if self.noise == "added":
            mean = _own(self.transition_function)(z, u, dt)
            return mvn(_shaped("transition", mean, z, self.state_dim), factor)
        f: Callable[..., Tensor] = _own(self.transition_function)
        return Pushforward(lambda w: f(z, u, dt, w), factor, z.shape[:-1])

    def emission(self, z: Tensor, u: Tensor | None = None) -> MultivariateNormal | Pushforward:
        """Return `p(y_t | z_t = z)`: `N(h(z, u), R)` if the noise is added.

        Args:
            z: `(*axes, state)`.
            u: `(*axes, input)`.
        """
        if self.noise == "added":
            mean = _own(self.emission_function)(z, u)
            return mvn(_shaped("emission", mean, z, self.obs_dim), self._factor("R"))
        h: Callable[..., Tensor] = _own(self.emission_function)
        return Pushforward(lambda v: h(z, u, v), self._factor("R"), z.shape[:-1])

    @property
    def inner_noise(self) -> tuple[Tensor, Tensor] | None:
        """Factors of `Q` and `R` if the noises enter inside the functions, else `None`."""
        return None if self.noise == "added" else (self._factor("Q"), self._factor("R"))

    def _observation_size(self) -> int:
        if self.noise == "added":
            return self.R.shape[-1]
        if self.noise_function is not None:
            raise ValueError(
                "`Q` must be a matrix if `noise` is 'inside'; let `f(z, u, dt, w)` scale `w` "
                "by the time elapsed instead."
            )
        u = self.m0.new_zeros(self.input_dim) if self.input_dim else None
        h: Callable[..., Tensor] = _own(self.emission_function)
        with torch.no_grad():
            return h(self.m0, u, self.m0.new_zeros(self.R.shape[-1])).shape[-1]

    def _hold(self, name: str, value: object) -> None:
        """Register a fixed value as a buffer, a learnable one under its constraint."""
        if isinstance(value, nn.Parameter) and name != "m0":
            value = PyroParam(value.detach().clone(), constraints.positive_definite)
        if isinstance(value, _VALUES[1:]):
            setattr(self, name, value)
        else:
            tensor = value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
            whole = not tensor.is_floating_point()
            self.register_buffer(name, tensor.double() if whole else tensor.clone())

    def _factor(self, name: str) -> Tensor:
        cov = getattr(self, name)
        if cov.requires_grad or torch.is_inference_mode_enabled():
            return psd_factor(cov, name)
        known = self._factors.get(name)
        if known is None or known[:2] != (cov.data_ptr(), cov._version):
            known = (cov.data_ptr(), cov._version, psd_factor(cov, name))
            self._factors[name] = known
        return known[2]

    def _check_shapes(self) -> None:
        sizes = {"R": self.R.shape[-1], "P0": self.state_dim}
        if self.noise_function is None:
            sizes["Q"] = self.state_dim if self.noise == "added" else self.Q.shape[-1]
        for name, size in sizes.items():
            shape = tuple(getattr(self, name).shape)
            if shape != (size, size):
                raise ValueError(
                    f"`{name}` must be ({size}, {size}), got {shape}. The state size comes from "
                    "`m0` and the observation size from `R`."
                )
            self._factor(name)


def _shaped(name: str, mean: Tensor, z: Tensor, size: int) -> Tensor:
    """Return what a user's function made of `z`; one that lost an axis would broadcast.

    Raises:
        ValueError: It does not end in an axis of `size`, or has fewer axes than `z`.
    """
    if mean.ndim < z.ndim or mean.shape[-1] != size:
        raise ValueError(
            f"`{name}` must return `(*axes, {size})`, got {tuple(mean.shape)} for states "
            f"{tuple(z.shape)}: leading axes are batches, so write `z[..., :1]` for the first "
            "component, `torch.stack([...], -1)` to join, and `z @ A.T` for `A z`."
        )
    return mean


def _own(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Keep the parameters of a `PyroModule` its own: Pyro reads them from a global store, by name.

    There, two models of one session would share whatever is called alike.
    """
    if not isinstance(function, PyroModule):
        return function

    def called(*args: Tensor | None) -> Tensor:
        with settings.context(module_local_params=True):
            return function(*args)

    return called


_VALUES = (Tensor, nn.Parameter, PyroParam, PyroSample)
