"""The log-likelihood as one differentiable function whose backward pass is a smoother."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base import GaussianInitial, LinearConditional, LinearParameters
from .kalman_arrays import Pass, Problem, forward_pass, in_threads, prepare
from .kalman_diffuse import posterior_mix


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
        from .kalman_kernels import forward_kernel

        problem = prepare(_pack(y, diffuse, *tensors), y)
        size = problem.sizes
        kernel = forward_kernel(size.constants)
        needed = any(ctx.needs_input_grad)
        result = forward_pass(problem, kernel, store=needed)
        if needed:
            ctx.problem, ctx.result = problem, result
            ctx.templates = [(x.shape, x.dtype, x.device) for x in (y, *tensors)]
        ll = torch.from_numpy(result.log_likelihood).reshape(*problem.batch, size.time)
        return ll.to(y.device, y.dtype)

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        if torch.is_grad_enabled():
            raise NotImplementedError(
                "The smoother gradient can be taken once. For second derivatives use "
                '`Kalman(backend="autograd")`, which differentiates the recursion itself.'
            )
        batch = ctx.problem.batch
        flat = weight.detach().cpu().double().reshape(batch.numel(), -1)
        if flat.numel() and not bool((flat == flat[:, :1]).all()):
            raise NotImplementedError(
                "The steps of a series carry different weights, but the smoother gradient is that "
                'of their plain sum. Use `Kalman(backend="autograd")` for weighted steps.'
            )
        grads = _score(ctx.problem, ctx.result)
        scale = flat[:, :1].numpy() if flat.numel() else np.zeros((batch.numel(), 1))
        out = [_reduce(g, scale, batch, *t) for g, t in zip(grads, ctx.templates, strict=True)]
        return out[0], None, *out[1:]


def _score(problem: Problem, result: Pass) -> tuple[np.ndarray, ...]:
    """Gradient of each series' log-likelihood: `y, m0, P0, A, b, Q, C, d, R`."""
    from .kalman_score import score_kernel, score_space

    size = problem.sizes
    A, b, LQ, C, d, R = problem.params
    S, n = size.series, size.n
    shapes = (A.shape, b.shape, (1, LQ.shape[1], n, n), C.shape, d.shape, R.shape)
    g = [np.zeros((S, *shape[1:])) for shape in shapes]
    gy, gm0, gP0 = np.zeros((S, size.time, size.p)), np.zeros((S, n)), np.zeros((S, n, n))
    if S and size.time:
        mix = posterior_mix(torch.from_numpy(result.info[:, -1]))[0].numpy()
        r = result
        stored = (r.slot, r.a, r.L, r.F, r.G, r.chol, r.E, r.rows, r.count)
        same = all(x.shape[1] == 1 for x in (A, LQ, C, R))
        constants = size.constants[:3] if size.constants else None
        arguments = (A, C, same, stored, np.ascontiguousarray(mix), (*g, gy, gm0, gP0))
        kernel = score_kernel(constants)
        in_threads(kernel, size, *arguments, space=lambda: score_space(n, size.p, size.k))
    return gy, gm0, gP0, *g


def _reduce(
    grad: np.ndarray,
    scale: np.ndarray,
    batch: torch.Size,
    shape: torch.Size,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Weight per series and sum over the batch axes that the argument does not have."""
    weighted = grad * scale.reshape(-1, *(1,) * (grad.ndim - 1))
    full = torch.from_numpy(weighted).reshape(*batch, *grad.shape[1:])
    return full.sum_to_size(shape).to(device, dtype)
