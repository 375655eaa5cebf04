"""One writer at a time: a lock that dies with its process.

The operating system holds the lock, so that a killed process leaves none behind; the file only
says whose it is. On a file system without locks that note decides: a process of this machine that
no longer runs, or a note of another machine that is a day old, is taken as dead.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_DAY = 86400.0
_MOST_BYTES = 4096
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


@contextmanager
def locked(path: Path, what: str | Path) -> Iterator[None]:
    """Hold the lock file `path` while the block runs, and remove it afterwards.

    Args:
        path: The lock file.
        what: What is written under the lock, as an error names it.

    Raises:
        BlockingIOError: somebody else holds it.
    """
    handle = _acquire(path, what)
    try:
        yield
    finally:
        # Removed while it is held: whoever opened it meanwhile sees that it is another file.
        with suppress(OSError):
            path.unlink()
        os.close(handle)
        with suppress(OSError):  # Windows removes no open file.
            if sys.platform == "win32":
                path.unlink()


@contextmanager
def locked_folder(folder: str | Path | None) -> Iterator[None]:
    """Hold the lock inside a folder, which is made if need be; `None` locks nothing.

    A folder made for the lock alone goes with it.

    Raises:
        BlockingIOError: somebody else writes there.
    """
    if folder is None:
        yield
        return
    where = Path(folder)
    made = not where.exists()
    where.mkdir(parents=True, exist_ok=True)
    try:
        with locked(where / ".lock", where):
            yield
    finally:
        if made:
            with suppress(OSError):
                where.rmdir()


def _acquire(path: Path, what: str | Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    while True:
        handle = os.open(path, flags, 0o666)
        if not _taken(handle):
            owner = _note(handle)
            os.close(handle)
            by = f"process {owner['pid']} on {owner['host']}" if owner else "another process"
            raise BlockingIOError(
                errno.EAGAIN,
                f"{by} is writing it; wait until it is done, or choose another folder",
                str(what),
            )
        if _is_still(path, handle):
            note = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
            os.ftruncate(handle, 0)
            os.lseek(handle, 0, os.SEEK_SET)
            with suppress(OSError):  # A full disk: the lock holds without its note.
                os.write(handle, json.dumps(note).encode())
            return handle
        os.close(handle)


def _taken(handle: int) -> bool:
    """Lock an open file; return whether it is ours now."""
    try:
        _lock(handle)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return _owner_is_dead(handle)
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        raise
    return True


def _lock(handle: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        os.lseek(handle, 2**30, os.SEEK_SET)  # Far behind the note, which others may read.
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        # Of the open file, not of the process: two threads exclude each other too.
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(handle))
    except FileNotFoundError:
        return False


def _note(handle: int) -> dict[str, object]:
    """Return who holds the lock, empty where the note does not say."""
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        note = json.loads(os.read(handle, _MOST_BYTES))
        return {"pid": int(note["pid"]), "host": str(note["host"])[:100]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _owner_is_dead(handle: int) -> bool:
    owner = _note(handle)
    if not owner:
        return True
    if owner["host"] != socket.gethostname():
        return time.time() - os.fstat(handle).st_mtime > _DAY
    pid = owner["pid"]
    return not isinstance(pid, int) or not _runs(pid)


def _runs(pid: int) -> bool:
    if sys.platform == "win32":
        return True  # There a signal of 0 would end it.
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
