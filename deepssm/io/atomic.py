"""Files and folders that appear whole or not at all, whenever the process dies."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file by way of a temporary one beside it.

    Args:
        path: The file; an older one is replaced at once.
        data: Its content.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8 by way of a temporary one beside it.

    Args:
        path: The file; an older one is replaced at once.
        text: Its content.
    """
    write_bytes(path, text.encode())


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give the name of a temporary file that becomes `path` when the block ends well.

    Args:
        path: The file; its folder is made if there is none.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary folder that becomes `path` when the block ends well.

    Args:
        path: The folder to appear.
        overwrite: Whether an older folder of that name may be replaced.

    Raises:
        FileExistsError: `path` is there and not an empty folder, and may not be replaced.
    """
    target = Path(path)
    if target.exists() and not overwrite and (target.is_file() or any(target.iterdir())):
        raise FileExistsError(
            17, "it exists already; choose another --out or pass --overwrite", str(target)
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        _swap(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(temporary: Path, target: Path) -> None:
    """Put the new folder in the place of the old one, which is removed afterwards."""
    old = temporary.with_suffix(".old")
    with suppress(FileNotFoundError):
        os.replace(target, old)
    try:
        os.replace(temporary, target)
    except OSError:
        with suppress(FileNotFoundError):
            os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
