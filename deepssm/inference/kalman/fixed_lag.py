"""Fixed-lag smoothing: each state from the data up to `lag` steps after it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...core.methods import InferenceMethod
from ...core.model import (
    GaussianInitial,
    LinearConditional,
    LinearParameters,
    Series,
    StateSpaceModel,
)
from ...core.results import Filtered, Smoothed
from .cpu.problem import batch_shape

# Numbers in the factors of the windows that are smoothed at once.
_AT_ONCE = 20_000_000


class Matrices(StateSpaceModel):
    """A model that is its numbers."""

    def __init__(self, parameters: LinearParameters) -> None:
        super().__init__()
        self._given = parameters

    def linear_parameters(self, u: Tensor | None, dt: Tensor | None) -> LinearParameters:
        """Return the numbers; inputs and time steps are part of them."""
        return self._given


class _Window(NamedTuple):
    """Moments of states `t` given `y_{1:t+lag}`, and of the pairs `(t + 1, t)` given the same."""

    mean: Tensor
    cov: Tensor
    cross: Tensor


def fixed_lag(
    method: InferenceMethod, parameters: LinearParameters, y: Tensor, lag: int
) -> Smoothed:
    r"""Return `p(z_t | y_{1:t+lag})` for every `t`.

    Given the filtered moments of `z_t`, the earlier data say no more: each answer is the first
    state of a short series that starts from them and holds the next `lag` observations, and all
    these series are one batch for the smoother. States that a diffuse start still leaves open when
    filtered are smoothed from the beginning of the data.

    Args:
        method: An exact filter and smoother.
        parameters: The model.
        y: `(*batch, time, obs)`, NaN where missing.
        lag: Steps to wait for, 0 or more.

    Returns:
        Smoothed moments; `cross_cov[t]` is given the data up to `t - 1 + lag`.

    Source: Anderson & Moore (1979), Optimal Filtering, section 7.3 (the quantity).
    """
    batch, time = batch_shape(parameters, y), y.shape[-2]
    data, given = y.double().expand(*batch, *y.shape[-2:]), _extended(parameters, max(lag, 1))
    filtered = method.filter(Matrices(_until(given, time)), Series(data))
    if time == 0 or data.numel() == 0:
        return method.smooth(Matrices(parameters), Series(y))
    missing = torch.full_like(data[..., :1, :], torch.nan).expand(*batch, max(lag, 1), -1)
    data = torch.cat([data, missing], -2)
    undetermined = filtered.cov.isinf().flatten(-2).any(-1).reshape(-1, time).any(0).nonzero()
    early = int(undetermined[-1]) + 1 if len(undetermined) else 0
    parts = [_from_the_start(method, given, data, t, lag) for t in range(early)]
    work = batch.numel() * (lag + 2) * filtered.mean.shape[-1] ** 2
    width = max(1, _AT_ONCE // work)
    for first in range(early, time, width):
        times = range(first, min(first + width, time))
        parts.append(_windows(method, given, data, times, lag, filtered))
    mean = torch.cat([part.mean for part in parts], -2)
    cov, cross = (torch.cat([getattr(part, x) for part in parts], -3) for x in ("cov", "cross"))
    cross = torch.cat([torch.zeros_like(cross[..., :1, :, :]), cross[..., :-1, :, :]], -3)
    numbers = (x.to(y.dtype) for x in (mean, cov, cross, filtered.log_likelihood))
    return Smoothed(*numbers, ill_conditioned=filtered.ill_conditioned)


def _from_the_start(
    method: InferenceMethod, given: LinearParameters, y: Tensor, t: int, lag: int
) -> _Window:
    """Smooth all data up to `t + lag`, and keep step `t`."""
    end = t + 1 + max(lag, 1)
    data = y[..., :end, :].clone()
    data[..., t + lag + 1 :, :] = torch.nan
    result = method.smooth(Matrices(_until(given, end)), Series(data))
    now, after = slice(t, t + 1), slice(t + 1, t + 2)
    mean, cov = result.mean[..., now, :], result.cov[..., now, :, :]
    return _Window(mean, cov, result.cross_cov[..., after, :, :])


def _windows(
    method: InferenceMethod,
    given: LinearParameters,
    y: Tensor,
    times: range,
    lag: int,
    filtered: Filtered,
) -> _Window:
    """Smooth one short series for each of `times`, begun from its filtered moments."""
    size = 1 + max(lag, 1)
    part = slice(times.start, times.stop)
    data = _unfold(y, times, size, 1).clone()
    data[..., :1, :], data[..., lag + 1 :, :] = torch.nan, torch.nan
    start = GaussianInitial(filtered.mean[..., part, :], filtered.cov[..., part, :, :])
    conditionals = [
        LinearConditional(
            _unfold(matrix, times, size, 2),
            _unfold(offset, times, size, 1),
            _unfold(cov, times, size, 2),
        )
        for matrix, offset, cov in given[1:]
    ]
    result = method.smooth(Matrices(LinearParameters(start, *conditionals)), Series(data))
    return _Window(
        result.mean[..., 0, :], result.cov[..., 0, :, :], result.cross_cov[..., 1, :, :]
    )


def _unfold(x: Tensor, times: range, size: int, event: int) -> Tensor:
    """Turn `(*batch, time or 1, *event)` into `(*batch, windows or 1, size or 1, *event)`."""
    axis = x.ndim - event - 1
    if x.shape[axis] == 1:
        return x.unsqueeze(axis)
    span = x.narrow(axis, times.start, len(times) + size - 1)
    return span.unfold(axis, size, 1).movedim(-1, axis + 1)


def _extended(parameters: LinearParameters, steps: int) -> LinearParameters:
    """Return the numbers in float64, repeating the last of those that vary for more steps."""
    (mean, cov, diffuse), *conditionals = parameters
    diffuse = None if diffuse is None else diffuse.double()
    more = [
        LinearConditional(
            *(_repeat_last(x.double(), steps, e) for x, e in zip(part, (2, 1, 2), strict=True))
        )
        for part in conditionals
    ]
    return LinearParameters(GaussianInitial(mean.double(), cov.double(), diffuse), *more)


def _repeat_last(x: Tensor, steps: int, event: int) -> Tensor:
    axis = x.ndim - event - 1
    size = x.shape[axis]
    if size < 2:
        return x
    return x.index_select(axis, torch.arange(size + steps, device=x.device).clamp(max=size - 1))


def _until(parameters: LinearParameters, end: int) -> LinearParameters:
    """Keep the first `end` steps of what varies."""
    start, *conditionals = parameters
    parts = [
        LinearConditional(*(_first(x, end, e) for x, e in zip(part, (2, 1, 2), strict=True)))
        for part in conditionals
    ]
    return LinearParameters(start, *parts)


def _first(x: Tensor, end: int, event: int) -> Tensor:
    axis = x.ndim - event - 1
    return x if x.shape[axis] == 1 else x.narrow(axis, 0, end)
