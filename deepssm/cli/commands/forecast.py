"""`deepssm forecast`: what comes next, with bands."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...api.fit import Fit
from ...api.forecasting import Ahead
from ...core.results import Forecast
from ..exit_codes import DataError, Outcome, UsageError
from ..fit_model import future_inputs
from ..output import STANDARD_OUTPUT, check_output, quoted
from ..reading import reading_of
from ..saved_runs import Run, open_run
from ..sizes import require_room
from ..state_tables import first_row, fit_with_data, write_table
from ..table import read_inputs

if TYPE_CHECKING:
    import pandas as pd


def run(args: argparse.Namespace) -> Outcome:
    """Forecast the steps after the run's observations, or after those of a new table."""
    check_output(args, [args.data, args.u_future])
    chosen = open_run(args.folder, args.which)
    fit = fit_with_data(chosen, args.data)
    require_room(chosen.spec, fit.series.time, args.horizon, args.samples)
    forecast = fit.forecast(
        args.horizon,
        u_future=_inputs(args, chosen, fit),
        dt_future=_steps(chosen, fit),
        num_samples=args.samples,
        generator=torch.Generator(fit.model.device).manual_seed(args.seed),
    )
    frame = forecast_frame(forecast, chosen.spec.y, args.levels)
    if fit.series.dt is not None and fit.index is not None:
        frame.index = _times(chosen, fit.index, args.horizon)
    write_table(frame, args.out)
    data = {"horizon": args.horizon, "levels": args.levels, "columns": list(frame.columns)}
    text = f"{_preview(frame)}\n{args.horizon} steps ahead with {chosen.spec.words}."
    next_command = f"deepssm backtest {quoted(args.folder)}"
    return Outcome(text, data, args.out, next_command, args.out == STANDARD_OUTPUT)


def _inputs(args: argparse.Namespace, run: Run, fit: Fit) -> np.ndarray | None:
    names = list(run.spec.u)
    if bool(names) != (args.u_future is not None):
        wanted = (
            f"needs --u-future CSV with {', '.join(names)}" if names else "takes no --u-future"
        )
        raise UsageError(f"the model of {args.folder} {wanted}.")
    if not run.spec.input_dim:
        return None
    given = np.empty((args.horizon, 0))
    if names:
        given = _given(args, run, fit, names)
    start = fit.series.time if fit.index is None else first_row(run, fit.index) + len(fit.index)
    return future_inputs(run.spec, given, start=start)


def _given(args: argparse.Namespace, run: Run, fit: Fit, names: list[str]) -> np.ndarray:
    """Return the inputs of the steps ahead: by their times where the table has them."""
    settings = run.config.get("data", {})
    reading = reading_of(settings.get("reading", {}))._replace(series="")
    frame = read_inputs(args.u_future, names, time=settings.get("time"), reading=reading)
    labels = fit.labels._replace(inputs=tuple(names))
    found = Ahead(args.horizon, frame, labels=labels).aligned(fit.model).u_future
    given = np.asarray(found)
    if len(given) != args.horizon:
        raise DataError(
            f"{args.u_future} has {len(given)} rows, expected one a step: {args.horizon}."
        )
    return given


def _steps(run: Run, fit: Fit) -> float | None:
    """Return the step of the future for models in continuous time: the usual one."""
    if fit.series.dt is None:
        return None
    settings = run.config.get("data", {})
    return float(settings.get("usual", 1.0)) / float(settings.get("unit", 1.0))


def _times(run: Run, index: pd.Index, horizon: int) -> pd.Index:
    """Return the times of the steps ahead: the usual step apart, whatever the past was."""
    import pandas as pd

    ahead = float(run.config["data"]["usual"]) * np.arange(1, horizon + 1)
    dated = isinstance(index, pd.DatetimeIndex)
    later = index[-1] + (pd.to_timedelta(ahead, unit="s") if dated else ahead)
    return pd.Index(later, name=index.name)


def forecast_frame(
    forecast: Forecast, names: tuple[str, ...], levels: list[float]
) -> pd.DataFrame:
    """Return mean, standard deviation and bands of each column, one row a step.

    Args:
        forecast: Of one series.
        names: Names of the columns.
        levels: Probabilities of the bands.
    """
    import pandas as pd

    columns = {}
    sd = forecast.cov.diagonal(dim1=-2, dim2=-1).sqrt()
    bands = {level: forecast.interval(level) for level in sorted(levels)}
    for i, name in enumerate(names):
        columns[f"{name}_mean"], columns[f"{name}_sd"] = forecast.mean[:, i], sd[:, i]
        for level, (lower, upper) in bands.items():
            columns[f"{name}_lower{100 * level:g}"] = lower[:, i]
            columns[f"{name}_upper{100 * level:g}"] = upper[:, i]
    index = forecast.index
    if index is None:
        index = pd.RangeIndex(1, len(sd) + 1, name="step")
    values = {name: column.detach().cpu().numpy() for name, column in columns.items()}
    return pd.DataFrame(values, index=index)


def _preview(frame: pd.DataFrame) -> str:
    return frame.iloc[:5, :6].to_string(float_format=lambda x: f"{x:.6g}")
