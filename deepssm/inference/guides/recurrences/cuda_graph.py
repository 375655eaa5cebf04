"""Loops of many small kernels, recorded once for each shape and played back as one."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ....core.arguments import checked

Fill = Callable[..., None]
"""Reads its first arguments and writes into its last; nothing in it depends on their values."""

Record = Callable[[Callable[[], None]], Callable[[], object]]
"""Returns what does again, on the same memory, what a function did."""


@runtime_checkable
class Replayable(Protocol):
    """A module whose loops are called through `run_loops`: `direct`, or a `Replay`."""

    run_loops: Callable[..., None]


def direct(fill: Fill, parts: tuple[Any, ...], written: int) -> None:
    """Call `fill(*parts)`; arguments as in `Replay`."""
    fill(*parts)


@checked
class Replay:
    """Calls functions through recordings: a launch a call instead of several a step.

    A recording works on memory of its own, into which arguments are copied and from which
    results are copied back. A copy of it starts without recordings.

    Args:
        record: Makes a recording; `cuda_graph` for tensors on a GPU.
        most: Recordings cached, one for each function and shapes; the longest unused one goes.
    """

    def __init__(self, record: Record | None = None, most: int = 64) -> None:
        self.record, self.most = record or cuda_graph, most
        self._cached: dict[Hashable, tuple[list[Any], Callable[[], object]]] = {}

    def __call__(self, fill: Fill, parts: tuple[Any, ...], written: int) -> None:
        """Do what `fill(*parts)` does.

        Args:
            fill: The function.
            parts: Tensors without a gradient, and numbers.
            written: How many of `parts`, the last ones, it writes.
        """
        key = (fill, *map(_form, parts))
        own, replay = self._cached.pop(key, None) or self._recorded(fill, parts)
        self._cached[key] = own, replay
        for mine, part in zip(own, parts, strict=True):
            if isinstance(mine, Tensor):
                mine.copy_(part)
        replay()
        for mine, part in zip(own[-written:], parts[-written:], strict=True):
            part.copy_(mine)

    def __reduce__(self) -> tuple[type[Replay], tuple[Record, int]]:
        """Copy and pickle without the recordings, which belong to this process."""
        return Replay, (self.record, self.most)

    def _recorded(
        self, fill: Fill, parts: tuple[Any, ...]
    ) -> tuple[list[Any], Callable[[], object]]:
        if len(self._cached) >= self.most:
            del self._cached[next(iter(self._cached))]
        own = [x.detach().clone() if isinstance(x, Tensor) else x for x in parts]
        return own, self.record(lambda: fill(*own))


def cuda_graph(run: Callable[[], None]) -> Callable[[], object]:
    """Record a function as a CUDA graph, after one call that lets libraries prepare.

    Args:
        run: Launches kernels and waits for none.
    """
    aside, now = torch.cuda.Stream(), torch.cuda.current_stream()
    aside.wait_stream(now)
    with torch.cuda.stream(aside):
        run()
    now.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    # The thread of the backward pass records too, while others may talk to the device.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        run()
    return graph.replay


def _form(part: object) -> Hashable:
    if not isinstance(part, Tensor):
        return part
    cast = torch.is_autocast_enabled(part.device.type)
    return part.shape, part.stride(), part.dtype, part.device, cast
