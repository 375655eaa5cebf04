"""One view of every model, step by step: what the sequential methods read."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import Distribution

from ...core.abilities import LinearGaussianModel, NonAdditiveNoise
from ...core.gaussian import mvn, psd_factor
from ...core.model import LinearConditional, Series, StateSpaceModel
from .angles import Wrap, circular


@runtime_checkable
class HasCovariance(Protocol):
    """A distribution that knows its whole covariance, not the variances alone."""

    @property
    def covariance_matrix(self) -> Tensor:
        """`(*batch, size, size)`."""
        ...


StepConditional: TypeAlias = Callable[[Tensor, int], Distribution]


class Conditionals(NamedTuple):
    """The three distributions of a model bound to the inputs and times of some series.

    Attributes:
        initial: `p(z_1)`.
        transition: `(z, t)` to `p(z_t | z_{t-1} = z)`; `z` is `(*points, *batch, state)`.
        emission: `(z, t)` to `p(y_t | z_t = z)`.
        wrap_state: Shortens differences of states; identity but for angles.
        wrap_obs: Shortens differences of observations.
        noise: Factors of the noises of transition and emission if they enter inside the model's
            functions, else `None`.
    """

    initial: Distribution
    transition: StepConditional
    emission: StepConditional
    wrap_state: Wrap
    wrap_obs: Wrap
    noise: tuple[Tensor, Tensor] | None = None


def bind(model: StateSpaceModel, series: Series) -> Conditionals:
    """Bind a model to the inputs and time steps of `series`.

    A model that knows its matrices gives them once, time-varying ones included; any other is
    called at every step.

    Raises:
        ValueError: the model starts with infinite variance in some direction.
    """
    wraps = (
        circular(model.circular_state, model.state_dim),
        circular(model.circular_obs, model.obs_dim),
    )
    if isinstance(model, LinearGaussianModel):
        return Conditionals(*_linear(model, series), *wraps)
    u, dt = series.u, series.dt

    def transition(z: Tensor, t: int) -> Distribution:
        return model.transition(z, _input(u, z, t), _elapsed(dt, z, t))

    def emission(z: Tensor, t: int) -> Distribution:
        return model.emission(z, _input(u, z, t))

    noise = model.inner_noise if isinstance(model, NonAdditiveNoise) else None
    return Conditionals(model.initial(), transition, emission, *wraps, noise)


def covariance(distribution: Distribution) -> Tensor:
    """Return the covariance of a distribution over vectors, `(*batch, size, size)`."""
    if isinstance(distribution, HasCovariance):
        return distribution.covariance_matrix
    return torch.diag_embed(distribution.variance)


def gaussian_start(conditionals: Conditionals, series: Series) -> tuple[Tensor, Tensor]:
    """Return mean and factor of `p(z_1)` for every series, `(*batch, state)` and a square one."""
    initial = conditionals.initial
    mean = initial.mean
    if isinstance(initial, torch.distributions.MultivariateNormal):
        factor = initial.scale_tril
    elif isinstance(initial, HasCovariance):
        factor = psd_factor(initial.covariance_matrix, "covariance of the first state")
    else:
        factor = torch.diag_embed(initial.variance.sqrt())
    shape = (*series.batch_shape, mean.shape[-1])
    return mean.expand(shape), factor.expand(*shape, shape[-1])


def _linear(
    model: LinearGaussianModel, series: Series
) -> tuple[Distribution, StepConditional, StepConditional]:
    initial, transition, emission = model.linear_parameters(series.u, series.dt)
    if initial.diffuse is not None and initial.diffuse.shape[-1]:
        raise ValueError(
            f"`{type(model).__name__}` starts with infinite variance in "
            f"{initial.diffuse.shape[-1]} direction(s), and this method needs a proper `p(z_1)`. "
            "Use `ds.inference.Kalman()`, which is exact for it and doubts observations too, "
            "`Kalman(robust=Gate())`, or take a model with a finite `P0`."
        )
    start = mvn(initial.mean, psd_factor(initial.cov, "P0"))
    return start, _affine(transition), _affine(emission)


def _affine(conditional: LinearConditional) -> StepConditional:
    matrix, offset, cov = conditional
    factor = psd_factor(cov)
    times = matrix.shape[-3], offset.shape[-2], cov.shape[-3]  # each T or 1

    def at_step(z: Tensor, t: int) -> Distribution:
        i, j, k = (min(t, time - 1) for time in times)
        mean = (matrix[..., i, :, :] @ z[..., None])[..., 0] + offset[..., j, :]
        return mvn(mean, factor[..., k, :, :])

    return at_step


def _input(u: Tensor | None, z: Tensor, t: int) -> Tensor | None:
    return None if u is None else u[..., t, :].expand(*z.shape[:-1], u.shape[-1])


def _elapsed(dt: Tensor | None, z: Tensor, t: int) -> Tensor | None:
    if dt is None:
        return None
    return (dt if dt.ndim == 0 else dt[..., t]).expand(z.shape[:-1])
