"""The schema of every file of a run folder and of a training folder, and their readers.

Sizes are checked before anything is parsed, so that a few crafted bytes cost no memory.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from .schema import SchemaError, Table, list_of, one_of, real, table_of, text, truth, whole

FORMAT = 1
RUN_FILES = frozenset({
    "config.toml", "model.safetensors", "metrics.jsonl", "results.nc", "report.html", "log.txt",
})  # fmt: skip

MAX_CONFIG_BYTES = 2**20
MAX_CONFIG_LINES = 5_000
MAX_CONFIG_COMMAS = 50_000
MAX_METRICS_BYTES = 64 * 2**20
MAX_RECORDS = 300_000
MAX_NOTE_BYTES = 2**20
MAX_COUNT = 2**53

_NUMBERS = table_of(real(none=True), 100)
_NAMES = list_of(text(), 10_000)

MODEL = Table(
    {
        "kind": text(100),
        "y": list_of(text(), 10_000, least=1),
        "u": _NAMES,
        "period": real(0.0, 1e9, finite=True),
        "harmonics": whole(0, 100_000),
        "ar": whole(0, 100_000),
        "state_dim": whole(0, 100_000),
        "hidden": whole(0, 100_000),
        "steps": whole(0, 10**9),
    },
    {"period2": real(0.0, 1e9, finite=True)},
)
LEARNING = Table(
    {},
    {
        "objective": real(none=True),
        "diagnostics": _NUMBERS,
        "warnings": list_of(text(10_000), 10_000),
    },
)
READING = Table(
    {},
    {
        "sep": text(1),
        "decimal": one_of(".", ","),
        "thousands": text(1),
        "missing": list_of(text(), 1000),
        "percent": truth,
        "series": text(5000),
        "fill": one_of("last", "linear", "zero"),
    },
    others=False,
)
DATA = Table(
    {
        "source": text(5000),
        "title": text(5000),
        "rows": whole(0, MAX_COUNT),
        "missing": whole(0, MAX_COUNT),
        "step": text(100),
        "usual": real(0.0, 1e15, finite=True),
        "unit": real(1e-12, 1e15, finite=True),
    },
    {"time": text(), "resample": text(100), "sha256": text(100), "reading": READING},
)
CONFIG = Table(
    {
        "format": whole(FORMAT, FORMAT),
        "seed": whole(-(2**63), 2**64 - 1),
        "holdout": whole(0, MAX_COUNT),
        "command": text(MAX_CONFIG_BYTES),
        "data": DATA,
        "seconds": real(0.0, 1e12, finite=True),
        "device": text(100),
        "versions": table_of(text(200), 100),
        "models": table_of(MODEL, 64, least=1),
        "learning": table_of(LEARNING, 64),
    },
    {"deepssm": text(100), "scores": table_of(_NUMBERS, 100)},
)
NOTE = Table({"rows": whole(0, MAX_COUNT), "columns": _NAMES, "sha256": text(64)})
TRAINING_RECORD = table_of(real(special=True), 100)
TRAINING = Table(
    {
        "step": whole(0, 10**12),
        "ranks": whole(1, 10**6),
        "history": list_of(TRAINING_RECORD, MAX_RECORDS),
        "best": Table({"elbo": real(special=True), "divergence": real(special=True)}),
        "warnings": list_of(text(10_000), 100_000),
        "counts": list_of(whole(0, 10**12), 2, least=2),
        "caution": real(0.0, 1.0, finite=True),
        "moments": table_of(list_of(whole(0, 10**6), 100_000), 2, least=2),
    }
)

# Text is cut out first: what is left can only be names, numbers and brackets.
_TEXT = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|#[^\n]*')
_DOTTED = re.compile(r'(?:(?:[\w-]+|""|\'\')[ \t]*\.[ \t]*){8}')
_NESTED = re.compile(r"\[\s*\[\s*\[")


def read_config(path: Path) -> dict[str, Any]:
    """Read and check `config.toml`.

    Args:
        path: The file.

    Raises:
        ValueError: it is damaged, too large, of another format or no such file.
    """
    written = _text(path, MAX_CONFIG_BYTES)
    bare = _TEXT.sub('""', written)
    if (
        written.count("\n") > MAX_CONFIG_LINES
        or bare.count(",") > MAX_CONFIG_COMMAS
        or "{" in bare
        or _NESTED.search(bare)
        or any(_DOTTED.search(line) for line in bare.splitlines())
    ):
        raise damaged(path, "it nests or lists more than `deepssm` ever writes")
    try:
        config = tomllib.loads(written)
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise damaged(path, str(error)) from None
    found = config.get("format")
    if type(found) is int and found != FORMAT:
        raise ValueError(
            f"`{path}` has format {str(found)[:20]}, this deepssm reads {FORMAT}: run "
            "`deepssm fit` again."
        )
    require_schema(CONFIG, config, path)
    return config


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read and check `metrics.jsonl`: numbers by name, and which model they are of.

    Args:
        path: The file.

    Raises:
        ValueError: it is damaged or too large.
    """
    lines = [line for line in _text(path, MAX_METRICS_BYTES).split("\n") if line.strip()]
    if len(lines) > MAX_RECORDS:
        raise damaged(path, f"{len(lines)} records, more than the {MAX_RECORDS} allowed")
    return [_record(line, number, path) for number, line in enumerate(lines, 1)]


def read_note(path: Path) -> dict[str, Any]:
    """Read and check `data.json`, which says what a training learns from.

    Args:
        path: The file.

    Raises:
        ValueError: it is damaged or too large.
    """
    note = _json(_text(path, MAX_NOTE_BYTES), path)
    require_schema(NOTE, note, path)
    return note


def require_schema(schema: Table, value: object, path: str | Path) -> None:
    """Raise unless plain data are what a schema says.

    Raises:
        ValueError: they differ.
    """
    try:
        schema(value, "")
    except SchemaError as error:
        raise damaged(path, str(error)) from None


def is_run(folder: Path) -> bool:
    """Tell whether a folder is a run: its `config.toml` says so by its first lines."""
    try:
        with (folder / "config.toml").open("rb") as file:
            head = file.read(200)
    except OSError:
        return False
    return re.match(rb'format = \d+\r?\ndeepssm = "', head) is not None


def damaged(path: str | Path, reason: str) -> ValueError:
    """Return the error for a file that cannot be used."""
    return ValueError(f"`{path}` is damaged: {' '.join(reason.split()).rstrip('.')[:300]}.")


def _record(line: str, number: int, path: Path) -> dict[str, Any]:
    record = _json(line, path)
    where = f"line {number}"
    if not isinstance(record, dict):
        raise damaged(path, f"{where} is no record")
    numbers = {name: value for name, value in record.items() if name != "model"}
    try:
        text()(record.get("model", ""), f"{where}, model")
        _NUMBERS(numbers, where)
    except SchemaError as error:
        raise damaged(path, str(error)) from None
    return record


def _json(written: str, path: Path) -> Any:  # noqa: ANN401
    try:
        return json.loads(written)
    except (ValueError, RecursionError) as error:
        raise damaged(path, str(error)) from None


def _text(path: Path, most: int) -> str:
    if not path.is_file():
        raise ValueError(f"`{path}` is no file.")
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise damaged(path, f"more than the {most} bytes allowed")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise damaged(path, str(error)) from None
