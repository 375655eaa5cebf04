"""Machine code cached on disk is used again while its sources are the same, and only then."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from deepssm.ops.cache import sources

HELPER = "from numba import njit\n\n@njit(forceinline=True)\ndef part(x):\n    return {}\n"
MIDDLE = "from .helper import part as part\n"
LOOP = """from .compiled import cached
from .middle import part

@cached(nogil=True)
def loop(x):
    return 2.0 * part(x)
"""
RUN = """from toy.loop import loop
print(loop(3.0), sum(loop.stats.cache_hits.values()))
"""


def _run(folder: Path, **environment: str) -> str:
    command = [sys.executable, "-c", RUN]
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"} | environment
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=True
    ).stdout


def test_a_changed_helper_of_another_file_is_seen_and_an_unchanged_one_found_again(
    tmp_path: Path,
) -> None:
    """The wrong number would be 8: numba looks at `loop.py` alone, which stays as it is."""
    package, code = tmp_path / "toy", sources("deepssm.ops.cache").popitem()[1]
    package.mkdir()
    for name, text in {"__init__": "", "compiled": code, "middle": MIDDLE, "loop": LOOP}.items():
        (package / f"{name}.py").write_text(text)
    (package / "helper.py").write_text(HELPER.format("x + 1.0"))
    elsewhere = str(tmp_path / "cached")
    assert _run(tmp_path, NUMBA_CACHE_DIR=elsewhere).split() == ["8.0", "0"]
    (package / "helper.py").write_text(HELPER.format("x + 2.0"))
    assert _run(tmp_path, NUMBA_CACHE_DIR=elsewhere).split() == ["10.0", "0"]
    (package / "helper.py").write_text(HELPER.format("x + 1.0"))
    assert _run(tmp_path, NUMBA_CACHE_DIR=elsewhere).split() == ["8.0", "1"]


def test_the_digest_covers_every_file_that_a_kernel_is_made_of() -> None:
    """Walk the functions that numba will inline, rather than the text of the imports."""
    for name in ("kalman.cpu.scalar.filter", "kalman.cpu.vector.shared_score", "gaussian.kernels"):
        module = f"deepssm.inference.{name}"
        waiting, used = [import_module(module)], {module}
        while waiting:
            functions = [x.py_func for x in vars(waiting.pop()).values() if hasattr(x, "py_func")]
            new = {function.__module__ for function in functions} - used
            used |= new
            waiting += [import_module(x) for x in new]
        assert len(used) > 1
        assert used <= set(sources(module))


# What is imported by `package.middle.loop`, and the files of `package` that count; "" is its own.
IMPORTS: dict[str, set[str]] = {
    "from . import helper": {"middle.helper"},
    "from . import constant": {"middle"},
    "from . import helper as other, constant": {"middle.helper", "middle"},
    "from .. import top": {"top"},
    "from .. import top as other, constant": {"top", ""},
    "from .helper import part": {"middle.helper"},
    "from .helper import *": {"middle.helper"},
    "from .inner import deep": {"middle.inner.deep"},
    "from .inner.deep import part": {"middle.inner.deep"},
    "from .inner import (\n    deep,  # (why)\n    constant,\n)": {
        "middle.inner.deep",
        "middle.inner",
    },
    "def f():\n    from . import helper": {"middle.helper"},
    "if True:\n    from ..top import part": {"top"},
    "import math\nfrom math import pi\nfrom math import (\n    e,\n)": set(),
    '"""Example:\n\nfrom .helper import part\n"""': set(),
}


@pytest.mark.parametrize(("text", "files"), IMPORTS.items())
def test_every_form_of_relative_import_is_seen(
    text: str, files: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"imports_{list(IMPORTS).index(text)}"  # Python remembers where it found a package
    package = tmp_path / name
    (package / "middle" / "inner").mkdir(parents=True)
    for folder, file in (("", "top"), ("middle", "helper"), ("middle/inner", "deep")):
        (package / folder / "__init__.py").write_text("")
        (package / folder / f"{file}.py").write_text("")
    (package / "middle" / "loop.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    loop = f"{name}.middle.loop"
    assert set(sources(loop)) == {loop} | {f"{name}.{file}".rstrip(".") for file in files}


def test_imports_of_a_package_count_from_the_package_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "packaged"
    package.mkdir()
    (package / "__init__.py").write_text("from .helper import part as part\n")
    (package / "helper.py").write_text("part = 1.0\n")
    (package / "loop.py").write_text("from . import part\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert set(sources("packaged.loop")) == {"packaged", "packaged.loop", "packaged.helper"}


def test_looking_for_sources_imports_nothing_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "unimported"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "loop.py").write_text("def f():\n    from .lazy import part\n")
    (package / "lazy.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert set(sources("unimported.loop")) == {"unimported.loop", "unimported.lazy"}
