"""The log-likelihood of an extended Kalman filter with its gradient in one compiled pass back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ....core.abilities import HasStepFunctions
from ....core.gaussian import outer
from ....core.model import Series, StateSpaceModel
from ....ops.compiling import told
from ...simulation.conditionals import bind
from .model_steps import GIVEN, ModelSteps
from .rules import TAYLOR
from .run import Arrays, CompiledMethod, Prepared, laid_out
from .sides import Side, later, sides

Route = Callable[[], tuple[Tensor, ...]]


class Inputs(NamedTuple):
    """What a log-likelihood depends on, as tensors that know what they were made of.

    Attributes:
        transition: Parameters of the transition.
        emission: Parameters of the emission.
        noises: Covariances given beside the steps: of both, or none.
        start: Mean and covariance of the first state.
    """

    transition: list[Tensor]
    emission: list[Tensor]
    noises: list[Tensor]
    start: list[Tensor]

    @property
    def tensors(self) -> list[Tensor]:
        """All of them."""
        return [*self.transition, *self.emission, *self.noises, *self.start]


def applies(
    method: CompiledMethod, model: StateSpaceModel, series: Series, prepared: Prepared
) -> bool:
    """Tell whether the gradient has its own pass: one Taylor step, no doubt, noise outside."""
    if method.iterations != 1 or prepared.doubt[0] or prepared.rules[0].kind != TAYLOR:
        return False
    if any(x is not None and x.requires_grad for x in series):
        return False
    sizes = (step.traced.sizes.state for step in prepared.steps.both)
    if any(size != model.state_dim for size in sizes):
        return False
    return bind(model, series).initial.mean.ndim == 1


def log_likelihood(
    model: StateSpaceModel, series: Series, prepared: Prepared, arrays: Arrays, route: Route
) -> Tensor:
    """Return the log-likelihood of a compiled pass, differentiable.

    Args:
        model: Whose parameters want gradients.
        series: Observations.
        prepared: The traced model.
        arrays: What the forward pass left, with covariances.
        route: Computes the same by torch, for derivatives of the gradient.
    """
    inputs = inputs_of(model, series, prepared.steps)
    shape = (*series.batch_shape, series.time)
    value = torch.from_numpy(arrays.log_likelihood.reshape(shape)).to(series.y.dtype)
    context = _Context(model, series, prepared, arrays, route, inputs)
    learnt = [x for x in model.parameters() if x.requires_grad]
    result = _Adjoint.apply(context, value, len(learnt), *learnt, *inputs.tensors)
    return result  # type: ignore[return-value]


class _Context(NamedTuple):
    model: StateSpaceModel
    series: Series
    prepared: Prepared
    arrays: Arrays
    route: Route
    inputs: Inputs


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        context: _Context,
        value: Tensor,
        learnt: int,
        *tensors: Tensor,
    ) -> Tensor:
        ctx.context, ctx.learnt, ctx.count = context, learnt, len(tensors)
        ctx.save_for_backward(*tensors[:learnt])
        return value.clone()

    @staticmethod
    def backward(ctx: Any, bar: Tensor) -> tuple[Any, ...]:  # noqa: ANN401  # pyright: ignore[reportIncompatibleMethodOverride]
        none: list[Any] = [None] * (ctx.count - ctx.learnt)
        if torch.is_grad_enabled():  # somebody wants derivatives of the gradient
            (value,) = ctx.context.route()
            grads = torch.autograd.grad(
                value, ctx.saved_tensors, bar, create_graph=True, allow_unused=True
            )
            return (None, None, None, *grads, *none)
        found = _gradient(ctx.context, bar)
        return (None, None, None, *[None] * ctx.learnt, *found)


def inputs_of(model: StateSpaceModel, series: Series, steps: ModelSteps) -> Inputs:
    """Return what the log-likelihood of a traced model depends on."""
    noises: list[Tensor] = []
    if steps.transition.noise == GIVEN and isinstance(model, HasStepFunctions):
        Q, R = model.noise_factors(later(series))
        noises = [outer(Q), outer(R)]
    initial = model.initial()
    mean = initial.mean
    if isinstance(initial, torch.distributions.MultivariateNormal):
        factor = initial.scale_tril
    else:
        factor = torch.diag_embed(initial.variance.sqrt())
    both = steps.transition.traced.tensors(), steps.emission.traced.tensors()
    return Inputs(*both, noises, [mean, outer(factor)])


def _gradient(context: _Context, bar: Tensor) -> list[Tensor]:
    """Return the gradient by each of the inputs."""
    from .adjoint_kernels import adjoint_all

    model, series, prepared, arrays, _, inputs = context
    y, u, _, _ = laid_out(model, series)
    n, p = model.state_dim, model.obs_dim
    F, H = sides(model, prepared.steps, prepared.rules, series, 1)
    transition, emission = (step.traced for step in prepared.steps.both)
    codes = np.array([transition.adjoint().address, emission.adjoint().address], dtype=np.int64)
    out = (
        np.zeros(transition.parameters), np.zeros(emission.parameters),
        np.zeros((*F[6].shape[:2], n, n)), np.zeros((*H[6].shape[:2], p, p)),
        np.zeros(n), np.zeros((n, n)),
    )  # fmt: skip
    weights = bar.detach().double().numpy().reshape(y.shape[:2])
    passed = arrays.mean, arrays.cov, arrays.predicted_mean, arrays.predicted_cov
    vectors, squares = _room(F, H, n, p, prepared.steps)
    seen = np.zeros(p, dtype=np.int64)
    told(
        adjoint_all, y, u, np.ascontiguousarray(weights), passed, F, H, codes, vectors, squares,
        seen, out,
    )  # fmt: skip
    return _by_tensor(inputs, out)


def _room(
    F: Side, H: Side, n: int, p: int, steps: ModelSteps
) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    sizes = [len(s.traced.flat) + len(s.traced.slopes) for s in steps.both]
    most = max(s.traced.parameters for s in steps.both) + n
    k = max(n, p)
    lengths = (max(sizes), sizes[0], sizes[1], most, *[k] * 7)
    vectors = tuple(np.zeros(size) for size in lengths)
    return vectors, tuple(np.zeros((k, k)) for _ in range(13))


def _by_tensor(inputs: Inputs, out: tuple[np.ndarray, ...]) -> list[Tensor]:
    grads: list[Tensor] = []
    for tensors, values in zip((inputs.transition, inputs.emission), out, strict=False):
        first = 0
        for x in tensors:
            part = torch.from_numpy(values[first : first + x.numel()])
            grads.append(part.reshape(x.shape).to(x))
            first += x.numel()
    for x, values in zip(inputs.noises, out[2:4], strict=False):
        grads.append(_like(x, values))
    return [*grads, torch.from_numpy(out[4]).to(inputs.start[0]), _like(inputs.start[1], out[5])]


def _like(x: Tensor, values: np.ndarray) -> Tensor:
    """Return the gradient of covariances in their own shape, without an unused first step."""
    if x.ndim > 2 and values.shape[1] > x.shape[-3]:
        values = values[:, values.shape[1] - x.shape[-3] :]
    return torch.from_numpy(np.ascontiguousarray(values)).reshape(x.shape).to(x)
