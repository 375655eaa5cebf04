"""The compiled route of `gaussian_steps`: tensors in, tensors out, no gradients.

The loops work in float64, so that single precision needs no second compilation; tolerances are
those of the data's own type.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

if TYPE_CHECKING:
    from .linearized import Linearized

LARGEST = 32
"""Rows from which LAPACK's blocked factorisations are faster than plain loops."""


def compilable(mean: Tensor, slope: Tensor, spread: Tensor, *others: Tensor) -> bool:
    """Tell whether nobody will ask for derivatives, and matrices are small and on a CPU."""
    if slope.device.type != "cpu" or sum(slope.shape[-2:]) > LARGEST:
        return False
    tensors = mean, slope, spread, *others
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        return False
    return all(forward_ad.unpack_dual(x).tangent is None for x in tensors)


def predict(slope: Tensor, spread: Tensor, *, joint: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return factor, gain and rest of `[slope, spread]`; the last two empty unless `joint`."""
    from .kernels import predict_all

    batch = _common(slope.shape[:-2], spread.shape[:-2])
    (n, before), k = slope.shape[-2:], spread.shape[-1]
    first, second = _series(slope, batch, 2), _series(spread, batch, 2, shared=True)
    count = len(first)
    back = count if joint else 0
    out = np.empty((count, n, n)), np.empty((back, before, n)), np.empty((back, before, before))
    predict_all(first, second, joint, np.empty((n + before, before + k)), *out)
    factor = _tensor(out[0], batch + (n, n), slope)
    if not joint:
        return factor, factor[..., :0], factor[..., :0]
    gain = _tensor(out[1], batch + (before, n), slope)
    return factor, gain, _tensor(out[2], batch + (before, before), slope)


def condition(
    step: Linearized, residual: Tensor, observed: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return shift, gain, log-likelihood and which series met a row they knew exactly."""
    from .kernels import condition_all

    batch = _common(step.slope.shape[:-2], residual.shape[:-1], step.spread.shape[:-2])
    p, n = step.slope.shape[-2:]
    slope, spread = _series(step.slope, batch, 2), _series(step.spread, batch, 2, shared=True)
    data = tuple(_series(x, batch, 1) for x in (residual, step.mean, observed))
    count, cols = len(slope), n + spread.shape[-1]
    out = np.empty((count, n)), np.empty((count, n, n)), np.empty(count), np.empty(count, np.bool_)
    work = np.empty((p + n, cols)), np.empty(p), np.empty(p), np.empty(p)
    condition_all(slope, spread, *data, torch.finfo(residual.dtype).eps, work, out)
    shift, gain = (
        _tensor(out[0], batch + (n,), residual),
        _tensor(out[1], batch + (n, n), residual),
    )
    return shift, gain, _tensor(out[2], batch, residual), torch.from_numpy(out[3].reshape(batch))


def move(mean: Tensor, factor: Tensor, shift: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    """Return `mean + factor shift` and `factor gain`, factors being lower triangular."""
    from .kernels import move_all

    batch = mean.shape[:-1]
    vectors = _series(mean, batch, 1), _series(factor, batch, 2)
    out = np.empty_like(vectors[0]), np.empty_like(vectors[1])
    move_all(*vectors, _series(shift, batch, 1), _series(gain, batch, 2), *out)
    return _tensor(out[0], mean.shape, mean), _tensor(out[1], factor.shape, mean)


def product(left: Tensor, right: Tensor) -> Tensor:
    """Return `left @ right` of many small matrices with the same batch axes."""
    from .kernels import multiply_all

    batch = left.shape[:-2]
    first, second = _series(left, batch, 2), _series(right, batch, 2)
    out = np.empty((len(first), left.shape[-2], right.shape[-1]))
    multiply_all(first, second, out)
    return _tensor(out, batch + out.shape[1:], left)


def _common(*shapes: torch.Size) -> torch.Size:
    """Broadcast; torch's own function takes longer than a step of the filter."""
    different = {shape for shape in shapes if shape}
    if len(different) > 1:
        return torch.broadcast_shapes(*different)
    return different.pop() if different else torch.Size()


def _series(x: Tensor, batch: tuple[int, ...], event: int, *, shared: bool = False) -> np.ndarray:
    """Lay out as `(series, *event)`, contiguous; what is `shared` by all may keep one entry."""
    array = x.detach().numpy()
    shape = array.shape[array.ndim - event :]
    if shared and array.ndim == event:
        array = array[None]
    else:
        whole = array if array.shape == batch + shape else np.broadcast_to(array, batch + shape)
        array = whole.reshape(math.prod(batch), *shape)
    # To the compiler a read-only array is another type, for which it compiles everything again.
    return np.require(array, None if array.dtype == np.bool_ else np.float64, ("C", "W"))


def _tensor(array: np.ndarray, shape: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.from_numpy(array.reshape(shape)).to(like.dtype)
