"""Rolling-origin evaluation: forecast from many points of a series and score what came next."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from ..core.results import Forecast, Labelled
from .scores import covered, crps, log_score, scaled_error

if TYPE_CHECKING:
    import pandas as pd


Forecaster = Callable[[Tensor, int], Forecast]
"""Maps a past `(*batch, time, obs)` and a horizon to a forecast, as `SeasonalNaive(52)` does."""

Refit = bool | Literal["first"]

Grouping = Literal["overall", "horizon", "origin", "column"]


class _BacktestFields(NamedTuple):
    forecast: Forecast
    y: Tensor
    origins: Tensor
    scale: Tensor


class Backtest(Labelled, _BacktestFields):
    """Forecasts from several origins and what came true.

    Attributes:
        forecast: All forecasts, with a leading axis `origin` before the batch axes.
        y: What happened, `(origin, *batch, horizon, obs)`; NaN where nothing was seen.
        origins: Number of steps each forecast had seen, `(origin,)`.
        scale: Error of the naive forecast in the first past, `(*batch, obs)`: the unit of MASE.
        index: Row labels of the data, or `None`.
        names: Names of the observed columns, or `None`.
    """

    def scores(self, by: Grouping = "overall", level: float = 0.9) -> pd.DataFrame:
        """Average the scores; missing observations are left out.

        Args:
            by: One row for all, for each step ahead, for each origin or for each column.
            level: Nominal coverage of the interval whose coverage and width are reported.

        Returns:
            Columns `crps`, `log_score` (negative log density, nats a step), `cov90`, `width90`
            (named after `level`), `mase` and `count` (observations scored). All but coverage are
            better when lower. What could not be forecast yet, such as a series that has not begun,
            is not scored. There is no `log_score` by column, for it judges them jointly.
        """
        import pandas as pd

        lower, upper = self.forecast.interval(level)
        # Before its first observation a series may have no forecast: infinitely wide is none.
        none = self.forecast.cov.diagonal(dim1=-2, dim2=-1).isinf()
        y = torch.where(none, torch.nan, self.y)
        seen = torch.where(y.isnan(), torch.nan, 1.0)
        percent = f"{100 * level:g}"
        parts = {
            "crps": crps(self.forecast, y),
            "log_score": log_score(y, self.forecast.mean, self.forecast.cov)[..., None],
            f"cov{percent}": covered(y, lower, upper),
            f"width{percent}": torch.where(none, torch.nan, upper - lower) * seen,
            "mase": scaled_error(y, self.forecast.mean, self.scale),
            "count": seen,
        }
        if by == "column":
            parts.pop("log_score")
        columns = {name: _average(part, by, name == "count") for name, part in parts.items()}
        return pd.DataFrame(columns, index=self._rows(by)).astype({"count": int})

    def _rows(self, by: Grouping) -> pd.Index:
        import pandas as pd

        if by == "overall":
            return pd.Index(["overall"])
        if by == "horizon":
            return pd.RangeIndex(1, self.y.shape[-2] + 1, name="horizon")
        if by == "column":
            default = [f"y{i}" for i in range(self.y.shape[-1])]
            return pd.Index(self.names or default, name="column")
        seen = self.origins.tolist()
        if self.index is None:
            return pd.Index(seen, name="origin")
        return self.index[[count - 1 for count in seen]].rename("origin")


def _average(part: Tensor, by: Grouping, total: bool) -> list[float]:
    """Average (or add) a score `(origin, *batch, horizon, obs)` over all axes but one."""
    axis = {"overall": None, "horizon": -2, "origin": 0, "column": -1}[by]
    part = part.detach()
    rows = part.reshape(1, -1) if axis is None else part.movedim(axis, 0).flatten(1)
    return (rows.nansum(-1) if total else rows.nanmean(-1)).tolist()
