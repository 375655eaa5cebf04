"""Exact inference for many series on a CUDA device, one thread each, by the extra `gpu`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....core.model import GaussianInitial, LinearConditional, LinearParameters
from ....core.results import Filtered, Smoothed
from ..conditioning import Answer, conditioning_check
from ..parallel.adjoint import series_weights
from .arrays import DeviceArrays, installed, launch, lay_out

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
    arrays = lay_out(parameters, y)
    answer, worst = _moments(arrays, y.double())
    ill_conditioned = _ill_conditioned(parameters, y, answer.log_likelihood, worst, answer)
    return Filtered(*(x.to(y.dtype) for x in answer), ill_conditioned=ill_conditioned)


def smoothed(parameters: LinearParameters, y: Tensor) -> Smoothed:
    """Return smoothed moments and lag-one covariances; see `filtered`."""
    from .smoother import smoother_kernel

    arrays, (T, n) = lay_out(parameters, y), (y.shape[-2], parameters.initial.mean.shape[-1])
    ll, worst, a, L = predicted(arrays)
    mean, cov, cross = arrays.empty(T, n, 1), arrays.empty(T, n, n), arrays.empty(T, n, n)
    cross[:1] = 0.0
    kernel = smoother_kernel(*arrays.sizes)
    launch(kernel, arrays.series, arrays.params, arrays.y, a, L, mean, cov, cross)
    ill_conditioned = _ill_conditioned(
        parameters, y, arrays.restore(ll, y), worst.reshape(arrays.batch), None
    )
    results = (mean[:, :, 0], cov, cross, ll)
    return Smoothed(*(arrays.restore(x, y) for x in results), ill_conditioned=ill_conditioned)


def log_likelihood(parameters: LinearParameters, y: Tensor) -> Tensor:
    """Return the log-likelihood of each step, `(*batch, time)`, differentiable once."""
    start, transition, emission = parameters
    return _LogLikelihood.apply(y, start.mean, start.cov, *transition, *emission)  # type: ignore[return-value]


def predicted(arrays: DeviceArrays) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the filter; return likelihoods, smallest parts, and predicted means and factors."""
    from .filter import filter_kernel

    T, (n, p) = arrays.y.shape[0], arrays.sizes
    ll, worst, a, L = arrays.empty(T), arrays.empty(), arrays.empty(T, n, 1), arrays.empty(T, n, n)
    unused = arrays.unused
    kernel = filter_kernel(n, p, "factors")
    run = (arrays.params, arrays.start, arrays.y, ll, worst, unused, unused, a, L)
    launch(kernel, arrays.series, *run)
    return ll, worst, a, L


def score(arrays: DeviceArrays, a: Tensor, L: Tensor) -> tuple[Tensor, ...]:
    """Return the gradient of each series' log-likelihood: `y, m0, P0, A, b, Q, C, d, R`.

    Args:
        arrays: A model and data.
        a: Predicted means, `(time, n, 1, series)`.
        L: Predicted factors, `(time, n, n, series)`.

    Returns:
        Arrays `(time or 1, row, col, series)`.
    """
    from .score import score_kernel

    n = a.shape[1]
    gy = torch.zeros_like(arrays.y)
    grads = tuple(arrays.zeros(*x.shape[:3]) for x in arrays.params)
    first = arrays.zeros(1, n, 1), arrays.zeros(1, n, n)
    launch(
        score_kernel(*arrays.sizes), arrays.series, arrays.params, arrays.y, a, L, gy, grads, first
    )
    return gy, *first, *grads


class _LogLikelihood(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, *tensors: Tensor) -> Tensor:  # noqa: ANN401
        from .filter import filter_kernel

        mean, cov, *rest = tensors
        initial = GaussianInitial(mean, cov, None)
        model = LinearParameters(initial, *(LinearConditional(*rest[i : i + 3]) for i in (0, 3)))
        arrays = lay_out(model, y)
        if any(ctx.needs_input_grad):
            ll, _, a, L = predicted(arrays)
            ctx.run = arrays, a, L
            ctx.templates = [(x.shape, x.dtype) for x in (y, *tensors)]
        else:
            ll, worst = arrays.empty(y.shape[-2]), arrays.empty()
            kernel, none = filter_kernel(*arrays.sizes, "nothing"), (arrays.unused,) * 4
            launch(kernel, arrays.series, arrays.params, arrays.start, arrays.y, ll, worst, *none)
        return arrays.restore(ll, y)

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        arrays, a, L = ctx.run
        scale = series_weights(weight).reshape(-1)
        out: list[Tensor | None] = []
        for i, grad in enumerate(score(arrays, a, L)):
            shape, dtype = ctx.templates[i]
            wanted = ctx.needs_input_grad[i]
            out.append(_reduce(grad * scale, arrays, i, shape).to(dtype) if wanted else None)
        return tuple(out)


def _moments(arrays: DeviceArrays, y: Tensor) -> tuple[Answer, Tensor]:
    """Run the filter; return its results as those of `y`, and the smallest parts."""
    from .filter import filter_kernel

    T, (n, p) = arrays.y.shape[0], arrays.sizes
    ll, worst = arrays.empty(T), arrays.empty()
    m, cov, a, before = (arrays.empty(T, n, k) for k in (1, n, 1, n))
    kernel = filter_kernel(n, p, "moments")
    run = (arrays.params, arrays.start, arrays.y, ll, worst, m, cov, a, before)
    launch(kernel, arrays.series, *run)
    found = (arrays.restore(x, y) for x in (m[:, :, 0], cov, a[:, :, 0], before, ll))
    return Answer(*found), worst.reshape(arrays.batch)


def _ill_conditioned(
    parameters: LinearParameters, y: Tensor, ll: Tensor, worst: Tensor, answer: Answer | None
) -> Tensor:
    """Mark results that are not finite, or that the last digit of the inputs decides."""

    def again(parameters: LinearParameters, y: Tensor) -> Answer:
        return _moments(lay_out(parameters, y), y.double())[0]

    bad = (worst == 0) | ~ll.isfinite().all(-1)
    return conditioning_check(bad, worst, parameters, y, again, answer)


def _reduce(grad: Tensor, arrays: DeviceArrays, i: int, shape: torch.Size) -> Tensor:
    """Sum gradient `i` of `score` over the batch axes that the argument does not have."""
    grad = grad[:, :, 0] if i in _VECTORS else grad
    grad = grad[0] if i in _STARTS else grad
    if shape.numel() == grad[..., 0].numel():
        return grad.sum(-1).reshape(shape)
    return grad.movedim(-1, 0).reshape(*arrays.batch, *grad.shape[:-1]).sum_to_size(shape)
