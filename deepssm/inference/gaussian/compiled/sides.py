"""The arrays that compiled loops read of a model's step, in the order that they read them in."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from ....core.abilities import HasStepFunctions, NonAdditiveNoise
from ....core.model import Series, StateSpaceModel
from ....ops.tracing.program import Untraceable
from .model_steps import FACTOR, GIVEN, VARIANCE, ModelSteps, Step
from .rules import TAYLOR, Rule

Side: TypeAlias = tuple[np.ndarray, ...]
"""Whole numbers, angles, numbers, parameters, points, weights, given noise, noise inside."""


class Noise(NamedTuple):
    """Noise of a step that is given beside it, and the noise inside its function.

    Attributes:
        factor: `(series or 1, time or 1, out, columns)`.
        inner: Factor, `(noise, noise)`.
    """

    factor: np.ndarray
    inner: np.ndarray


def sides(
    model: StateSpaceModel, steps: ModelSteps, rules: tuple[Rule, Rule], series: Series, lanes: int
) -> tuple[Side, Side]:
    """Return the arrays of both steps.

    Args:
        model: Whose numbers are read.
        steps: Its traced steps.
        rules: For the state with the noise inside each step.
        series: What is filtered.
        lanes: 1, or 8 series side by side.

    Raises:
        Untraceable: Noise by a full factor that changes with the state meets a rule by points.
    """
    noises = _noises(model, steps, series)
    sizes = model.state_dim, model.obs_dim
    angles = model.circular_state, model.circular_obs
    first, second = (
        _side(*given, lanes)
        for given in zip(steps.both, rules, noises, sizes, angles, strict=True)
    )
    return first, second


def _side(
    step: Step, rule: Rule, noise: Noise, out: int, circular: tuple[int, ...], lanes: int
) -> Side:
    if step.noise == FACTOR and rule.kind != TAYLOR:
        raise Untraceable("its noise has a full covariance of its own, which points must average")
    taylor = rule.kind == TAYLOR
    code = step.traced.linearized(lanes) if taylor else step.traced.values(lanes)
    angles = np.zeros(out, dtype=np.int64)
    angles[list(circular)] = 1
    columns = noise.factor.shape[-1]
    if step.noise == FACTOR:
        columns = step.traced.outputs[1].shape[-1]
    diagonal = taylor and noise.inner.size == 0 and _diagonal(step, noise)
    whole = [rule.kind, step.traced.sizes.state, out, step.noise, columns, diagonal, code.address]
    return (
        np.array([*whole, len(circular) > 0], dtype=np.int64),
        angles,
        np.array([rule.square, rule.part]),
        step.traced.parameter_values(),
        np.ascontiguousarray(rule.points),
        rule.weights,
        noise.factor,
        noise.inner,
    )


def _diagonal(step: Step, noise: Noise) -> bool:
    if step.noise == VARIANCE:
        return True
    if step.noise == FACTOR:
        return False
    size = noise.factor.shape[-1]
    return not noise.factor[..., ~np.eye(size, dtype=np.bool_)].any()


def _noises(model: StateSpaceModel, steps: ModelSteps, series: Series) -> tuple[Noise, Noise]:
    sizes = model.state_dim, model.obs_dim
    none = np.zeros((0, 0))
    if steps.transition.noise != GIVEN:
        first, second = (
            Noise(np.zeros((1, 1, n, n if step.noise == VARIANCE else 0)), none)
            for n, step in zip(sizes, steps.both, strict=True)
        )
        return first, second
    with torch.no_grad():
        if steps.inside:
            inner = cast(NonAdditiveNoise, model).inner_noise
            assert inner is not None
            first, second = (
                Noise(np.zeros((1, 1, n, 0)), _array(factor))
                for n, factor in zip(sizes, inner, strict=True)
            )
            return first, second
        Q, R = cast(HasStepFunctions, model).noise_factors(later(series))
        Q = Q if Q.ndim == 2 else _with_first(Q, series)
        first, second = (Noise(_by_series(x), none) for x in (Q, R))
    return first, second


def later(series: Series) -> Tensor | None:
    """Return the time steps but for the first, which drives nothing."""
    if series.dt is None or series.dt.ndim == 0:
        return series.dt
    return series.dt[..., min(1, series.time - 1) :]


def _with_first(Q: Tensor, series: Series) -> Tensor:
    """Put an entry that nobody reads before the noise of the second step."""
    missing = series.time - Q.shape[-3]
    return torch.cat((Q[..., :1, :, :].expand(*Q.shape[:-3], missing, *Q.shape[-2:]), Q), -3)


def _by_series(factor: Tensor) -> np.ndarray:
    array = _array(factor)
    if array.ndim == 2:
        return array[None, None]
    return np.ascontiguousarray(array.reshape(-1, *array.shape[-3:]))


def _array(x: Tensor) -> np.ndarray:
    return np.array(x.detach().double().numpy(), order="C")
