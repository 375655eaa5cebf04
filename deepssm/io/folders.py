"""Folders that appear whole or not at all, one writer at a time, nobody's files lost."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .atomic import naming, umask
from .lock import locked

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


@contextmanager
def new_folder(
    path: str | Path,
    *,
    files: Collection[str],
    is_own: Callable[[Path], bool],
    overwrite: bool = False,
) -> Iterator[Path]:
    """Give a temporary folder that becomes `path` when the block ends well.

    The name is locked meanwhile. What a process that died has left is removed at the start. Of an
    older folder only `files` are replaced: whatever else lies in it moves to the new one.

    Args:
        path: The folder to appear.
        files: Names of the files that such a folder holds.
        is_own: Tells whether an older folder is one of them.
        overwrite: Whether such a folder may be replaced.

    Raises:
        FileExistsError: `path` is there and not an empty folder, and may not be replaced.
        BlockingIOError: another process writes it.
    """
    target = Path(path).resolve()
    require_free(target, Path(path), is_own, overwrite=overwrite)
    with naming(target, Path(path)):
        target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.with_name(f".{target.name}.lock"), path):
        _recover(target, files)
        require_free(target, Path(path), is_own, overwrite=overwrite)
        with naming(target, Path(path)):
            name = tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        temporary = Path(name)
        try:
            with naming(temporary, Path(path)):
                yield temporary
                temporary.chmod(0o777 & ~umask())
                _swap(temporary, target, files)
        finally:
            # Gone already if it has its own name: what is here now is half a folder.
            shutil.rmtree(temporary, ignore_errors=True)


def remove_files(folder: Path, files: Collection[str]) -> list[str]:
    """Remove files by name, and the folder if nothing else is in it; return what else is.

    Args:
        folder: The folder; a link to one is left alone.
        files: Names of the files.
    """
    if folder.is_symlink() or not folder.is_dir():
        return []
    for name in files:
        with suppress(OSError):
            (folder / name).unlink()
    left = sorted(path.name for path in folder.iterdir())
    if not left:
        folder.rmdir()
    return left


def require_free(
    target: Path, asked: Path, is_own: Callable[[Path], bool], *, overwrite: bool
) -> None:
    """Raise unless a folder may appear at `target`.

    Args:
        target: The folder, links resolved.
        asked: What the user calls it.
        is_own: Tells whether an older folder is one that may be replaced.
        overwrite: Whether it may.

    Raises:
        FileExistsError: something is there that may not be replaced.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not target.is_dir():
        raise FileExistsError(errno.EEXIST, "it is a file; choose another --out", str(asked))
    if not is_own(target):
        raise FileExistsError(
            errno.EEXIST,
            "it holds other files and is no run folder, which alone may be replaced; choose "
            "another --out",
            str(asked),
        )
    if not overwrite:
        raise FileExistsError(
            errno.EEXIST, "it exists already; choose another --out or pass --overwrite", str(asked)
        )


def _swap(temporary: Path, target: Path, files: Collection[str]) -> None:
    """Put the new folder in the place of the old one, and move to it what is not replaced."""
    if not target.exists():
        os.replace(temporary, target)
        return
    if _exchanged(temporary, target):
        old = temporary
    else:
        old = temporary.with_suffix(".old")
        os.replace(target, old)
        try:
            os.replace(temporary, target)
        except OSError:
            os.replace(old, target)
            raise
    _keep_others(old, target, files)


def _keep_others(old: Path, target: Path, files: Collection[str]) -> None:
    for name in remove_files(old, files):
        os.replace(old / name, target / name)
    remove_files(old, ())


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two folders at once, where the system can; between two renames there is none."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    names = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other))
    return rename(*names, _RENAME_EXCHANGE) == 0


def _recover(target: Path, files: Collection[str]) -> None:
    """Clear what dead processes left; nobody else is at it, for the name is locked."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[a-z0-9_]{{8}}\.(tmp|old)")
    for path in sorted(target.parent.iterdir()):
        found = pattern.fullmatch(path.name)
        if not found or path.is_symlink() or not path.is_dir():
            continue
        if found[1] == "old" and not target.exists():
            os.replace(path, target)
        elif target.is_dir():
            _keep_others(path, target, _with_temporaries(path, files))
        else:
            remove_files(path, _with_temporaries(path, files))


def _with_temporaries(folder: Path, files: Collection[str]) -> list[str]:
    """Return the names of the files, and of those that were still being written."""
    names = "|".join(map(re.escape, files))
    pattern = re.compile(rf"(?:{names})|\.(?:{names})\.[a-z0-9_]{{8}}\.tmp")
    return [path.name for path in folder.iterdir() if pattern.fullmatch(path.name)]
