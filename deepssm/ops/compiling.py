"""Tells, once a process, that a loop had to be compiled before it ran."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import perf_counter
from typing import Any

LOG = logging.getLogger("deepssm")
SLOW = 1.0
"""Seconds of compilation that are worth a line."""


def told(loop: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401
    """Call a loop made by `cached`; log a line if it took more than a second to compile.

    Args:
        loop: The loop.
        *args: Of the call.
    """
    before = sum(loop.stats.cache_misses.values())  # type: ignore[attr-defined]
    start = perf_counter()
    result = loop(*args)
    seconds = perf_counter() - start
    misses = sum(loop.stats.cache_misses.values())  # type: ignore[attr-defined]
    if misses > before and seconds > SLOW:
        name = loop.__name__
        LOG.warning("compiled `%s` in %.0f s; it is kept on disk for the next time", name, seconds)
    return result
