"""A long series filtered block by block: the state after one block is the start of the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from ...core.model import (
    GaussianInitial,
    LinearGaussianModel,
    LinearParameters,
    Series,
    StateSpaceModel,
)
from ...core.results import Filtered

if TYPE_CHECKING:
    from .online import OnlineKalman


class _GoesOn(StateSpaceModel):
    """The same model, started at a given state."""

    def __init__(self, model: LinearGaussianModel, start: GaussianInitial) -> None:
        super().__init__()
        self._given, self._from = (model,), start

    def linear_parameters(self, u: Tensor | None, dt: Tensor | None) -> LinearParameters:
        return self._given[0].linear_parameters(u, dt)._replace(initial=self._from)


@torch.no_grad()
def filter_block(
    running: OnlineKalman,
    model: StateSpaceModel,
    y: Tensor,
    u: Tensor | None,
    dt: Tensor | float | None,
) -> Filtered:
    """Filter `y` from where `running` stands and leave it at the last step.

    Args:
        running: A running filter.
        model: Its model.
        y: `(time, obs)`, NaN where missing.
        u: `(time, input)`.
        dt: `(time,)` or a number.

    Raises:
        ValueError: `y` is no single series.
    """
    series = _series(model, y, u, dt)
    parts, done = [], 0
    while done < series.time and not (parts and bool(running.cov.isfinite().all())):
        parts.append(_one(running, series, done))
        done += 1
    if done < series.time:
        parts.append(_rest(running, model, series, done))
    *fields, flags = zip(*(parts or [_empty(running)]), strict=True)
    tensors = [torch.cat(x).to(model.dtype) for x in fields]
    result = Filtered._make([*tensors, torch.stack(flags).any()])
    return result.labelled(None, model.state_names)


def _series(
    model: StateSpaceModel, y: Tensor, u: Tensor | None, dt: Tensor | float | None
) -> Series:
    y = torch.as_tensor(y).to("cpu", torch.float64)
    if y.ndim != 2 or y.shape[-1] != model.obs_dim or bool(y.isinf().any()):
        raise ValueError(
            f"`y` must be one series of finite numbers or NaN, `(time, {model.obs_dim})`, got "
            f"{tuple(y.shape)}."
        )
    steps = None if dt is None else torch.as_tensor(dt, dtype=y.dtype).expand(len(y))
    return Series(y, None if u is None else torch.as_tensor(u).to(y), steps)


def _empty(running: OnlineKalman) -> Filtered:
    mean, cov = running.mean[None][:0], running.cov[None][:0]
    return Filtered(mean, cov, mean, cov, mean[:, 0], torch.tensor(False))


def _one(running: OnlineKalman, series: Series, t: int) -> Filtered:
    """Take one step of the running filter."""
    u = None if series.u is None else series.u[t]
    if not running.predicted:
        running.predict(None if series.dt is None else float(series.dt[t]), u)
    before = running.mean, running.cov
    ll = running.update(series.y[t], u)
    moments = (x[None].to(series.y) for x in (running.mean, running.cov, *before))
    return Filtered._make([*moments, series.y.new_tensor([ll]), torch.tensor(False)])


def _rest(running: OnlineKalman, model: StateSpaceModel, series: Series, first: int) -> Filtered:
    """Filter on by the batch filter, started at the step before, which it shall not read."""
    from .method import Kalman

    y, u, dt = (None if x is None else x[first - 1 :].clone() for x in series)
    assert y is not None
    y[0] = torch.nan
    start = GaussianInitial(running.mean.double(), running.cov.double())
    goes_on = _GoesOn(cast(LinearGaussianModel, model), start)
    found = Kalman().filter(goes_on, Series(y, u, dt))
    running.jump(found.mean[-1], found.cov[-1], float(found.log_likelihood.sum()))
    return Filtered._make([*(x[1:] for x in found[:5]), found.ill_conditioned])
