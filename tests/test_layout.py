"""The rules of the house that a script can check."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "deepssm"
FILES = sorted(PACKAGE.rglob("*.py"))


def _imports(path: Path) -> set[str]:
    """Dotted names a file imports, relative ones resolved against the package."""
    found: set[str] = set()
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            base = ".".join(parts[: len(parts) - node.level]) if node.level else ""
            module = ".".join(x for x in (base, node.module or "") if x)
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def test_there_are_files_to_check() -> None:
    assert len(FILES) > 30


@pytest.mark.parametrize("room", ["models", "inference"])
def test_models_and_inference_never_import_each_other(room: str) -> None:
    other = {"models": "deepssm.inference", "inference": "deepssm.models"}[room]
    for path in (PACKAGE / room).rglob("*.py"):
        crossings = {name for name in _imports(path) if name.startswith(other)}
        assert not crossings, f"{path.name} imports {crossings}"


def test_the_linear_core_knows_no_probability() -> None:
    for path in (PACKAGE / "linear").rglob("*.py"):
        allowed = ("deepssm.linear",)
        inside = {name for name in _imports(path) if name.startswith("deepssm.")}
        assert all(name.startswith(allowed) for name in inside), f"{path.name} imports {inside}"
        assert not any(name.startswith("pyro") for name in _imports(path)), path.name


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
