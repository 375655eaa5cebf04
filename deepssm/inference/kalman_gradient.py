"""The log-likelihood as one differentiable function whose backward pass is a smoother."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base import GaussianInitial, LinearConditional, LinearParameters
from .kalman_arrays import Pass, Problem, in_threads, prepare
from .kalman_diffuse import posterior_mix
from .kalman_passes import NOTHING, SCORE, run_forward, shares_moments


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
        result = run_forward(problem, SCORE if needed else NOTHING)
        if needed:
            ctx.problem, ctx.result = problem, result
            ctx.templates = [(x.shape, x.dtype, x.device) for x in (y, *tensors)]
        ll = torch.from_numpy(result.log_likelihood).reshape(*problem.batch, problem.sizes.time)
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
        scale = flat[:, 0].numpy() if flat.numel() else np.zeros(batch.numel())
        score = _score_shared if shares_moments(ctx.problem, ctx.result) else _score
        grads = score(ctx.problem, ctx.result, scale, ctx.needs_input_grad[0])
        wanted = (ctx.needs_input_grad[0], *ctx.needs_input_grad[2:])
        parts = zip(grads, ctx.templates, wanted, strict=True)
        out = [_reduce(g, batch, *t) if wish else None for g, t, wish in parts]
        return out[0], None, *out[1:]


def _score(
    problem: Problem, result: Pass, scale: np.ndarray, want_y: bool
) -> tuple[np.ndarray, ...]:
    """Weighted gradient of each series' log-likelihood: `y, m0, P0, A, b, Q, C, d, R`."""
    from .kalman_score import score_kernel, score_space

    size, r = problem.sizes, result
    shapes, S, n = _shapes(problem), size.series, size.n
    g = [np.zeros((S, *shape)) for shape in shapes]
    gy, gm0, gP0 = np.zeros((S, size.time, size.p)), np.zeros((S, n)), np.zeros((S, n, n))
    if S and size.time:
        mix = posterior_mix(torch.from_numpy(r.info[:, -1]))[0].numpy()
        stored = (r.slot, r.a, r.L, r.F, r.G, r.chol, r.E, r.rows, r.count)
        A, _, _, C, _, _ = problem.params
        flat = (r.a.reshape(S, -1), r.E.reshape(S, -1))
        arguments = (A, C, _constant(problem), stored, np.ascontiguousarray(mix), flat, want_y)
        kernel = score_kernel(size.constants[:3] if size.constants else None)
        space = partial(score_space, n, size.p, size.k)
        in_threads(kernel, size, *arguments, (*g, gy, gm0, gP0), space=space)
    return tuple(x * scale.reshape(-1, *(1,) * (x.ndim - 1)) for x in (gy, gm0, gP0, *g))


def _score_shared(
    problem: Problem, result: Pass, scale: np.ndarray, want_y: bool
) -> tuple[np.ndarray, ...]:
    """The same, summed over the series, for series that share their second moments."""
    from .kalman_score import score_space
    from .kalman_score_run import run_space
    from .kalman_shared import lanes
    from .kalman_shared_score import score_terms, shared_score

    size, r = problem.sizes, result
    T, n, p = size.time, size.n, size.p
    A, _, _, C, _, _ = problem.params
    shapes = ((p, n), (n, n), (p, p), (p, n), (n, n), (n, n))
    terms = (*(np.empty((T, *shape)) for shape in shapes), np.empty(T, np.int64))
    stored = (r.slot, r.L, r.F, r.G, r.chol, r.rows, r.count)
    arguments = (A, C, _constant(problem), stored, terms)
    space = partial(score_space, n, p, 0)
    in_threads(score_terms, size._replace(series=1), *arguments, space=space)
    sums: list[tuple[np.ndarray, ...]] = []

    def scratch() -> tuple[Any, ...]:
        more = (np.zeros(n), np.zeros((n, n)), np.zeros((p, p)), np.zeros((p, n)))
        sums.append((*(np.zeros(shape) for shape in _shapes(problem)), *more))
        return lanes(n, n, n, p, p, 1), sums[-1], run_space(n, p)

    gy, pattern = np.zeros((size.series, T, p)), (r.slot, r.G, r.chol, r.rows, r.count)
    flat = (r.a.reshape(size.series, -1), r.E.reshape(size.series, -1))
    kernel = shared_score((n, p) if size.constants else None)
    arguments = (A, C, _constant(problem), pattern, terms, r.a, r.E, flat, scale, want_y, gy)
    in_threads(kernel, size, *arguments, space=scratch)
    gA, gb, gQ, gC, gd, gR, gm0, gP0, *_ = (sum(parts) for parts in zip(*sums, strict=True))
    return gy, gm0, 0.5 * gP0, gA, gb, 0.5 * gQ, gC, gd, gR  # type: ignore[return-value]


def _shapes(problem: Problem) -> list[tuple[int, ...]]:
    """Shapes of the gradients of `A, b, Q, C, d, R` for one series."""
    A, b, LQ, C, d, R = problem.params
    n = problem.sizes.n
    return [x[1:] for x in (A.shape, b.shape, (1, LQ.shape[1], n, n), C.shape, d.shape, R.shape)]


def _constant(problem: Problem) -> bool:
    A, _, LQ, C, _, R = problem.params
    return all(x.shape[1] == 1 for x in (A, LQ, C, R))


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
