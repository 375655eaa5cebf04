"""Forecasts that any model must beat, with honest intervals."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..core.results import Forecast


class SeasonalNaive(NamedTuple):
    """The same step of the last season, with errors that add up season by season.

    A forecaster: call it with the past and a horizon.

    Attributes:
        period: Season in steps; 1 repeats the last value.
    """

    period: int = 1

    def __call__(self, y: Tensor, horizon: int) -> Forecast:
        """Forecast `horizon` steps after `y`; see `seasonal_naive`."""
        return seasonal_naive(y, horizon, self.period)


def persistence(y: Tensor, horizon: int) -> Forecast:
    """Forecast the last value seen; the variance grows in proportion to the time ahead.

    Args:
        y: The past, `(*batch, time, obs)`; NaN means missing.
        horizon: Number of steps ahead.
    """
    return seasonal_naive(y, horizon, 1)


def seasonal_naive(y: Tensor, horizon: int, period: int) -> Forecast:
    """Forecast the value of the same step in the last season in which it was seen.

    `y_{t} = y_{t - period} + e_t`, `e_t ~ N(0, s^2)` independent, where `s^2` is the mean square
    of the differences seen. A value `k` seasons old has the variance `k s^2`. Components are
    independent of each other.

    Args:
        y: The past, `(*batch, time, obs)`; NaN means missing.
        horizon: Number of steps ahead.
        period: Season in steps.

    Returns:
        Moments, `(*batch, horizon, obs)` and `(*batch, horizon, obs, obs)`.

    Raises:
        ValueError: a step of the season was never seen, or no difference can be formed.

    Source:
        Hyndman and Athanasopoulos (2021), Forecasting: Principles and Practice, section 5.5.
    """
    time = y.shape[-2]
    if not 1 <= period < time:
        raise ValueError(
            f"`period` must be at least 1 and less than the {time} steps of the past, "
            f"got {period}."
        )
    variance = (y[..., period:, :] - y[..., :-period, :]).square().nanmean(-2)
    last, age = _last_seen(y, period)
    if bool(last.isnan().any() | variance.isnan().any()):
        raise ValueError(
            f"`y` must show each step of the season of {period} at least once, and one of them "
            "in two seasons running. Pass a longer past or a shorter `period`."
        )
    ahead = torch.arange(horizon, device=y.device)
    phase, seasons = ahead % period, (ahead // period)[:, None]
    spread = variance[..., None, :] * (age[..., phase, :] + seasons + 1)
    return Forecast(last[..., phase, :], torch.diag_embed(spread))


def _last_seen(y: Tensor, period: int) -> tuple[Tensor, Tensor]:
    """Return each phase's last value and its age in seasons, `(*batch, period, obs)`.

    Phase 0 is the step right after the end of `y`, so the seasons are counted from the end.
    """
    missing = -y.shape[-2] % period
    padded = torch.cat([y.new_full((*y.shape[:-2], missing, y.shape[-1]), torch.nan), y], -2)
    seasons = padded.unflatten(-2, (-1, period))
    count = seasons.shape[-3]
    order = torch.arange(count, device=y.device)[:, None, None]
    latest = torch.where(seasons.isnan(), -1, order).amax(-3, keepdim=True)
    value = seasons.gather(-3, latest.clamp(min=0))[..., 0, :, :]
    return value, count - 1 - latest[..., 0, :, :]
