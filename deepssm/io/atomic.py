"""Files that appear whole or not at all, whenever the process dies."""

from __future__ import annotations

import errno
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

STALE_SECONDS = 3600.0
_RANDOM = r"[a-z0-9_]{8}"


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

    Raises:
        OSError: `path` may not be replaced, or there is no room for it; the error names `path`.
    """
    target = Path(path)
    require_replaceable(target)
    with naming(target, target):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_stale_files(target.parent, [target.name], older_than=STALE_SECONDS)
        prefix, folder = f".{target.name[:200]}.", target.parent
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=".tmp", dir=folder)
    os.close(handle)
    temporary = Path(name)
    try:
        with naming(temporary, target):
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~umask())
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def require_replaceable(path: str | Path) -> None:
    """Raise unless nothing is lost where a new file takes the place of `path`.

    Args:
        path: A file to be written.

    Raises:
        OSError: it is a link, a pipe, a device, a folder or write-protected.
    """
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISLNK(mode):
        reason = f"it is a symbolic link; give the file it points to, {os.readlink(path)}"
    elif stat.S_ISDIR(mode):
        reason = "it is a folder; give the name of a file"
    elif not stat.S_ISREG(mode):
        reason = "it is no regular file; on the command line '-' is standard output"
    elif not mode & 0o222:
        reason = "it is write-protected; give another name, or make it writable"
    else:
        return
    raise FileExistsError(errno.EEXIST, f"cannot be replaced: {reason}", str(path))


@contextmanager
def naming(temporary: Path, target: Path) -> Iterator[None]:
    """Make operating system errors of a block name the file that the user asked for.

    A full disk names no file at all, and others the temporary one.

    Args:
        temporary: A file or folder under a temporary name.
        target: What it will be called.
    """
    try:
        yield
    except OSError as error:
        found = str(error.filename or "")
        own = found == str(temporary) or found.startswith(f"{temporary}{os.sep}")
        inside = found.startswith(f"{target.parent}{os.sep}.{target.name[:200]}.")
        if found and not own and not inside:
            raise
        name = str(target) + (found.removeprefix(str(temporary)) if own else "")
        reason = error.strerror or " ".join(str(error).split())
        raise OSError(error.errno or errno.EIO, reason, name) from error


def remove_stale_files(folder: Path, names: list[str], *, older_than: float = 0.0) -> None:
    """Remove temporary files of `names` that a process which died has left in `folder`.

    Args:
        folder: Where they lie.
        names: Of the files that they were to become.
        older_than: Seconds since they were last written; 0 only where the folder is locked.
    """
    wanted = "|".join(re.escape(name[:200]) for name in names)
    pattern = re.compile(rf"\.(?:{wanted})\.{_RANDOM}\.tmp")
    with suppress(OSError):
        for path in folder.iterdir():
            if pattern.fullmatch(path.name) and _is_old(path, older_than):
                path.unlink(missing_ok=True)


def _is_old(path: Path, seconds: float) -> bool:
    found = os.lstat(path)
    return stat.S_ISREG(found.st_mode) and time.time() - found.st_mtime >= seconds


def umask() -> int:
    """Return which permissions new files do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
