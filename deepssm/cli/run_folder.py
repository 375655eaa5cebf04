"""A run folder: everything about one fit, in six files that other programs can read.

`config.toml` what was run, `model.safetensors` the weights, `metrics.jsonl` the course of
learning, `results.nc` the results (ArviZ, xarray), `report.html` the page to look at, `log.txt`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .._version import __version__
from ..io import checkpoint, run_schema
from ..io.atomic import write_text
from ..io.folders import new_folder, require_free
from ..io.run_schema import FORMAT, RUN_FILES, is_run
from ..io.terminal import printable, say
from .toml import to_toml

if TYPE_CHECKING:
    from torch import nn


class RunFolder(NamedTuple):
    """The files of one run.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def config_file(self) -> Path:
        """What was run: data, models, seed, versions."""
        return self.path / "config.toml"

    @property
    def weights_file(self) -> Path:
        """The models' numbers."""
        return self.path / "model.safetensors"

    @property
    def metrics_file(self) -> Path:
        """The course of learning, one JSON record a line."""
        return self.path / "metrics.jsonl"

    @property
    def results_file(self) -> Path:
        """The results as netCDF with ArviZ's groups."""
        return self.path / "results.nc"

    @property
    def report_file(self) -> Path:
        """The page to look at."""
        return self.path / "report.html"

    @property
    def log_file(self) -> Path:
        """What the command said."""
        return self.path / "log.txt"

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write `config.toml`, with the format and the version of the library."""
        head = {"format": FORMAT, "deepssm": __version__}
        write_text(self.config_file, to_toml({**head, **config}))

    def read_config(self) -> dict[str, Any]:
        """Read `config.toml`.

        Raises:
            ValueError: the folder is no run folder, or the file is damaged or of another format.
        """
        if not self.config_file.is_file():
            raise ValueError(f"`{self.path}` is not a run folder: it has no config.toml.")
        return run_schema.read_config(self.config_file)

    def write_metrics(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write `metrics.jsonl`; numbers that are not finite become `null`."""
        lines = (json.dumps(finite(record), allow_nan=False) for record in records)
        write_text(self.metrics_file, "".join(f"{line}\n" for line in lines))

    def read_metrics(self) -> list[dict[str, Any]]:
        """Read `metrics.jsonl`; a missing file is an empty course."""
        return run_schema.read_metrics(self.metrics_file) if self.metrics_file.exists() else []

    def write_weights(self, config: Mapping[str, Any], **modules: nn.Module) -> None:
        """Write `model.safetensors`."""
        checkpoint.save(self.weights_file, config, **modules)


@contextmanager
def new_run(path: str | Path, *, overwrite: bool = False) -> Iterator[tuple[RunFolder, Log]]:
    """Give a run folder under a temporary name; it takes its own when the block ends well.

    Args:
        path: Where the folder shall be.
        overwrite: Whether an older run there may be replaced; other files in it are kept.

    Raises:
        FileExistsError: something else is there.
        BlockingIOError: another process writes the same run.
    """
    with new_folder(path, files=RUN_FILES, is_own=is_run, overwrite=overwrite) as temporary:
        log = Log()
        folder = RunFolder(temporary)
        yield folder, log
        write_text(folder.log_file, log.text)


def require_new(path: Path, *, overwrite: bool) -> None:
    """Raise unless a run may be written to `path`: asked before anything is learnt.

    Raises:
        FileExistsError: something else is there.
    """
    require_free(path.resolve(), path, is_run, overwrite=overwrite)


class Log:
    """Progress lines: shown on the error stream at once, kept for `log.txt`."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._start = time.monotonic()
        self._lines: list[str] = []
        self._quiet = quiet

    def say(self, line: str) -> None:
        """Show and keep one line, with the seconds since the start."""
        line = f"[{time.monotonic() - self._start:5.1f} s] {printable(line)}"
        self._lines.append(line)
        if not self._quiet:
            say(line, sys.stderr)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @property
    def text(self) -> str:
        """All lines so far."""
        return "".join(f"{line}\n" for line in self._lines)


def finite(value: Any) -> Any:  # noqa: ANN401
    """Return plain data with every number that is not finite replaced by `None`, as JSON needs."""
    if isinstance(value, Mapping):
        return {str(name): finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    return value
