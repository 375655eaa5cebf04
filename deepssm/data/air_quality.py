"""Weekly means of twelve air-quality stations in Beijing, with the gaps of real sensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .download import data_folders, find

if TYPE_CHECKING:
    import pandas as pd

_FILE = "aq_weekly.csv"


def beijing_air_quality(
    path: str | Path | None = None, station: str | None = None
) -> pd.DataFrame:
    """Load 210 weekly means (2013 to 2017) of 11 sensor channels.

    Args:
        path: `aq_weekly.csv` with columns `week`, `station` and one per channel, or the folder
            that holds it; by default it is looked for in `$DEEPSSM_DATA`.
        station: One station's name; by default all twelve.

    Returns:
        One row a week (Mondays). Columns are channels, or (station, channel) pairs where no
        station is named.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: the station is not in the file.

    Source:
        Zhang et al. (2017), Cautionary tales on air-quality improvement in Beijing, Proceedings
        of the Royal Society A 473; UCI data set 501.
    """
    import pandas as pd

    long = pd.read_csv(_locate(path), parse_dates=["week"])
    wide = long.pivot(index="week", columns="station").swaplevel(axis="columns")
    channels = [name for name in long.columns if name not in ("week", "station")]
    stations = sorted(long["station"].unique())
    wide = wide[[(place, channel) for place in stations for channel in channels]].asfreq("W-MON")
    if station is None:
        return wide
    if station not in stations:
        raise ValueError(f"`station` must be one of {', '.join(stations)}, got {station!r}.")
    return wide.loc[:, [station]].droplevel("station", axis="columns")


def _locate(path: str | Path | None) -> Path:
    given = None if path is None else Path(path)
    if given is not None and given.is_file():
        return given
    sub = "beijing_air_quality"
    found = find(_FILE, data_folders(sub) if given is None else (given, given / sub))
    if found is None:
        raise FileNotFoundError(
            f"`path` must be {_FILE} or a folder that holds it, got {path}. It is not downloaded: "
            "average UCI data set 501 by week, or set $DEEPSSM_DATA to its folder."
        )
    return found
