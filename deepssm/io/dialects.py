"""What an error proposes, in the words of the library that the user's frame comes from."""

from __future__ import annotations

from typing import Literal, NamedTuple

Library = Literal["pandas", "polars", "xarray", "pyarrow"]

_EVERY = {"D": "1d", "h": "1h", "min": "1m", "s": "1s", "MS": "1mo"}


class Dialect(NamedTuple):
    """How one says it.

    Attributes:
        library: Whose frame it is.
        receiver: The frame as code: `y`, or what makes a pandas frame of it.
        time: Name of the column or dimension that holds the time, empty if there is none.
    """

    library: Library
    receiver: str
    time: str = ""

    @property
    def sort(self) -> str:
        """Code that puts rows in order."""
        if self.library == "polars":
            return f'{self.receiver}.sort("{self.time}")'
        if self.library == "xarray":
            return f'{self.receiver}.sortby("{self.time}")'
        return f"{self.receiver}.sort_index()"

    @property
    def merge(self) -> str:
        """Code that averages rows of one label."""
        if self.library == "polars":
            return f'{self.receiver}.group_by("{self.time}", maintain_order=True).mean()'
        if self.library == "xarray":
            return f'{self.receiver}.groupby("{self.time}").mean()'
        return f"{self.receiver}.groupby(level=0).mean()"

    def numbers(self, column: str) -> str:
        """Code that makes text missing."""
        if self.library == "polars":
            return f'{self.receiver}["{column}"].cast(pl.Float64, strict=False)'
        if self.library == "xarray":
            return f"{self.receiver}.astype(float)"
        return f'pd.to_numeric({self.receiver}["{column}"], errors="coerce")'

    def as_index(self, column: str) -> str:
        """What to do with a column of dates."""
        if self.library == "polars":
            return "keep one column of dates only, which is then the time of the rows"
        return f'make it the index with {self.receiver}.set_index("{column}")'

    def durations(self, column: str) -> str:
        """Code that gives durations a unit."""
        if self.library == "polars":
            return f'{self.receiver}["{column}"].dt.total_seconds()'
        return f'{self.receiver}["{column}"] / pd.Timedelta("1s")'

    def grid(self, rule: str, code: str) -> str:
        """Code that lays rows on a grid.

        Args:
            rule: The step as pandas abbreviates it, empty where it has no abbreviation.
            code: The same as an argument: the quoted abbreviation, or an offset.
        """
        if self.library == "polars":
            if rule in _EVERY:
                return f'{self.receiver}.upsample("{self.time}", every="{_EVERY[rule]}")'
            return f'{self.receiver}.to_pandas().set_index("{self.time}").asfreq({code})'
        if self.library == "xarray":
            return f"{self.receiver}.resample({self.time}={code}).asfreq()"
        return f"{self.receiver}.asfreq({code})"

    def average(self, code: str) -> str:
        """Code that averages rows on a grid."""
        if self.library == "polars":
            return f'{self.receiver}.to_pandas().set_index("{self.time}").resample({code}).mean()'
        if self.library == "xarray":
            return f"{self.receiver}.resample({self.time}={code}).mean()"
        return f"{self.receiver}.resample({code}).mean()"
