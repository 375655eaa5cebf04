"""What `filter` and `smooth` share: states and observations of a run or a table, as CSV."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..api.fit import Fit
from ..io.calendars import frequency
from .exit_codes import DataError, Outcome
from .fit_model import with_table
from .observation_moments import ObservationMoments
from .output import STANDARD_OUTPUT, quoted, write_output
from .reading import reading_of
from .saved_runs import Run
from .sizes import require_room
from .table import Table, read_table

if TYPE_CHECKING:
    import pandas as pd

_Z90 = 1.6448536269514722


def fit_with_data(run: Run, data: Path | None) -> Fit:
    """Return the run's fit, with the observations of another table where one is given.

    Raises:
        DataError: the table does not fit the run.
    """
    if data is None:
        return run.fit
    table = _like_the_run(run, data)
    require_room(run.spec, len(table.y))
    return with_table(run.spec, run.fit, table, start=first_row(run, table.y.index))


def first_row(run: Run, index: pd.Index) -> int:
    """Return the number of a table's first row, counted from the run's first."""
    import pandas as pd

    own = run.fit.index
    if own is None or len(own) < 2:
        return 0
    step = frequency(own) if isinstance(own, pd.DatetimeIndex) else None
    if step is not None and index[0] >= own[0]:
        return len(pd.date_range(own[0], index[0], freq=step)) - 1
    return round((index[0] - own[0]) / ((own[-1] - own[0]) / (len(own) - 1)))


def _like_the_run(run: Run, data: Path) -> Table:
    settings = run.config.get("data", {})
    unit = float(settings.get("unit", 1.0))
    table = read_table(
        data,
        time=settings.get("time"),
        y=list(run.spec.y),
        u=list(run.spec.u),
        resample=settings.get("resample"),
        uneven=run.spec.uneven,
        unit=unit,
        min_rows=1,
        reading=reading_of(settings.get("reading", {})),
    )
    usual = float(settings.get("usual", 0.0))
    # Months differ by up to a tenth.
    if table.usual and usual and not run.spec.uneven and not 0.85 < table.usual / usual < 1.18:
        raise DataError(
            f"{data}: its rows are {table.step} apart, but the run was learnt on steps of "
            f"{settings.get('step')}. Give rows of that step, or fit a new run."
        )
    return table


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write a frame as CSV, whole or not at all, or to standard output."""
    write_output(frame.to_csv(float_format="%.10g", lineterminator="\n"), path)


def table_of(
    states: pd.DataFrame, observations: ObservationMoments, names: tuple[str, ...]
) -> pd.DataFrame:
    """Put the observations' columns before those of the states.

    Args:
        states: Columns of the states.
        observations: What a sensor shows in those states.
        names: Names of the observed columns.
    """
    columns = {}
    for i, name in enumerate(names):
        mean, sd = observations.mean[:, i].cpu().numpy(), observations.sd[:, i].cpu().numpy()
        columns[f"{name}_mean"], columns[f"{name}_sd"] = mean, sd
        columns[f"{name}_lower90"] = mean - _Z90 * sd
        columns[f"{name}_upper90"] = mean + _Z90 * sd
    return states.assign(**columns)[[*columns, *states.columns]]


def outcome(run: Run, fit: Fit, frame: pd.DataFrame, path: Path, verb: str) -> Outcome:
    """Write the table and say what is in it."""
    write_table(frame, path)
    gaps = int(fit.series.y.isnan().sum())
    text = (
        f"{verb} {len(frame)} rows with {run.spec.words}: columns {', '.join(frame.columns[:4])} "
        f"and {len(frame.columns) - 4} more."
        + (f" The {gaps} missing observations are filled, with bands." if gaps else "")
    )
    data = {"rows": len(frame), "columns": list(frame.columns), "missing": gaps}
    next_command = f"deepssm forecast {quoted(run.folder.path)} --horizon 24"
    return Outcome(text, data, path, next_command, path == STANDARD_OUTPUT)
