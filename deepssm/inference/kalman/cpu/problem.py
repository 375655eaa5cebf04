"""Between torch and the compiled kernels: flat float64 arrays, allocation, threads."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ....core.gaussian import psd_factor
from ....core.model import LinearConditional, LinearParameters

# Compiling for given sizes takes seconds, once, and saves a third of each step of a small model.
_MOST_UNROLLED, _STEPS_WORTH_COMPILING = 4, 10_000
_FEW = 8  # states up to which a loop over a stack of matrices is the fastest
# A chain of integrators is longer only where nothing observes it.
_MOST_STEPS_UNSEEN = 4


class Sizes(NamedTuple):
    """Series, steps, states, observations, diffuse coefficients and noise directions."""

    series: int
    time: int
    n: int
    p: int
    k: int
    q: int

    @property
    def work(self) -> int:
        """Multiplications of a filter, roughly."""
        return self.series * self.time * (self.n + self.p) ** 2

    @property
    def constants(self) -> tuple[int, int, int, int] | None:
        """Sizes worth compiling for: small ones, where the data outweigh the compilation."""
        small = self.n <= _MOST_UNROLLED and self.p <= _MOST_UNROLLED and self.k == 0
        return self[2:] if small and self.series * self.time >= _STEPS_WORTH_COMPILING else None


class Problem(NamedTuple):
    """A linear-Gaussian model and its data as arrays with axes `(series or 1, time or 1, ...)`.

    Attributes:
        params: `A, b, LQ, C, d, R`; `LQ` keeps only the columns of the noise that act.
        start: Mean with the diffuse directions as further columns, and factor of `P0`.
        y: `(series, time, obs)`.
        sizes: See `Sizes`.
        batch: Leading axes of the data and the parameters, broadcast.
    """

    params: tuple[np.ndarray, ...]
    start: tuple[np.ndarray, np.ndarray]
    y: np.ndarray
    sizes: Sizes
    batch: torch.Size


class Pass(NamedTuple):
    """What the forward kernel leaves behind; the time axis is 2 where only the sums were wanted.

    Attributes:
        log_likelihood: `(series, time)`.
        slot: Which entry of `L, F, G, chol, rows, count` each step used, `(series, time)`.
        a: Predicted mean and its slopes in the diffuse coefficients, `(series, time, n, 1 + k)`.
        L: Predicted factor, `(series, time, n, n)`.
        m: Filtered mean and slopes. F: Filtered factor.
        G: Whitened gain, `(series, time, n, p)`. chol: Factor of `S`, `(series, time, p, p)`.
        E: Whitened innovations and slopes, `(series, time, p, 1 + k)`.
        rows: Which observation each pivot belongs to. count: How many pivots.
        info: Whitened equations of the diffuse coefficients, `(series, time, k, k + 1)`.
        worst: Smallest pivot of `S` as a fraction of its row, `(series,)`.
    """

    log_likelihood: np.ndarray
    slot: np.ndarray
    a: np.ndarray
    L: np.ndarray
    m: np.ndarray
    F: np.ndarray
    G: np.ndarray
    chol: np.ndarray
    E: np.ndarray
    rows: np.ndarray
    count: np.ndarray
    info: np.ndarray
    worst: np.ndarray


def batch_shape(parameters: LinearParameters, y: Tensor) -> torch.Size:
    """Broadcast the leading axes of the data and of every parameter.

    Args:
        parameters: The model.
        y: `(*batch, time, obs)`.

    Raises:
        ValueError: A parameter varies over another number of steps than the data have.
    """
    start, *conditionals = parameters
    shapes = [y.shape[:-2], start.mean.shape[:-1], start.cov.shape[:-2]]
    for part, names in zip(conditionals, ("AbQ", "CdR"), strict=True):
        for x, name, event in zip(part, names, (2, 1, 2), strict=True):
            if x.shape[-event - 1] not in (1, y.shape[-2]):
                raise ValueError(
                    f"`{name}` varies over {x.shape[-event - 1]} steps, but there are "
                    f"{y.shape[-2]}. Give each step of the data an entry of its own, those of a "
                    "forecast too, or one entry for all."
                )
        shapes += [part.matrix.shape[:-3], part.offset.shape[:-2], part.cov.shape[:-3]]
    distinct = {shape for shape in shapes if shape}
    return distinct.pop() if len(distinct) == 1 else torch.broadcast_shapes(*distinct)


def prepare(parameters: LinearParameters, y: Tensor) -> Problem:
    """Factor the covariances and lay everything out for the kernels."""
    batch = batch_shape(parameters, y)
    start, transition, emission = parameters
    _factor(emission.cov, "R")
    params = (
        *transition_arrays(transition, batch),
        _flat(emission.matrix, batch, 3),
        _flat(emission.offset, batch, 2),
        _flat(emission.cov, batch, 3),
    )
    data = _flat(y if y.shape[:-2] == batch else y.expand(*batch, *y.shape[-2:]), batch, 2)
    n, p = params[0].shape[-1], params[3].shape[-2]
    k = 0 if start.diffuse is None else start.diffuse.shape[-1]
    sizes = Sizes(batch.numel(), y.shape[-2], n, p, k, params[2].shape[-1])
    return Problem(params, _start(parameters, batch), data, sizes, batch)


def transition_arrays(
    transition: LinearConditional, batch: torch.Size
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return `A, b, LQ` for the kernels.

    Args:
        transition: Of a model.
        batch: Leading axes of all its parameters and its data.
    """
    noise = _factor(transition.cov, "Q")
    if not noise.diagonal(axis1=-2, axis2=-1).all():
        noise = noise[..., (noise != 0).reshape(-1, noise.shape[-1]).any(0)]
    matrix, offset = _flat(transition.matrix, batch, 3), _flat(transition.offset, batch, 2)
    return matrix, offset, _flat(noise, batch, 3)


def allocate(size: Sizes, steps: int, slots: int | None = None) -> Pass:
    """Make room for the forward kernel's means at `steps` steps and for `slots` factors."""
    lead, (n, p, k) = (size.series, steps), (size.n, size.p, size.k)
    second = (size.series, steps if slots is None else slots)
    return Pass(
        log_likelihood=np.empty((size.series, size.time)),
        slot=np.empty((size.series, size.time), np.int64),
        a=np.empty((*lead, n, 1 + k)),
        L=np.empty((*second, n, n)),
        m=np.empty((*lead, n, 1 + k)),
        F=np.empty((*second, n, n)),
        G=np.empty((*second, n, p)),
        chol=np.empty((*second, p, p)),
        E=np.empty((*lead, p, 1 + k)),
        rows=np.empty((*second, p), np.int64),
        count=np.empty(second, np.int64),
        info=np.empty((*lead, k, k + 1)),
        worst=np.ones(size.series),
    )


def _start(parameters: LinearParameters, batch: torch.Size) -> tuple[np.ndarray, np.ndarray]:
    start = parameters.initial
    mean, cov = _f64(start.mean)[..., None], start.cov
    if start.diffuse is not None:
        directions = _f64(start.diffuse)
        slopes = np.broadcast_to(directions, (*mean.shape[:-2], *directions.shape[-2:]))
        mean = np.concatenate((mean, slopes), -1)
        cov = cov + spread_along(torch.from_numpy(directions), parameters).to(cov)
    return _flat(mean, batch, 2), _flat(_factor(cov, "P0"), batch, 2)


def spread_along(directions: Tensor, parameters: LinearParameters) -> Tensor:
    """Return a covariance along the diffuse directions, in the model's own units.

    A flat prior spread by any finite covariance stays flat, so this changes no answer; it keeps
    `S` regular where a sensor without noise sees a state that starts diffuse. Its size is that of
    the process noise, or such that it moves an observation by a deviation of what else does: a
    larger one would hide the other states from the data.

    Args:
        directions: `(n, k)`.
        parameters: Of the model.
    """
    noise = _numbers(parameters.transition.cov)
    variances = noise.diagonal(dim1=-2, dim2=-1).flatten(0, -2).amax(0)[:, None]
    ratio = torch.where(directions != 0, variances / directions.square(), 0.0).amax(0)
    if not bool((ratio > 0).all()):
        ratio = torch.where(ratio > 0, ratio, _seen_by_observations(directions, parameters))
    return (directions * ratio) @ directions.mT


def _seen_by_observations(directions: Tensor, parameters: LinearParameters) -> Tensor:
    """Return the variance of each coefficient that moves an observation by one deviation."""
    A, C = (_numbers(part.matrix) for part in parameters[1:])
    Q, R = (_numbers(part.cov) for part in parameters[1:])
    total = (C.square() * Q.diagonal(dim1=-2, dim2=-1)[..., None, :]).sum(-1)
    unit = (total + R.diagonal(dim1=-2, dim2=-1)).flatten(0, -2).amax(0).sqrt()
    unit = torch.where(unit > 0, unit, 1.0)[:, None]
    step, moved, loading = A.abs().flatten(0, -3).amax(0), directions.abs(), C.new_zeros(())
    largest = C.abs().flatten(0, -3).amax(0) / unit
    # A slope moves an observation a step later, an acceleration two.
    for _ in range(min(len(step), _MOST_STEPS_UNSEEN)):
        loading = torch.maximum(loading, (largest @ moved).amax(0))
        moved = step @ moved
    return torch.where(loading > 0, 1 / loading, 1.0).square()


def _numbers(x: Tensor) -> Tensor:
    return torch.from_numpy(_f64(x))


def _factor(cov: Tensor, name: str) -> np.ndarray:
    """Lower factor of a covariance; the short way for one regular matrix, else the careful one."""
    from .scalar.covariances import regular_factor, regular_factors

    values, n = _f64(cov), cov.shape[-1]
    if values.size == n * n and values.shape[-2] == n:
        factor = np.empty((n, n))
        if regular_factor(np.ascontiguousarray(values.reshape(n, n)), factor):
            return factor.reshape(values.shape)
    elif values.size and n <= _FEW:
        factor = np.empty((values.size // (n * n), n, n))
        if regular_factors(np.ascontiguousarray(values.reshape(factor.shape)), factor):
            return factor.reshape(values.shape)
    eps = torch.finfo(cov.dtype).eps
    return psd_factor(torch.from_numpy(values), name, eps=eps).numpy()


def _f64(x: Tensor) -> np.ndarray:
    return x.detach().to(torch.float64).numpy(force=True)


def _flat(x: Tensor | np.ndarray, batch: torch.Size, event: int) -> np.ndarray:
    """Merge the batch axes into one of size `series`, or 1 where nothing varies over them."""
    values = _f64(x) if isinstance(x, Tensor) else x
    lead, shape = values.shape[: values.ndim - event], values.shape[values.ndim - event :]
    if math.prod(lead) > 1 or batch.numel() == 0:
        # What `broadcast_to` returns cannot be written to, and would be copied below.
        values = values if lead == batch else np.broadcast_to(values, (*batch, *shape))
        values = values.reshape(batch.numel(), *shape)
    else:
        values = values.reshape(1, *shape)
    # To the compiler a read-only array is another type, for which it compiles everything again.
    return np.require(values, requirements=("C", "W"))
