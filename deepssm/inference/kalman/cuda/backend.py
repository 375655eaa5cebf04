"""Exact inference for many series on a CUDA device, one thread each, by the extra `gpu`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....core.model import GaussianInitial, LinearConditional, LinearParameters
from ....core.results import Filtered, Smoothed
from ..conditioning import Answer, second_opinion
from ..parallel.adjoint import series_weights
from .arrays import Lanes, installed, launch, lay_out

# Places of `y, m0, b, d` and of `m0, P0` among what is differentiated.
_VECTORS, _STARTS = (0, 1, 4, 7), (1, 2)


def require(parameters: LinearParameters, y: Tensor) -> None:
    """Refuse by name what the kernels cannot do.

    Args:
        parameters: The model.
        y: `(*batch, time, obs)`.

    Raises:
        ValueError: The extra or the device is missing, or the start is diffuse.
    """
    if not installed():
        raise ValueError(
            '`backend="cuda"` needs the package `numba-cuda`. Install the extra: '
            '`pip install "deepssm[gpu]"`, or use `backend="auto"`.'
        )
    from .steps import simulated

    if y.device.type != "cuda" and not simulated():
        raise ValueError(
            f'`backend="cuda"` needs a model on a CUDA device, got one on {y.device}. Move it '
            'there with `model.to("cuda")`, or use `backend="auto"`.'
        )
    if parameters.initial.diffuse is not None:
        raise ValueError(
            '`backend="cuda"` needs a proper start, but some state starts diffuse. '
            'Use `backend="auto"`.'
        )


def filtered(parameters: LinearParameters, y: Tensor) -> Filtered:
    """Return filtered and predicted moments and the log-likelihood of each step.

    Args:
        parameters: A model with a proper start.
        y: `(*batch, time, obs)`, on the device.
    """
    lanes = lay_out(parameters, y)
    answer, worst = _moments(lanes, y.double())
    flag = _flag(parameters, y, answer.log_likelihood, worst, answer)
    return Filtered(*(x.to(y.dtype) for x in answer), ill_conditioned=flag)


def smoothed(parameters: LinearParameters, y: Tensor) -> Smoothed:
    """Return smoothed moments and lag-one covariances; see `filtered`."""
    from .smoother import smoother_kernel

    lanes, (T, n) = lay_out(parameters, y), (y.shape[-2], parameters.initial.mean.shape[-1])
    ll, worst, a, L = predicted(lanes)
    mean, cov, cross = lanes.empty(T, n, 1), lanes.empty(T, n, n), lanes.empty(T, n, n)
    cross[:1] = 0.0
    kernel = smoother_kernel(*lanes.sizes)
    launch(kernel, lanes.series, lanes.params, lanes.y, a, L, mean, cov, cross)
    flag = _flag(parameters, y, lanes.restore(ll, y), worst.reshape(lanes.batch), None)
    results = (mean[:, :, 0], cov, cross, ll)
    return Smoothed(*(lanes.restore(x, y) for x in results), ill_conditioned=flag)


def log_likelihood(parameters: LinearParameters, y: Tensor) -> Tensor:
    """Return the log-likelihood of each step, `(*batch, time)`, differentiable once."""
    start, transition, emission = parameters
    return _LogLikelihood.apply(y, start.mean, start.cov, *transition, *emission)  # type: ignore[return-value]


def predicted(lanes: Lanes) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the filter; return likelihoods, smallest parts, and predicted means and factors."""
    from .filter import filter_kernel

    T, (n, p) = lanes.y.shape[0], lanes.sizes
    ll, worst, a, L = lanes.empty(T), lanes.empty(), lanes.empty(T, n, 1), lanes.empty(T, n, n)
    unused = lanes.unused
    kernel = filter_kernel(n, p, "factors")
    run = (lanes.params, lanes.start, lanes.y, ll, worst, unused, unused, a, L)
    launch(kernel, lanes.series, *run)
    return ll, worst, a, L


def score(lanes: Lanes, a: Tensor, L: Tensor) -> tuple[Tensor, ...]:
    """Return the gradient of each series' log-likelihood: `y, m0, P0, A, b, Q, C, d, R`.

    Args:
        lanes: A model and data.
        a: Predicted means, `(time, n, 1, series)`.
        L: Predicted factors, `(time, n, n, series)`.

    Returns:
        Arrays `(time or 1, row, col, series)`.
    """
    from .score import score_kernel

    n = a.shape[1]
    gy = torch.zeros_like(lanes.y)
    grads = tuple(lanes.zeros(*x.shape[:3]) for x in lanes.params)
    first = lanes.zeros(1, n, 1), lanes.zeros(1, n, n)
    launch(score_kernel(*lanes.sizes), lanes.series, lanes.params, lanes.y, a, L, gy, grads, first)
    return gy, *first, *grads


class _LogLikelihood(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, *tensors: Tensor) -> Tensor:  # noqa: ANN401
        from .filter import filter_kernel

        mean, cov, *rest = tensors
        initial = GaussianInitial(mean, cov, None)
        model = LinearParameters(initial, *(LinearConditional(*rest[i : i + 3]) for i in (0, 3)))
        lanes = lay_out(model, y)
        if any(ctx.needs_input_grad):
            ll, _, a, L = predicted(lanes)
            ctx.run = lanes, a, L
            ctx.templates = [(x.shape, x.dtype) for x in (y, *tensors)]
        else:
            ll, worst = lanes.empty(y.shape[-2]), lanes.empty()
            kernel, none = filter_kernel(*lanes.sizes, "nothing"), (lanes.unused,) * 4
            launch(kernel, lanes.series, lanes.params, lanes.start, lanes.y, ll, worst, *none)
        return lanes.restore(ll, y)

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        lanes, a, L = ctx.run
        scale = series_weights(weight).reshape(-1)
        out: list[Tensor | None] = []
        for i, grad in enumerate(score(lanes, a, L)):
            shape, dtype = ctx.templates[i]
            wanted = ctx.needs_input_grad[i]
            out.append(_reduce(grad * scale, lanes, i, shape).to(dtype) if wanted else None)
        return tuple(out)


def _moments(lanes: Lanes, y: Tensor) -> tuple[Answer, Tensor]:
    """Run the filter; return its results as those of `y`, and the smallest parts."""
    from .filter import filter_kernel

    T, (n, p) = lanes.y.shape[0], lanes.sizes
    ll, worst = lanes.empty(T), lanes.empty()
    m, cov, a, before = (lanes.empty(T, n, k) for k in (1, n, 1, n))
    kernel = filter_kernel(n, p, "moments")
    run = (lanes.params, lanes.start, lanes.y, ll, worst, m, cov, a, before)
    launch(kernel, lanes.series, *run)
    found = (lanes.restore(x, y) for x in (m[:, :, 0], cov, a[:, :, 0], before, ll))
    return Answer(*found), worst.reshape(lanes.batch)


def _flag(
    parameters: LinearParameters, y: Tensor, ll: Tensor, worst: Tensor, answer: Answer | None
) -> Tensor:
    """Mark results that are not finite, or that the last digit of the inputs decides."""

    def again(parameters: LinearParameters, y: Tensor) -> Answer:
        return _moments(lay_out(parameters, y), y.double())[0]

    bad = (worst == 0) | ~ll.isfinite().all(-1)
    return second_opinion(bad, worst, parameters, y, again, answer)


def _reduce(grad: Tensor, lanes: Lanes, i: int, shape: torch.Size) -> Tensor:
    """Sum gradient `i` of `score` over the batch axes that the argument does not have."""
    grad = grad[:, :, 0] if i in _VECTORS else grad
    grad = grad[0] if i in _STARTS else grad
    if shape.numel() == grad[..., 0].numel():
        return grad.sum(-1).reshape(shape)
    return grad.movedim(-1, 0).reshape(*lanes.batch, *grad.shape[:-1]).sum_to_size(shape)
