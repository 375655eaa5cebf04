"""Every script in `examples/` runs, with the smallest settings it has."""

from __future__ import annotations

import inspect
import math
import runpy
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
assert SCRIPTS, "no example found: an empty parametrize would pass in silence"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_the_example_runs(
    script: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`main` takes keyword arguments with defaults, `quick` or `steps` among them."""
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(script))["main"]
    parameters = inspect.signature(main).parameters
    assert all(p.default is not p.empty for p in parameters.values()), "every argument a default"
    assert {"quick", "steps"} & set(parameters), "`main` needs `quick: bool` or `steps: int`"
    small: dict[str, object] = {"quick": True} if "quick" in parameters else {"steps": 2}
    drawn = tmp_path / ("page.html" if ".html" in (main.__doc__ or "") else "picture.svg")
    found = main(**small, **({"picture": str(drawn)} if "picture" in parameters else {}))
    assert found and all(math.isfinite(value) for value in found.values())
    assert capsys.readouterr().out.strip(), "an example prints what it found"
    assert drawn.exists() == ("picture" in parameters)
    assert drawn.suffix != ".html" or "data:image/png;base64" in drawn.read_text()
