"""What the README answers can be copied and run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def _blocks(title: str) -> list[str]:
    section = README.read_text("utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def test_there_are_answers() -> None:
    assert len(_blocks("Questions")) == 4


@pytest.mark.parametrize("block", range(4))
def test_answers_run(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(_blocks("Questions")[block], f"README.md[{block}]", "exec"), {})


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(name: str) -> None:
    text = (README.parent / name).read_text("utf-8")
    for target in re.findall(r"\]\((?!http|#)([^)#]+)\)", text):
        assert (README.parent / target).exists(), target


def test_names_in_the_tables_exist() -> None:
    """Every call in a table cell is something the package has."""
    import deepssm as ds

    homes = (ds, ds.models, ds.inference)
    for row in re.findall(r"^\|.*\|$", README.read_text("utf-8"), re.MULTILINE):
        for name in re.findall(r"`([A-Z][A-Za-z0-9]+)\(", row):
            assert any(hasattr(home, name) for home in homes), name
