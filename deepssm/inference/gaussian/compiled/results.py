"""What compiled passes found, as results of the library; `None` where the pass runs as torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ....core.model import Series, StateSpaceModel
from ....core.results import Filtered, Smoothed
from ....ops.tracing.program import Untraceable
from ..steps import Conditioned, Passed, Predicted
from . import adjoint
from .gradients import attached, foreign, in_transform, learnables
from .run import Arrays, CompiledMethod, Prepared, backward, forward, prepare

Route = Callable[[], tuple[Tensor, ...]]
"""Computes the same by torch, differentiably."""


def filtered(
    method: CompiledMethod, model: StateSpaceModel, series: Series, route: Route
) -> Filtered | None:
    """Return filtered and predicted moments."""
    try:
        learnt = _learnt(model, series)
        prepared = _own(model, series, prepare(method, model, series), learnt)
        arrays = forward(method, model, series, prepared, covs=True)
    except Untraceable:
        return None
    n = arrays.mean.shape[-1]
    found = [
        _tensor(x, series, event)
        for x, event in zip(arrays[:5], ((n,), (n, n), (n,), (n, n), ()), strict=True)
    ]
    results = attached(found, route, learnt)
    return Filtered._make([*results, _bad(arrays.cov, series)])


def smoothed(
    method: CompiledMethod, model: StateSpaceModel, series: Series, route: Route
) -> Smoothed | None:
    """Return smoothed moments."""
    try:
        learnt = _learnt(model, series)
        prepared = _own(model, series, prepare(method, model, series), learnt)
        arrays = forward(method, model, series, prepared, joint=True)
    except Untraceable:
        return None
    n = arrays.mean.shape[-1]
    mean, cov, cross = backward(arrays)
    shapes = (n,), (n, n), (n, n), ()
    both = zip((mean, cov, cross, arrays.log_likelihood), shapes, strict=True)
    results = attached([_tensor(x, series, event) for x, event in both], route, learnt)
    return Smoothed._make([*results, _bad(arrays.factor, series)])


def log_likelihood(
    method: CompiledMethod, model: StateSpaceModel, series: Series, route: Route
) -> Tensor | None:
    """Return the log-likelihood of each step."""
    try:
        learnt = _learnt(model, series)
        prepared = _own(model, series, prepare(method, model, series), learnt)
        backwards = bool(learnt) and adjoint.applies(method, model, series, prepared)
        arrays = forward(method, model, series, prepared, covs=backwards)
    except Untraceable:
        return None
    if backwards:
        return adjoint.log_likelihood(model, series, prepared, arrays, route)
    return attached([_tensor(arrays.log_likelihood, series, ())], route, learnt)[0]


def trust(method: CompiledMethod, model: StateSpaceModel, series: Series) -> Tensor | None:
    """Return how far each observation was trusted."""
    try:
        arrays = forward(method, model, series, prepare(method, model, series), trust=True)
    except Untraceable:
        return None
    return _tensor(arrays.trust, series, arrays.trust.shape[-1:])


def passed(
    method: CompiledMethod, model: StateSpaceModel, series: Series, *, joint: bool
) -> Passed | None:
    """Return a forward pass step by step, for draws and forecasts; not differentiable."""
    if torch.is_grad_enabled() and learnables(model, series):
        return None
    try:
        prepared = prepare(method, model, series)
        arrays = forward(method, model, series, prepared, joint=True, trust=True)
    except Untraceable:
        return None
    return _passed(arrays, series)


def _passed(arrays: Arrays, series: Series) -> Passed:
    n = arrays.mean.shape[-1]
    square = (n, n)

    def along(x: np.ndarray, *event: int) -> list[Tensor]:
        return list(_tensor(x, series, event).unbind(-1 - len(event)))

    pivots = _tensor(arrays.pivots, series, square)
    eye = torch.eye(n, dtype=pivots.dtype).expand_as(pivots)
    lower = torch.linalg.solve_triangular(pivots.mT, eye, upper=False)
    none = torch.zeros(series.batch_shape, dtype=torch.bool)
    shifts, scores = along(arrays.shift, n), along(arrays.log_likelihood)
    gains = lower.unbind(-3)
    conditioned = [Conditioned(*x, none) for x in zip(shifts, gains, scores, strict=True)]
    parts = (along(arrays.predicted_mean, n), along(arrays.predicted_factor, *square),
             along(arrays.gain, *square), along(arrays.rest, *square))  # fmt: skip
    first = Predicted(parts[0][0], parts[1][0], parts[1][0][..., :0], parts[1][0][..., :0])
    predicted = [first, *(Predicted(*x) for x in list(zip(*parts, strict=True))[1:])]
    means, factors = along(arrays.mean, n), along(arrays.factor, *square)
    return Passed(predicted, conditioned, means, factors, along(arrays.trust, series.y.shape[-1]))


def _learnt(model: StateSpaceModel, series: Series) -> list[Tensor]:
    """Return what a gradient may be asked of.

    Raises:
        Untraceable: The pass runs inside a transform of torch.
    """
    if in_transform(model, series):
        raise Untraceable("it runs inside a transform of torch")
    return learnables(model, series) if torch.is_grad_enabled() else []


def _own(
    model: StateSpaceModel, series: Series, prepared: Prepared, learnt: list[Tensor]
) -> Prepared:
    """Return the traced model if gradients reach its parameters and data only.

    Raises:
        Untraceable: Somebody learns other tensors through it.
    """
    if torch.is_grad_enabled():
        if foreign(adjoint.inputs_of(model, series, prepared.steps).tensors, learnt):
            raise Untraceable("gradients of tensors are wanted that are not its parameters")
    return prepared


def _tensor(array: np.ndarray, series: Series, event: tuple[int, ...]) -> Tensor:
    shape = (*series.batch_shape, series.time, *event)
    return torch.from_numpy(array.reshape(shape)).to(series.y.dtype)


def _bad(array: np.ndarray, series: Series) -> Tensor:
    wrong = ~np.isfinite(array).all((-2, -1))
    return torch.from_numpy(wrong.reshape(series.batch_shape))
