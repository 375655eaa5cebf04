"""Compiled loops, cached on disk and found again only while all their sources are the same.

Numba looks for changes in the file of a loop, not in the functions that it inlines, which may come
from other files: after an upgrade in place it would run the old numbers. So the name under which a
loop is cached holds a digest of its own file and of every file of the package that it imports.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any

from numba import njit


def cached(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:  # noqa: ANN401
    """Decorate a loop: compile it on its first call and cache the machine code on disk.

    Args:
        **options: Of `numba.njit`, without `cache`.
    """

    def compile_and_cache(function: Callable[..., Any]) -> Callable[..., Any]:
        # Numba names the files of its cache after the qualified name of the function.
        function.__qualname__ += "-" + source_digest(function.__module__)
        return njit(cache=True, **options)(function)

    return compile_and_cache


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

    An import inside a function counts too. `from . import x` stands for the file of `x` where `x`
    is a module, else for the `__init__` of the package.

    Args:
        module: Its full name. Where no source can be read (a package in an archive) the text is
            empty, and numba's own test of the file decides.
    """
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = _text(name)
            waiting += _imported(name)
    return found


@cache
def _text(module: str) -> str:
    spec = find_spec(module)
    path = Path(spec.origin) if spec is not None and spec.origin else None
    return path.read_text("utf-8") if path is not None and path.is_file() else ""


@cache
def _imported(module: str) -> frozenset[str]:
    """Full names of the modules that a module imports by relative imports."""
    spec, found = find_spec(module), set()
    for node in ast.walk(ast.parse(_text(module))):
        if isinstance(node, ast.ImportFrom) and node.level and spec is not None:
            origin = resolve_name("." * node.level + (node.module or ""), _package(spec))
            found |= {_holder(origin, alias.name) for alias in node.names}
    return frozenset(found)


def _package(spec: ModuleSpec) -> str:
    """Package that relative imports start from; that of a package's `__init__` is the package."""
    return spec.name if spec.submodule_search_locations is not None else spec.parent or ""


def _holder(origin: str, name: str) -> str:
    """Module whose file holds what `from origin import name` brings; `origin` is not imported."""
    spec = find_spec(origin)
    inside = spec.submodule_search_locations if spec is not None else None
    submodule = f"{origin}.{name}"
    return submodule if inside and PathFinder.find_spec(submodule, inside) else origin
