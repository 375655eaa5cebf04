"""What plain data from a file must be: types, ranges and sizes, told in one sentence."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Check = Callable[[Any, str], None]
"""Takes a value and what it is called; raises `SchemaError`."""


class SchemaError(ValueError):
    """A value is not what the schema says; the text names it and what was expected."""


class Table(NamedTuple):
    """A mapping with known entries.

    Attributes:
        needed: Checks of the entries that must be there.
        optional: Checks of those that may be there.
        others: Whether further entries pass, as newer versions may write them.
    """

    needed: Mapping[str, Check]
    optional: Mapping[str, Check] = {}
    others: bool = True

    def __call__(self, value: Any, name: str) -> None:  # noqa: ANN401
        """Check a mapping."""
        if not isinstance(value, dict):
            raise _wrong(name, "a table", value)
        missing = sorted(self.needed.keys() - value.keys())
        if missing:
            raise SchemaError(f"{_inside(name, missing[0])} is missing")
        for key in value.keys() - self.needed.keys() - self.optional.keys():
            if not self.others:
                raise SchemaError(f"{_inside(name, key)} is not known")
        for key, check in (*self.needed.items(), *self.optional.items()):
            if key in value:
                check(value[key], _inside(name, key))


def whole(low: int, high: int) -> Check:
    """Return a check for whole numbers from `low` to `high`."""

    def check(value: Any, name: str) -> None:  # noqa: ANN401
        if type(value) is not int or not low <= value <= high:
            raise _wrong(name, f"a whole number from {low} to {high}", value)

    return check


def real(
    low: float = -math.inf,
    high: float = math.inf,
    *,
    none: bool = False,
    special: bool = False,
    finite: bool = False,
) -> Check:
    """Return a check for numbers from `low` to `high`.

    Args:
        low: The least.
        high: The largest.
        none: Whether `None` may stand for a number that is not finite.
        special: Whether "nan", "inf" and "-inf" may.
        finite: Whether it must be finite.
    """

    def check(value: Any, name: str) -> None:  # noqa: ANN401
        if (none and value is None) or (special and value in ("nan", "inf", "-inf")):
            return
        number = type(value) is float or (type(value) is int and abs(value) < 2**1023)
        outside = number and (value < low or value > high)
        if not number or outside or (finite and not math.isfinite(value)):
            within = "" if low == -math.inf else f" from {low:g} to {high:g}"
            raise _wrong(name, f"a number{within}", value)

    return check


def text(most: int = 1000) -> Check:
    """Return a check for text of at most `most` characters."""

    def check(value: Any, name: str) -> None:  # noqa: ANN401
        if type(value) is not str or len(value) > most:
            raise _wrong(name, f"text of at most {most} characters", value)

    return check


def list_of(item: Check, most: int, least: int = 0) -> Check:
    """Return a check for lists of `least` to `most` items."""

    def check(value: Any, name: str) -> None:  # noqa: ANN401
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise _wrong(name, f"a list of {least} to {most} items", value)
        for i, part in enumerate(value):
            item(part, f"{name}[{i}]")

    return check


def table_of(item: Check, most: int, least: int = 0) -> Check:
    """Return a check for mappings of any `least` to `most` names to items."""

    def check(value: Any, name: str) -> None:  # noqa: ANN401
        if not isinstance(value, dict) or not least <= len(value) <= most:
            raise _wrong(name, f"a table of {least} to {most} entries", value)
        for key, part in value.items():
            item(part, _inside(name, key))

    return check


def one_of(*words: str) -> Check:
    """Return a check for one of a few words."""

    def check(value: Any, name: str) -> None:  # noqa: ANN401
        if value not in words:
            raise _wrong(name, f"one of {', '.join(words)}", value)

    return check


def truth(value: Any, name: str) -> None:  # noqa: ANN401
    """Check for true or false."""
    if type(value) is not bool:
        raise _wrong(name, "true or false", value)


def _inside(name: str, key: object) -> str:
    short = str(key)[:60]
    return f"{name}.{short}" if name else short


def _wrong(name: str, expected: str, value: object) -> SchemaError:
    return SchemaError(f"{name or 'the whole'} must be {expected}, got {_short(value)}")


def _short(value: object) -> str:
    """Show a value in a few characters; a huge integer cannot be written out at all."""
    if type(value) is int and abs(value) >= 10**20:
        return "a huge whole number"
    if isinstance(value, list | dict):
        return f"a {'list' if isinstance(value, list) else 'table'} of {len(value)}"
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
