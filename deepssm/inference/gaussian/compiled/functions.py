"""The steps of a model as functions of tensors that can be traced."""

from __future__ import annotations

from typing import NamedTuple

import torch
from pyro.nn import PyroModule
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MultivariateNormal,
    OneHotCategorical,
)

from ....core.abilities import HasStepFunctions, LinearGaussianModel, NonAdditiveNoise
from ....core.model import StateSpaceModel
from ....ops.tracing.program import Untraceable
from ....ops.tracing.traced import Function
from ...simulation.conditionals import HasCovariance


class StepFunction(NamedTuple):
    """One step: mean, and variance or factor of the noise unless that is given elsewhere.

    Attributes:
        call: `(z, u, dt)` to the tensors, `z` with the noise inside, if any, behind the state.
        inside: Size of the state and the noise inside.
    """

    call: Function
    inside: int


def step_functions(model: StateSpaceModel) -> tuple[StepFunction, StepFunction]:
    """Return transition and emission of a model.

    Raises:
        Untraceable: The model has another route.
    """
    if isinstance(model, LinearGaussianModel):
        raise Untraceable("it is linear, for which `Kalman()` is exact and compiled")
    if model.reads_past:
        raise Untraceable("it reads its last observation")
    if any(isinstance(x, PyroModule) and x._pyro_samples for x in model.modules()):
        raise Untraceable("it has parameters with priors, which are drawn at each call")
    n = model.state_dim
    if isinstance(model, HasStepFunctions):
        inner = model.inner_noise if isinstance(model, NonAdditiveNoise) else None
        sizes = (0, 0) if inner is None else (inner[0].shape[-1], inner[1].shape[-1])
        return _plain(model, n, sizes)
    if isinstance(model, NonAdditiveNoise) and model.inner_noise is not None:
        raise Untraceable("its noise enters inside functions that it does not name")

    def move(z: Tensor, u: Tensor | None, dt: Tensor | None) -> tuple[Tensor, ...]:
        return moments_of(model.transition(z, u, dt))

    def emit(z: Tensor, u: Tensor | None, dt: Tensor | None) -> tuple[Tensor, ...]:
        return moments_of(model.emission(z, u))

    return StepFunction(move, n), StepFunction(emit, n)


def _plain(
    model: HasStepFunctions, n: int, sizes: tuple[int, int]
) -> tuple[StepFunction, StepFunction]:
    def split(z: Tensor, size: int) -> tuple[Tensor, Tensor | None]:
        return (z[..., :n], z[..., n:]) if size else (z, None)

    def move(z: Tensor, u: Tensor | None, dt: Tensor | None) -> tuple[Tensor, ...]:
        state, w = split(z, sizes[0])
        return (model.transition_function_of(state, u, dt, w),)

    def emit(z: Tensor, u: Tensor | None, dt: Tensor | None) -> tuple[Tensor, ...]:
        state, v = split(z, sizes[1])
        return (model.emission_function_of(state, u, v),)

    return StepFunction(move, n + sizes[0]), StepFunction(emit, n + sizes[1])


def moments_of(distribution: Distribution) -> tuple[Tensor, Tensor]:
    """Return the mean, and the variances `(*batch, size)` or a factor `(*batch, size, size)`."""
    mean = distribution.mean
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    if isinstance(distribution, MultivariateNormal):
        return mean, distribution.scale_tril
    if isinstance(distribution, Categorical | OneHotCategorical | HasCovariance):
        raise Untraceable(f"a `{type(distribution).__name__}` has no variances of its components")
    return mean, distribution.variance


def dtype_tolerance(dtype: torch.dtype) -> float:
    """Return the relative difference that rounding explains between torch and compiled code."""
    return 1e-9 if dtype == torch.float64 else 2e-3
