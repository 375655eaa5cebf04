"""The log-likelihood as one differentiable function whose backward pass is a smoother."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ....core.model import GaussianInitial, LinearConditional, LinearParameters
from ....ops.threads import in_threads
from ..dense.serves import dense_serves
from ..diffuse import posterior_mix
from .problem import Pass, Problem, prepare
from .run import NOTHING, SCORE, run_forward, shared_pattern
from .shared import SharedRun, filter_for_score
from .shared_gradient import constant, score_shared, shapes

if TYPE_CHECKING:
    from ..dense.filtering import Filtering


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
        pattern = shared_pattern(problem) if needed else None
        if pattern is not None:
            result = kept = filter_for_score(problem, pattern)
        elif needed and dense_serves(problem):
            kept = _dense_run(problem)
            result = kept.result
        else:
            result = kept = run_forward(problem, SCORE if needed else NOTHING)
        if needed:
            ctx.problem, ctx.result = problem, kept
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
        scale = _weight_of_series(weight).reshape(batch.numel()).numpy().copy()
        result, given = ctx.result, (scale, ctx.needs_input_grad[0])
        if isinstance(result, SharedRun):
            grads = score_shared(ctx.problem, result, *given)
        elif isinstance(result, Pass):
            grads = _score(ctx.problem, result, *given)
        else:
            needs = ctx.needs_input_grad[2:]
            grads = _dense_score(ctx.problem, result, scale, (needs[2], needs[5], needs[7]))
        wanted = (ctx.needs_input_grad[0], *ctx.needs_input_grad[2:])
        parts = zip(grads, ctx.templates, wanted, strict=True)
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


def _score(
    problem: Problem, result: Pass, scale: np.ndarray, want_y: bool
) -> tuple[np.ndarray, ...]:
    """Weighted gradient of each series' log-likelihood: `y, m0, P0, A, b, Q, C, d, R`."""
    from .scalar.score import score_kernel, score_space

    size, r = problem.sizes, result
    S, n = size.series, size.n
    g = [np.zeros((S, *shape)) for shape in shapes(problem)]
    gy, gm0, gP0 = np.zeros((S, size.time, size.p)), np.zeros((S, n)), np.zeros((S, n, n))
    if S and size.time:
        mix = posterior_mix(torch.from_numpy(r.info[:, -1]))[0].numpy()
        stored = (r.slot, r.a, r.L, r.F, r.G, r.chol, r.E, r.rows, r.count)
        A, _, _, C, _, _ = problem.params
        flat = (r.a.reshape(S, -1), r.E.reshape(S, -1))
        arguments = (A, C, constant(problem), stored, np.ascontiguousarray(mix), flat, want_y)
        kernel = score_kernel(size.constants[:3] if size.constants else None)
        space = partial(score_space, n, size.p, size.k)
        in_threads(kernel, size, *arguments, (*g, gy, gm0, gP0), space=space)
    return tuple(x * scale.reshape(-1, *(1,) * (x.ndim - 1)) for x in (gy, gm0, gP0, *g))


def _dense_run(problem: Problem) -> Filtering:
    from ..dense.filtering import SMOOTHER, run

    return run(problem, SMOOTHER)


def _dense_score(
    problem: Problem, found: Filtering, scale: np.ndarray, wanted: tuple[bool, ...]
) -> tuple[np.ndarray, ...]:
    """As `_score`; `wanted` says which of the derivatives by `A, C, R` are."""
    from ..dense.backward import score

    size, S = problem.sizes, problem.sizes.series
    g = [np.zeros((S, *shape)) for shape in shapes(problem)]
    start = (np.zeros((S, size.n)), np.zeros((S, size.n, size.n)))
    gy = np.zeros((S, size.time, size.p))
    mix = np.ascontiguousarray(
        posterior_mix(torch.from_numpy(found.result.info[:, -1]))[0].numpy()
    )
    score(problem, found, mix, (*g, gy, *start), wanted)
    return tuple(x * scale.reshape(-1, *(1,) * (x.ndim - 1)) for x in (gy, *start, *g))


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
