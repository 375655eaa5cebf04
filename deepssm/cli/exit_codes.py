"""What a command hands back, and the failures that have an exit code. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, NamedTuple


class Outcome(NamedTuple):
    """The end of a command that went well.

    Attributes:
        text: What to print, without the last line.
        data: The same for machines (`--json`): plain numbers, strings, lists and mappings.
        written: The file or folder that was written, if any.
        next_command: What a user would most likely run next.
        piped: Whether a table went to standard output, so that the text must go elsewhere.
    """

    text: str
    data: dict[str, Any]
    written: Path | None
    next_command: str
    piped: bool = False

    @property
    def last_line(self) -> str:
        """One line that names the file written and the next command."""
        wrote = "Nothing written." if self.written is None else f"Wrote {self.written}."
        wrote = "Wrote the table to standard output." if self.piped else wrote
        return f"{wrote} Next: {self.next_command}"


class CommandError(Exception):
    """A failure that a user can mend: one line of text and an exit code."""

    exit_code: ClassVar[int] = 1


class UsageError(CommandError):
    """The command line is wrong."""

    exit_code = 2


class DataError(CommandError):
    """The data, or a run folder, cannot be used as they are."""

    exit_code = 3


class NumericalError(CommandError):
    """The numbers broke down: no finite likelihood, no positive definite covariance."""

    exit_code = 4


class StoppedError(CommandError):
    """The user stopped the command, which can go on later."""

    exit_code = 130


class MissingExtraError(CommandError):
    """An optional package is not installed."""

    exit_code = 5


def short(error: Exception) -> str:
    """Return what went wrong in one sentence."""
    text = " ".join(str(error).split()).rstrip(".")[:300]
    return f"{text or type(error).__name__}."


def did_you_mean(word: str, known: list[str]) -> str:
    """Return ` Did you mean 'x'?` for the nearest known word, or nothing."""
    import difflib

    near = difflib.get_close_matches(word[:100], [name for name in known[:1000]], n=1)
    return f" Did you mean '{near[0]}'?" if near else ""
