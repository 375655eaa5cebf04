"""A table file as cells of text: separated text, also compressed, Parquet, Feather, or a pipe."""

from __future__ import annotations

import csv
import gzip
import io
import sys
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, cast

from ..io.budget import require_memory
from .exit_codes import DataError, did_you_mean
from .reading import Reading

if TYPE_CHECKING:
    import pandas as pd

STANDARD_INPUT = Path("-")
MOST_COLUMNS = 10_000
_IN_MEMORY = 10  # Bytes that a byte of text takes as a cell of text and as a number.
_PART = 2**24
_SEPARATORS = (",", ";", "\t", "|")
_WORDS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "|", " ": "spaces"}
_OTHERS = {
    ".json": "JSON", ".jsonl": "JSON lines", ".ndjson": "JSON lines", ".xlsx": "an Excel workbook",
    ".xls": "an Excel workbook", ".xlsm": "an Excel workbook", ".ods": "a spreadsheet",
    ".h5": "HDF5", ".hdf5": "HDF5", ".nc": "netCDF", ".pkl": "a pickle", ".pickle": "a pickle",
    ".zip": "a zip archive", ".db": "a database", ".sqlite": "a database", ".dta": "Stata",
    ".sav": "SPSS", ".mat": "Matlab", ".npy": "an array", ".npz": "arrays", ".rds": "R",
    ".html": "a web page", ".xml": "XML", ".orc": "ORC", ".avro": "Avro",
}  # fmt: skip


class Source(NamedTuple):
    """The bytes of a table and what they are called.

    Attributes:
        path: Where they are; `-` is the standard input.
        content: All of them, as they are stored.
    """

    path: Path
    content: bytes

    def __str__(self) -> str:
        """Return what errors call it."""
        return "the standard input" if self.path == STANDARD_INPUT else str(self.path)


def read_source(path: Path) -> Source:
    """Read a file once, or what a pipe gives for `-`.

    Raises:
        DataError: There is no such file, or it is none that holds a table.
        ValueError: It would not fit into memory.
    """
    if path == STANDARD_INPUT:
        return Source(path, _whole(sys.stdin.buffer, "The standard input"))
    if path.is_dir():
        raise DataError(f"{path} is a folder: give the CSV file itself.")
    if not path.is_file():
        kinds = ("*.csv", "*.tsv", "*.txt", "*.gz", "*.parquet")
        there = path.parent.is_dir()
        near = [p.name for kind in kinds for p in path.parent.glob(kind)] if there else []
        raise DataError(f"there is no file '{path}'.{did_you_mean(path.name, near)}")
    _require_room(path.stat().st_size, f"{path}")
    return Source(path, path.read_bytes())


def _whole(file: IO[bytes], what: str) -> bytes:
    """Return all bytes of a stream whose size is not known, as long as there is room for them."""
    parts: list[bytes] = []
    size = 0
    while part := file.read(_PART):
        parts.append(part)
        size += len(part)
        _require_room(size, what)
    return b"".join(parts)


def _require_room(size: int, what: str) -> None:
    require_memory(_IN_MEMORY * size, what, "Give a part of it, or fewer columns.")


def read_cells(source: Source, reading: Reading) -> pd.DataFrame:
    """Return all cells of a table as text, under the names of the header.

    Args:
        source: The file.
        reading: Says the separator, if it is not to be found out.

    Raises:
        DataError: It holds no table, or one of another kind.
        ModuleNotFoundError: A package that reads it is not installed.
    """
    text = _text(source, reading)
    sep = reading.sep or _separator(text)
    twice = _repeated(text, sep, source)
    frame = _parsed(text, sep, source)
    if frame.empty:
        raise DataError(f"{source} has a header line but no rows.")
    if twice:
        raise DataError(f"{source} has more than one column '{twice}': rename them.")
    return frame


def _repeated(text: str, sep: str, source: Source) -> str:
    """Return the first name that stands twice in the header, which pandas would number.

    Raises:
        DataError: There is no header, or it names more columns than a model can take.
    """
    try:
        header = next(csv.reader(io.StringIO(text, newline=""), delimiter=sep), [])
    except csv.Error as error:
        raise DataError(f"{source} has no header line that can be read: {error}.") from None
    if len(header) > MOST_COLUMNS:
        raise DataError(
            f"{source} has {len(header)} columns, more than the {MOST_COLUMNS} allowed."
        )
    seen: set[str] = set()
    for name in map(str.strip, header):
        if name and name in seen:
            return name
        seen.add(name)
    return ""


def _text(source: Source, reading: Reading) -> str:
    content, name = source.content, source.path.name.lower()
    if content[:2] == b"\x1f\x8b" or name.endswith(".gz"):
        content, name = _unzipped(source), name.removesuffix(".gz")
    if content[:4] == b"PAR1" or content[:6] == b"ARROW1" or content[:4] == b"FEA1":
        return _from_arrow(content, source)
    kind = next((what for end, what in _OTHERS.items() if name.endswith(end)), "")
    if content[:4] == b"PK\x03\x04":
        kind = kind or "a zip archive or a workbook"
    if content.lstrip()[:1] in (b"{", b"[") and not kind:
        kind = "JSON"
    if content[:15] == b"SQLite format 3" or content[:8] == b"\x89HDF\r\n\x1a\n":
        kind = kind or "a database"
    if kind:
        raise DataError(
            f"{source} is {kind}, no table of text: save it as CSV or Parquet, as by pandas' "
            "`to_csv`, and give that."
        )
    return _decoded(content, source)


def _decoded(content: bytes, source: Source) -> str:
    wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{source} is not text in UTF-8: save it as CSV (UTF-8).") from None
    if not text.strip():
        raise DataError(f"{source} is empty: give a table with a header line.")
    if "\x00" in text:
        raise DataError(f"{source} is not text: give a table in CSV, Parquet or Feather.")
    return text


def _unzipped(source: Source) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(source.content)) as file:
            return _whole(cast("IO[bytes]", file), f"{source}, unpacked,")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{source} is no whole gzip file: {error}.") from None


def _from_arrow(content: bytes, source: Source) -> str:
    """Return a Parquet or Feather file as CSV, which has all digits of its numbers."""
    import pandas as pd
    import pyarrow as pa  # pyright: ignore[reportMissingImports]

    try:
        buffer = io.BytesIO(content)
        frame = (pd.read_parquet if content[:4] == b"PAR1" else pd.read_feather)(buffer)
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{source} is a damaged Parquet or Feather file: {reason}") from None
    counted = isinstance(frame.index, pd.RangeIndex)
    return frame.to_csv(index=not counted, index_label=str(frame.index.name or "index"))


def _separator(text: str) -> str:
    """Return what separates the columns: what splits all first lines into equally many."""
    lines = [line for line in text[:100_000].splitlines()[:50] if line.strip()]
    lines = lines[:-1] if len(text) > 100_000 and len(lines) > 1 else lines
    best, most = ",", 1
    for sep in _SEPARATORS:
        counts = {len(row) for row in csv.reader(lines, delimiter=sep)}
        if len(counts) == 1 and max(counts) > most:
            best, most = sep, max(counts)
    if most > 1:
        return best
    return max(_SEPARATORS, key=lambda sep: lines[0].count(sep))


def _parsed(text: str, sep: str, source: Source) -> pd.DataFrame:
    import pandas as pd

    rule = r"\s+" if sep == " " else sep
    try:
        return pd.read_csv(
            io.StringIO(text), dtype=str, keep_default_na=False, skipinitialspace=True, sep=rule
        )
    except pd.errors.EmptyDataError:
        raise DataError(f"{source} is empty: give a table with a header line.") from None
    except (pd.errors.ParserError, ValueError) as error:
        reason = str(error).splitlines()[-1]
        words = _WORDS.get(sep, sep)
        raise DataError(f"{source} is not a CSV table with {words}: {reason}") from None
