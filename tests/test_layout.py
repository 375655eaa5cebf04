"""The rules of the house that a script can check."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from deepssm.ops.cache import sources

from .imports import MODULES, PACKAGE, circles, imported_modules

FILES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((PACKAGE.parent / "tests").rglob("*.py"))
RANKS = (
    {"io", "ops", "core"},
    {"linear", "data"},
    {"models", "inference"},
    {"evaluation"},
    {"report"},
    {"api"},
    {"interop"},
    {"cli"},
)
# A later folder of `inference` may import an earlier one.
INFERENCE = (
    "online", "kalman", "simulation", "gaussian", "discrete", "particles", "estimation", "guides",
    "variational",
)  # fmt: skip
FACES = {"deepssm", "deepssm.__main__", "deepssm.checkpoint"}
# Folders of compiled loops and of what these are made of; besides them, files called `*kernels`.
KERNELS = (
    "deepssm.ops.",
    "deepssm.inference.kalman.cpu.scalar.",
    "deepssm.inference.kalman.cpu.vector.",
    "deepssm.inference.kalman.cuda.",
    "deepssm.inference.guides.recurrences.",
)
COMPILED = re.compile(r"^\s*@(cached|njit|cuda\.jit|device)\b", re.MULTILINE)


def _rank(name: str) -> tuple[int, int]:
    """Rank of a module's folder, and its place inside `inference`."""
    parts = name.split(".")
    if name in FACES:
        return len(RANKS), 0
    if name == "deepssm._version":
        return -1, 0
    rank = next(i for i, folders in enumerate(RANKS) if parts[1] in folders)
    if parts[1] != "inference":
        return rank, 0
    return rank, len(INFERENCE) if len(parts) == 2 else INFERENCE.index(parts[2])


def _folder(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


def test_there_are_files_to_check() -> None:
    assert len(MODULES) > 250


def test_every_folder_has_a_rank() -> None:
    ranked = set().union(*RANKS)
    assert {_folder(name) for name in MODULES if name not in FACES} - {"_version"} == ranked
    subfolders = {name.split(".")[2] for name in MODULES if name.startswith("deepssm.inference.")}
    assert subfolders == set(INFERENCE)


@pytest.mark.parametrize("name", MODULES)
def test_files_import_from_lower_ranks_or_their_own_folder(name: str) -> None:
    for used in imported_modules(name):
        same = _folder(used) == _folder(name)
        upwards = _rank(used) > _rank(name) if same else _rank(used)[0] >= _rank(name)[0]
        assert not upwards, f"{name} imports {used}"


def test_no_circle_of_files() -> None:
    assert circles() == []


def test_tests_do_not_import_each_other() -> None:
    """What two of them need is a module of helpers."""
    assert len(TESTS) > 150
    for path in TESTS:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
                names = ".".join([module, *(alias.name for alias in node.names)]).split(".")
                used = [name for name in names if name.startswith("test_")]
                assert used == [], f"{path.name} imports {used}: move what they share to a module"


def test_compiled_loops_are_digested_from_ops_and_kernel_folders() -> None:
    """So that an edit of a result type, or of a door, compiles nothing anew."""
    loops = [name for name, path in MODULES.items() if COMPILED.search(path.read_text())]
    assert len(loops) > 20
    used = {file for name in loops for file in sources(name)}
    strays = {
        x for x in used if not x.startswith(KERNELS) and not x.endswith(("kernels", "kernel"))
    }
    assert strays == set()
    # Every loop must be cached by that digest: `cache=True` alone sees a single file.
    alone = {str(path) for path in FILES if "cache=True" in path.read_text()}
    assert alone == {str(PACKAGE / "ops" / "cache.py")}


def test_no_folder_of_more_than_25_files() -> None:
    sizes = Counter(path.parent for path in FILES)
    assert {str(folder): n for folder, n in sizes.items() if n > 25} == {}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 350, "split the file: one file, one idea"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            doc = ast.get_docstring(node)
            length = (node.end_lineno or 0) - node.lineno + 1 - (doc.count("\n") + 1 if doc else 0)
            assert length <= 50, f"{node.name} has {length} lines"


def test_no_pickle_and_no_global_parameter_store() -> None:
    banned = ("import pickle", "weights_only=False", "get_param_store().load", "ParamStore.load")
    for path in FILES:
        text = path.read_text()
        assert not any(word in text for word in banned), path.name


def test_root_names_are_links_into_the_package() -> None:
    for name in ("models", "inference"):
        link = PACKAGE.parent / name
        if not link.is_symlink():
            pytest.skip("this checkout has no symbolic links (a clone with core.symlinks=false)")
        assert link.resolve() == (PACKAGE / name).resolve()
