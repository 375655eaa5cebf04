"""SIGTERM and a closed terminal stop a command as Ctrl-C does: nothing half-done is left."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(KeyboardInterrupt):
    """A signal other than Ctrl-C.

    Python ends a process as by Ctrl-C, whatever its exit code, once a `KeyboardInterrupt` itself
    has passed through an `exec` of text, as dataclasses do on import.
    """


class Stopping:
    """Which signal has stopped a command.

    Attributes:
        number: SIGINT unless it was another.
    """

    def __init__(self) -> None:
        self.number = int(signal.SIGINT)

    @property
    def exit_code(self) -> int:
        """The exit code by the custom of shells."""
        return 128 + self.number

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Hand a signal on to whoever handles Ctrl-C, such as a training that saves first."""
        self.number = number
        handler = signal.getsignal(signal.SIGINT)
        if callable(handler) and handler is not signal.default_int_handler:
            handler(int(signal.SIGINT), frame)
        else:  # Also where Ctrl-C is ignored, as by what a shell has put into the background.
            raise Stopped


@contextmanager
def stoppable(stopping: Stopping) -> Iterator[None]:
    """Treat the signals that ask a process to end as Ctrl-C while the block runs.

    Signals that are ignored, as SIGHUP under `nohup`, or handled by somebody else, stay so.

    Args:
        stopping: What handles them.
    """
    before = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):
                number = signal.Signals.__members__.get(name)
                if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                    before[number] = signal.SIG_DFL
                    signal.signal(number, stopping)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
