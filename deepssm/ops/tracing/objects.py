"""LLVM text to loaded machine code, with the object code kept on disk beside numba's cache."""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
from numba.core import config

_MARK = 32
"""Bytes of the digest before the object code, by which a torn file is told."""


def loaded(text: str) -> Any:  # noqa: ANN401
    """Return an execution engine that holds the functions of a text.

    Args:
        text: In LLVM's language, one module.
    """
    machine = _machine()
    path = _folder() / f"{_name(text)}.o" if _folder() is not None else None  # type: ignore[operator]
    known = _read(path)
    module = llvm.parse_assembly(text)
    if known is None:
        module.verify()
        options = llvm.create_pipeline_tuning_options(speed_level=2)
        builder = llvm.create_pass_builder(machine, options)
        builder.getModulePassManager().run(module, builder)
    engine = llvm.create_mcjit_compiler(module, machine)
    if path is not None:
        engine.set_object_cache(lambda _, made: _write(path, made), lambda _: known)
    engine.finalize_object()
    return engine


@cache
def _machine() -> Any:  # noqa: ANN401
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=_features(), opt=3, codemodel="jitdefault", jit=True
    )


def _features() -> str:
    return llvm.get_host_cpu_features().flatten()


def _name(text: str) -> str:
    version = f"{llvmlite.__version__} {llvm.llvm_version_info} {llvm.get_host_cpu_name()}"
    whole = f"{version} {_features()} {llvm.get_default_triple()}\n{text}"
    return "step-" + hashlib.blake2b(whole.encode(), digest_size=16).hexdigest()


@cache
def _folder() -> Path | None:
    """Return where numba caches, the folder of this file unless told otherwise, if writable."""
    folder = Path(
        config.CACHE_DIR  # pyright: ignore[reportAttributeAccessIssue]
        or Path(__file__).parent / "__pycache__"
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def _read(path: Path | None) -> bytes | None:
    """Return object code written before, or nothing if it is not there or not whole."""
    if path is None or not path.is_file():
        return None
    whole = path.read_bytes()
    code = whole[_MARK:]
    return code if hashlib.blake2b(code, digest_size=_MARK).digest() == whole[:_MARK] else None


def _write(path: Path, code: bytes) -> None:
    part = path.with_suffix(f".{os.getpid()}")
    try:
        part.write_bytes(hashlib.blake2b(code, digest_size=_MARK).digest() + code)
        part.replace(path)
    except OSError:  # a full disk costs the next process a compilation, no more
        part.unlink(missing_ok=True)
