"""Going on with a stopped training: only from the data it was stopped on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..io.atomic import remove_stale_files, write_text
from ..io.folders import remove_files
from ..io.run_schema import read_note
from .exit_codes import DataError
from .table import Table

CHECKPOINT = "training.safetensors"
NOTE = "data.json"
FILES = (CHECKPOINT, NOTE, "metrics.jsonl")


def begin_training(folder: Path, table: Table, *, resume: bool) -> None:
    """Note what a training learns from, or check that a stopped one goes on with the same.

    Args:
        folder: Where the training leaves checkpoints.
        table: The rows to learn from.
        resume: Whether to go on; otherwise what is left of an older training is removed.

    Raises:
        DataError: the checkpoint there was learnt from other rows, or does not say from which.
    """
    told = {"rows": len(table.y), "columns": list(table.y.columns), "sha256": digest(table)}
    if resume and (folder / CHECKPOINT).is_file():
        before = _read(folder)
        if before.get("sha256") != told["sha256"]:
            raise DataError(
                f"--resume: the data changed since {folder} was written: it learnt from "
                f"{before.get('rows')} rows of {_columns(before)}, now there are "
                f"{told['rows']} of {_columns(told)}, or a value differs. Use the same table and "
                "options as before, or leave out --resume to start again."
            )
        return
    end_training(folder)
    write_text(folder / NOTE, json.dumps(told))


def end_training(folder: Path) -> None:
    """Remove what a training has left, and nothing else that may lie in its folder.

    Args:
        folder: Where the training leaves checkpoints.
    """
    if folder.is_dir() and not folder.is_symlink():
        remove_stale_files(folder, list(FILES))
        remove_files(folder, FILES)


@contextmanager
def removed_without_checkpoint(folder: Path | None) -> Iterator[None]:
    """Remove the folder of a training that failed before there was anything to go on from.

    Args:
        folder: Where the training leaves checkpoints, if anywhere.
    """
    try:
        yield
    except BaseException:
        if folder is not None and not (folder / CHECKPOINT).is_file():
            end_training(folder)
        raise


def digest(table: Table) -> str:
    """Return a hash of every number and column name that a model would learn from."""
    found = hashlib.sha256()
    for part in (table.y, table.u):
        if part is not None:
            found.update(json.dumps([list(map(str, part.columns)), len(part)]).encode())
            found.update(np.ascontiguousarray(part.to_numpy(float)).tobytes())
    if table.dt is not None:
        found.update(np.ascontiguousarray(table.dt, dtype=float).tobytes())
    return found.hexdigest()


def _read(folder: Path) -> dict[str, object]:
    try:
        return read_note(folder / NOTE)
    except (OSError, ValueError):
        raise DataError(
            f"--resume: {folder} does not say what it was learnt from ({NOTE} is missing or "
            "damaged). Leave out --resume to start again."
        ) from None


def _columns(note: dict[str, object]) -> str:
    names = note.get("columns")
    return ", ".join(map(str, names)) if isinstance(names, list) else "unknown columns"
