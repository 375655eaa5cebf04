"""Compiled loops on ranges of series, one thread each."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import torch

_LEAST_WORK = 200_000  # multiplications; below, starting threads costs more than they save


class Workload(Protocol):
    """How much there is to do: independent series, and multiplications in all."""

    @property
    def series(self) -> int:
        """Number of series."""
        ...

    @property
    def work(self) -> int:
        """Multiplications, roughly."""
        ...


def in_threads(
    kernel: Callable[..., None],
    size: Workload,
    *arguments: Any,  # noqa: ANN401
    space: Callable[[], Any] = tuple,
) -> None:
    """Call a kernel on ranges of series, one thread and one scratch `space()` each."""
    parts = min(torch.get_num_threads(), size.series) if size.work > _LEAST_WORK else 1

    def call(first: int, last: int) -> None:
        kernel(first, last, *arguments, space())

    if parts == 1:
        return call(0, size.series)
    edges = [size.series * i // parts for i in range(parts + 1)]
    call(0, 0)  # compiles once, before the threads start
    with ThreadPoolExecutor(parts) as pool:
        list(pool.map(call, edges[:-1], edges[1:]))
