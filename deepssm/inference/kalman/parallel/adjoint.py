r"""The log-likelihood of the batched backends as one differentiable function.

Its backward pass is the smoother, as in `cpu/scalar/score.py`, for all steps at once: with
whitened innovation `e`, gain `G` and emission `H`, and with `r, N` of the filtered state,

    x = e - G' r,  r <- r + H' x,  N <- H' H + (I - G H)' N (I - G H),

`r` and `N` now being those of the predicted state. Every derivative is a product of these with
smoothed means.

Source: Koopman & Shephard (1992), Biometrika 79; Durbin & Koopman (2012), ch. 4 and 7.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ....core.gaussian import outer
from ....core.model import LinearParameters
from .diffuse_columns import Known
from .layout import Columns, fold, restore
from .passes import Forward
from .scan_smoother import Adjoint, Smoothing, before


class Engine(NamedTuple):
    """A way to run filter and smoother over columns.

    Attributes:
        filter: Returns `None` where the engine does not apply.
        smooth: From the filter's results.
        adjoint: The smoother's pass as derivatives.
    """

    filter: Callable[[Columns], Forward | None]
    smooth: Callable[[Columns, Forward], Smoothing]
    adjoint: Callable[[Columns, Forward], Adjoint]


class Run(NamedTuple):
    """A filter's results with what made them.

    Attributes:
        engine: What ran. columns: The model and data. forward: Its results.
        known: About the diffuse coefficients, whose slopes are then the last columns.
    """

    engine: Engine
    columns: Columns
    forward: Forward
    known: Known | None = None

    @property
    def log_likelihood(self) -> Tensor:
        """Of each step, `(time, members, columns)`."""
        return self.forward.log_likelihood if self.known is None else self.known.log_likelihood


def differentiable(run: Run, parameters: LinearParameters, y: Tensor) -> Tensor:
    """Return the log-likelihood of each step, `(*batch, time)`, differentiable once."""
    start, transition, emission = parameters
    return _LogLikelihood.apply(run, y, start.mean, start.cov, *transition, *emission)  # type: ignore[return-value]


def series_weights(weight: Tensor) -> Tensor:
    """Return the weight that all steps of a series share, `(*batch,)`.

    Raises:
        NotImplementedError: Steps differ in weight, or a second derivative is asked for.
    """
    if torch.is_grad_enabled():
        raise NotImplementedError(
            "The smoother gradient can be taken once. For second derivatives use "
            '`Kalman(backend="autograd")`, which differentiates the recursion itself.'
        )
    flat = weight.detach().double()
    if not bool((flat == flat[..., :1]).all()):
        raise NotImplementedError(
            "The steps of a series carry different weights, but the smoother gradient is that "
            'of their plain sum. Use `Kalman(backend="autograd")` for weighted steps.'
        )
    return flat[..., 0]


class _LogLikelihood(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: Run, y: Tensor, *tensors: Tensor) -> Tensor:  # noqa: ANN401
        ctx.run, ctx.templates = run, [(x.shape, x.dtype) for x in (y, *tensors)]
        ll = run.log_likelihood
        return restore(run.columns.series(ll[..., None, :])[..., 0], y)

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        scale, columns = series_weights(weight), ctx.run.columns
        members = columns.y.shape[1]
        grads = score(ctx.run, scale.reshape(members, -1) if members > 1 else scale.reshape(1, -1))
        out: list[Tensor | None] = []
        for i, (shape, dtype) in enumerate(ctx.templates):
            event = 1 if i in (0, 1, 4, 7) else 2
            timed = torch.Size((*shape[:-event], 1, *shape[-event:])) if i in (1, 2) else shape
            wanted = ctx.needs_input_grad[i + 1]
            folded = fold(grads[i], columns, timed, event).reshape(shape) if wanted else None
            out.append(None if folded is None else folded.to(dtype))
        return None, *out


def score(run: Run, weight: Tensor) -> tuple[Tensor, ...]:
    """Return the gradient of the weighted log-likelihood: `y, m0, P0, A, b, Q, C, d, R`.

    Args:
        run: A filter's results.
        weight: Of each series, `(members, columns)`.

    Returns:
        Arrays `(time, members, ...)`, those of matrices summed over the columns.
    """
    columns, forward, total = run.columns, run.forward, weight.sum(-1)[:, None, None]
    adjoint, size = run.engine.adjoint(columns, forward), weight.shape[-1]
    if run.known is not None:
        # What is left open of the coefficients adds to every product of two columns.
        mix, k = run.known.mix, run.known.U.shape[-1]
        forward, adjoint = (
            forward._replace(m=mix(forward.m), e=mix(forward.e)),
            adjoint._replace(r=mix(adjoint.r)),
        )
        weight = torch.cat([weight, weight.sum(-1, keepdim=True).expand(-1, k)], -1)
    r, N = adjoint
    g = forward.gains.at(forward.slot)
    x = forward.e - g.G.mT @ r
    left = torch.eye(N.shape[-1], dtype=N.dtype, device=N.device) - g.G @ g.H
    r_before, N_before = before(adjoint, forward.e, g)
    u, GN = g.W.mT @ x, g.G.mT @ N
    smoothed = forward.m + outer(g.F) @ r
    uw, rw = u * weight[:, None], r_before * weight[:, None]
    D = outer(g.W.mT) + g.W.mT @ (GN @ g.G) @ g.W
    by_R = 0.5 * (uw @ u.mT - total * D)
    by_C = uw @ smoothed.mT - total * (g.W.mT @ (g.H - GN @ left)) @ outer(g.L)
    by_Q = 0.5 * (rw @ r_before.mT - total * N_before)
    A = columns.A[1:] if columns.A.shape[0] > 1 else columns.A
    step = rw[1:] @ smoothed[:-1].mT - total * (N_before[1:] @ A) @ outer(g.F[:-1])
    u, r = uw[..., :size], rw[..., :size]
    return -u, r[:1], by_Q[:1], _later(step), _later(r[1:]), _later(by_Q[1:]), by_C, u, by_R


def _later(x: Tensor) -> Tensor:
    """Entry 0 of what drives a step is unused."""
    return torch.cat([x.new_zeros(1, *x.shape[1:]), x])
