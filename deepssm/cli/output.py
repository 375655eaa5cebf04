"""Where `-o` writes: a new or a regular file that nobody needs, or standard output."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from ..io.atomic import require_replaceable, write_text
from ..io.run_schema import RUN_FILES
from .exit_codes import UsageError

STANDARD_OUTPUT = Path("-")


def check_output(
    args: argparse.Namespace, inputs: Iterable[Path | None] = (), *, own: str = ""
) -> None:
    """Refuse to write where something would be lost, before anything is computed.

    Args:
        args: `out`, and perhaps `folder` and `json`.
        inputs: Files that the command reads.
        own: The file of the run folder that it may write.

    Raises:
        UsageError: the output is one of the inputs, or goes where the JSON goes.
        OSError: it is no regular file, or write-protected.
    """
    out: Path | None = args.out
    if out is None:
        return
    if out == STANDARD_OUTPUT:
        if args.json:
            raise UsageError("-o - and --json both write to standard output: choose one.")
        return
    run = [args.folder / name for name in RUN_FILES if name != own]
    for path in (*inputs, *run):
        if path is not None and _same(out, path):
            raise UsageError(f"-o {out} would replace {path}, which is read: give another name.")
    require_replaceable(out)


def write_output(text: str, out: Path) -> None:
    """Write text to a file, whole or not at all, or to standard output."""
    if out == STANDARD_OUTPUT:
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        write_text(out, text)


def quoted(path: Path) -> str:
    """Return a path as a shell takes it."""
    return shlex.quote(str(path))


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
