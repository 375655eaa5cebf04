"""Compiled loops that are kept on disk, and found again only while all their sources are the same.

Numba looks for changes in the file of a loop, not in the functions that it inlines, which may come
from other files: after an upgrade in place it would run the old numbers. So the name under which a
loop is kept holds a digest of its own file and of every file of the package that it imports.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any

from numba import njit

_IMPORT = re.compile(r"^\s*from (\.[.\w]*) import", re.MULTILINE)


def kept(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:  # noqa: ANN401
    """Decorate a loop: compile it on its first call and keep the machine code on disk.

    Args:
        **options: Of `numba.njit`, without `cache`.
    """

    def compile_and_keep(function: Callable[..., Any]) -> Callable[..., Any]:
        # Numba names the files it keeps after the qualified name of the function.
        function.__qualname__ += "-" + source_digest(function.__module__)
        return njit(cache=True, **options)(function)

    return compile_and_keep


@cache
def source_digest(module: str) -> str:
    """Digest of the sources of a module, hexadecimal; see `sources`.

    Args:
        module: Its full name.
    """
    text = "\0".join(f"{name}\0{source}" for name, source in sorted(sources(module).items()))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def sources(module: str) -> dict[str, str]:
    """Text of a module and of all that it imports by relative imports, by their full names.

    Args:
        module: Its full name. Where no source can be read (a package in an archive) the text is
            empty, and numba's own test of the file decides.
    """
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found[name] = _text(name)
        package = name.rpartition(".")[0]
        waiting += [resolve_name(used, package) for used in _IMPORT.findall(found[name])]
    return found


@cache
def _text(module: str) -> str:
    spec = find_spec(module)
    path = Path(spec.origin) if spec is not None and spec.origin else None
    return path.read_text("utf-8") if path is not None and path.is_file() else ""
