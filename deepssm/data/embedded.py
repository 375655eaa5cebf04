"""Two public-domain records that ship inside the package; the files carry their provenance."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def nile() -> pd.Series:
    """Return the annual flow of the Nile at Aswan, 1871 to 1970.

    Returns:
        100 values in 1e8 cubic metres, no gaps, indexed by the first day of each year.

    Source:
        Cobb (1978), The Problem of the Nile, Biometrika 65(2). Public domain.

    Example:
        >>> float(nile().iloc[0])
        1120.0
    """
    return _read("nile.csv", "year", "YS", "%Y")["volume"].rename("nile")


def co2() -> pd.Series:
    """Return weekly atmospheric carbon dioxide at Mauna Loa, 1958 to 2001.

    Returns:
        2284 values in parts per million, 59 of them missing, indexed by Saturdays.

    Source:
        Keeling and Whorf (2004), Trends, CDIAC, Oak Ridge National Laboratory. Public domain.

    Example:
        >>> int(co2().isna().sum())
        59
    """
    return _read("co2.csv", "date", "W-SAT", "%Y-%m-%d")["co2"]


def _read(name: str, label: str, freq: str, date_format: str) -> pd.DataFrame:
    import pandas as pd

    with (files(__name__.rpartition(".")[0]) / "files" / name).open(encoding="utf-8") as stream:
        frame = pd.read_csv(stream, comment="#", dtype={label: str})
    dates = pd.to_datetime(frame.pop(label), format=date_format)
    return frame.astype("float64").set_axis(pd.DatetimeIndex(dates, freq=freq, name=label))
