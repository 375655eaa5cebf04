"""Every page of `docs/extending` can be copied and run: the programs of strangers."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest

from deepssm import inference

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(path for path in (DOCS / "extending").glob("*.md") if path.name != "README.md")


def _blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


def test_there_are_five_pages_and_the_index_names_them() -> None:
    index = (DOCS / "extending" / "README.md").read_text("utf-8")
    assert len(PAGES) == 5
    assert all(f"({page.name})" in index for page in PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
@pytest.mark.filterwarnings("error")
def test_the_program_of_a_page_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One block of at most 40 lines, as printed; training by default takes a few steps only."""
    (block,) = _blocks(page)
    assert len([line for line in block.splitlines() if line.strip()]) <= 40
    monkeypatch.setattr(inference, "SVI", partial(inference.SVI, steps=40, report_every=20))
    program = compile(block, str(page), "exec", dont_inherit=True)
    exec(program, {"__name__": "__main__"})


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!http|#)([^)#]+)\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


def test_every_decision_is_in_the_index() -> None:
    index = (DOCS / "adr" / "README.md").read_text("utf-8")
    pages = sorted((DOCS / "adr").glob("[0-9]*.md"))
    assert [page.name[:3] for page in pages] == [f"{n:03d}" for n in range(1, len(pages) + 1)]
    for page in pages:
        text = page.read_text("utf-8")
        assert f"({page.name})" in index, page.name
        titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
        assert titles == ["Context", "Decision", "Figures", "Consequences"], page.name
        files = text.split("Embodied in ")[1].split("\n")[0]
        for name in re.findall(r"`([^`]+)`", files):
            assert (DOCS.parent / name).exists(), f"{page.name}: {name}"
