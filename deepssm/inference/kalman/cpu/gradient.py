"""The log-likelihood as one differentiable function whose backward pass is a smoother."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....core.model import GaussianInitial, LinearConditional, LinearParameters
from .problem import prepare
from .run import NOTHING, run_forward
from .scores import WantedScores, differentiable_run, score


def exact_log_likelihood(parameters: LinearParameters, y: Tensor) -> Tensor:
    """Return `log p(y_t | y_{1:t-1})`, `(*batch, time)`, differentiable once.

    The gradient is exact for any positive semi-definite `Q`, `R`, `P0`, and needs no graph through
    the filter: memory is `O(time state^2)`.

    Raises:
        NotImplementedError: In the backward pass, when the steps of one series are weighted
            differently, or for a second derivative; `Kalman(backend="autograd")` does both.

    Source: Koopman & Shephard (1992); Durbin & Koopman (2012), section 7.3.
    """
    start, transition, emission = parameters
    return _LogLikelihood.apply(y, start.diffuse, start.mean, start.cov, *transition, *emission)  # type: ignore[return-value]


def _pack(y: Tensor, diffuse: Tensor | None, *tensors: Tensor) -> LinearParameters:
    mean, cov, A, b, Q, C, d, R = tensors
    return LinearParameters(
        GaussianInitial(mean, cov, diffuse), LinearConditional(A, b, Q), LinearConditional(C, d, R)
    )


class _LogLikelihood(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, diffuse: Tensor | None, *tensors: Tensor) -> Tensor:  # noqa: ANN401
        problem = prepare(_pack(y, diffuse, *tensors), y)
        needed = any(ctx.needs_input_grad)
        if needed:
            ctx.problem, ctx.result = problem, differentiable_run(problem)
            ctx.templates = [(x.shape, x.dtype, x.device) for x in (y, *tensors)]
            values = ctx.result.log_likelihood
        else:
            values = run_forward(problem, NOTHING).log_likelihood
        ll = torch.from_numpy(values).reshape(*problem.batch, problem.sizes.time)
        return ll.to(y.device, y.dtype)

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        if torch.is_grad_enabled():
            raise NotImplementedError(
                "The smoother gradient can be taken once. For second derivatives use "
                '`Kalman(backend="autograd")`, which differentiates the recursion itself.'
            )
        batch = ctx.problem.batch
        scale = _weight_of_series(weight).reshape(batch.numel()).numpy().copy()
        given = ctx.needs_input_grad
        wants = WantedScores(given[0], given[4], given[7], given[9])
        grads = score(ctx.problem, ctx.result, scale, wants)
        parts = zip(grads, ctx.templates, (given[0], *given[2:]), strict=True)
        out = [_reduce(g, batch, *t) if wish else None for g, t, wish in parts]
        return out[0], None, *out[1:]


def _weight_of_series(weight: Tensor) -> Tensor:
    """Return the weight that all steps of a series share, `(*batch,)`."""
    steps = weight.detach().cpu().double()
    if not steps.numel():
        return steps.new_zeros(steps.shape[:-1])
    # The gradient of a plain sum is one number, expanded.
    if steps.stride(-1) != 0 and not bool((steps == steps[..., :1]).all()):
        raise NotImplementedError(
            "The steps of a series carry different weights, but the smoother gradient is that "
            'of their plain sum. Use `Kalman(backend="autograd")` for weighted steps.'
        )
    return steps[..., 0]


def _reduce(
    grad: np.ndarray,
    batch: torch.Size,
    shape: torch.Size,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Sum over the batch axes that the argument does not have."""
    full = torch.from_numpy(np.ascontiguousarray(grad))
    if full.shape != shape and full.ndim and full.numel() > shape.numel():
        full = full.reshape(*batch, *full.shape[1:]).sum_to_size(shape)
    return full.reshape(shape).to(device, dtype)
