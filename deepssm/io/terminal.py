"""Text of unknown origin, made safe to show on a terminal."""

from __future__ import annotations

import sys
import unicodedata
from typing import TextIO

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def printable(text: str, *, keep: str = "\n\t") -> str:
    r"""Return text whose control characters are written out, as `\x1b`.

    Names of columns, models and files come from elsewhere; a terminal would obey the escape
    sequences in them, and show text that runs backwards as something else.

    Args:
        text: Any text.
        keep: Characters that stay as they are.

    Example:
        >>> print(printable("a" + chr(27) + "[31m"))
        a\x1b[31m
    """
    return "".join(c if c in keep or not _hidden(c) else _written(c) for c in text)


def shortened(text: str, *, word: int = 400, most: int = 1000) -> str:
    """Return text without the middle of very long words, such as a cell of a crafted table.

    Args:
        text: Any text.
        word: Letters that a word may have.
        most: Letters that the whole may have.

    Example:
        >>> shortened("cell " + 9 * "x", word=6)
        'cell xxx...xxx'
    """
    words = (_middle_out(part, word) for part in text.split(" "))
    return _middle_out(" ".join(words), most)


def say(text: str, stream: TextIO | None = None) -> None:
    """Print text of unknown origin, whatever letters the terminal knows.

    Args:
        text: Any text.
        stream: Where to; standard output if `None`.
    """
    to: TextIO = stream or sys.stdout
    encoding = to.encoding or "utf-8"
    safe = printable(text).encode(encoding, "backslashreplace").decode(encoding)
    print(safe, file=to, flush=True)


def _middle_out(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-(most // 2) :]}"


def _hidden(character: str) -> bool:
    return unicodedata.category(character) in _HIDDEN


def _written(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
