"""The Kalman log-likelihood as plain torch operations, differentiable any number of times."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...core.model import LinearParameters


def autograd_log_likelihood(parameters: LinearParameters, y: Tensor) -> Tensor:
    """Return `log p(y_t | y_{1:t-1})`, `(*batch, time)`, through the recursion itself.

    Slower than the compiled filter and without its guarantees: covariances are updated in Joseph's
    form and innovations must have a regular covariance. Use it for second derivatives and for
    sums that weight steps differently.

    Raises:
        NotImplementedError: The start is diffuse.
    """
    if parameters.initial.diffuse is not None:
        raise NotImplementedError(
            'The "autograd" backend needs a proper start; this model\'s start is diffuse. Use '
            '`Kalman(backend="sequential")`, or give `m0` and `P0`.'
        )
    mean, cov, _ = parameters.initial
    steps = []
    for t in range(y.shape[-2]):
        if t > 0:
            A, b, Q = (_at(x, t, e) for x, e in zip(parameters.transition, (3, 2, 3), strict=True))
            mean, cov = (A @ mean[..., None])[..., 0] + b, A @ cov @ A.mT + Q
        C, d, R = (_at(x, t, e) for x, e in zip(parameters.emission, (3, 2, 3), strict=True))
        mean, cov, ll = _update(mean, cov, C, d, R, y[..., t, :])
        steps.append(ll)
    return torch.stack(steps, -1) if steps else y.new_zeros(y.shape[:-1])


def _at(x: Tensor, t: int, event: int) -> Tensor:
    axis = x.ndim - event
    return x.select(axis, t if x.shape[axis] > 1 else 0)


def _update(
    mean: Tensor, cov: Tensor, C: Tensor, d: Tensor, R: Tensor, y: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Condition on the observed components; a missing one is a row of zeros with variance 1."""
    seen = ~y.isnan()
    both = seen[..., :, None] & seen[..., None, :]
    eye = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
    C = torch.where(seen[..., :, None], C, torch.zeros_like(C))
    R = torch.where(both, R, eye)
    filled = torch.where(seen, y, torch.zeros_like(y))
    v = torch.where(seen, filled - d - (C @ mean[..., None])[..., 0], torch.zeros_like(filled))
    L = torch.linalg.cholesky(C @ cov @ C.mT + R)
    gain = torch.cholesky_solve(C @ cov, L).mT
    left = torch.eye(cov.shape[-1], dtype=y.dtype, device=y.device) - gain @ C
    white = torch.linalg.solve_triangular(L, v[..., None], upper=False)[..., 0]
    volume = L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    ll = (
        -0.5 * white.square().sum(-1)
        - volume
        - 0.5 * math.log(2 * math.pi) * seen.to(y.dtype).sum(-1)
    )
    return mean + (gain @ v[..., None])[..., 0], left @ cov @ left.mT + gain @ R @ gain.mT, ll
