"""Machine code kept on disk is used again while its sources are the same, and only then."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from deepssm.ops.cache import sources

HELPER = "from numba import njit\n\n@njit(forceinline=True)\ndef part(x):\n    return {}\n"
MIDDLE = "from .helper import part as part\n"
LOOP = """from .compiled import kept
from .middle import part

@kept(nogil=True)
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
    elsewhere = str(tmp_path / "kept")
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
