"""The budget of memory: what would not fit is refused before it is allocated."""

from __future__ import annotations

import os
from pathlib import Path

SHARE = 0.8  # Of the memory that is free now; the rest is for what was not counted.
UNKNOWN = 16 * 2.0**30  # Where the system does not tell.


def require_memory(need: float, what: str, fix: str) -> None:
    """Raise if something would take more memory than there is.

    Args:
        need: Bytes, a lower bound rather than more.
        what: What is asked for, the subject of a sentence, such as "`horizon=1000000`".
        fix: What to do instead, a sentence.

    Raises:
        ValueError: there is not so much.
    """
    free = SHARE * available_memory()
    if need > free:
        raise ValueError(
            f"{what} would take {in_words(need)} of memory, and {in_words(free)} can be had. {fix}"
        )


def available_memory() -> float:
    """Return the bytes that can be allocated without swapping; a container's limit counts."""
    found = [value for value in (_linux(), _group(), _pages()) if value is not None]
    return min(found) if found else UNKNOWN


def in_words(size: float) -> str:
    """Return a number of bytes in words.

    Example:
        >>> in_words(3 * 2**30)
        '3 GiB'
    """
    if not size < 2.0**80:
        return "more than 1 YiB"
    unit = 0
    while size >= 1024 and unit < 7:
        size, unit = size / 1024, unit + 1
    return f"{size:.3g} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB', 'ZiB')[unit]}"


def _linux() -> float | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * float(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    return None


def _group() -> float | None:
    """Return what a container has left, its cached files not counted as taken."""
    root = Path("/sys/fs/cgroup")
    try:
        most = float((root / "memory.max").read_text())
        taken = float((root / "memory.current").read_text())
        parts = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
        return most - taken + float(parts.get("inactive_file", 0))
    except (OSError, ValueError):
        return None


def _pages() -> float | None:
    """Return all memory of the machine, where the system tells no more."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
