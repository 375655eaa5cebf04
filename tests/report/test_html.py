from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from matplotlib.figure import Figure

from deepssm.report.html import Grid, Page, Section, picture, render, write

_VOID = {"meta", "link", "img", "br", "hr", "input", "path", "use"}


class _Checker(HTMLParser):
    """Collects ids, references and labels, and demands that every tag is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: set[str] = set()
        self.loads: list[str] = []
        self.labels: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _VOID:
            self.open.append(tag)
        for name, value in attrs:
            text = value or ""
            if name == "id":
                self.ids.append(text)
            if name in ("href", "xlink:href", "src"):
                (self.references.add(text[1:]) if text[0] == "#" else self.loads.append(text))
            self.references.update(re.findall(r"url\(#([^)]+)\)", text))
            if tag == "svg" and name == "aria-label":
                self.labels.append(text)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self.open.pop() == tag


def _figure() -> Figure:
    figure = Figure(figsize=(4, 2))
    axes = figure.subplots()
    axes.plot([0, 1, 2], [1.0, 3.0, 2.0], "o", color="black")
    axes.fill_between([0, 1], [0, 1], [2, 3], alpha=0.3)
    axes.set_title("A & B < C")
    axes.set_yticks([0.125, 2.375], ["0.125", "2.375"])
    return figure


def _page() -> Page:
    pictures = [picture(_figure(), f'figure {n}: "A < B"', name=f"f{n}") for n in (1, 2)]
    return Page(
        "CO₂ <demo>",
        "One & two.",
        [("data", "<script>alert(1)</script>")],
        Grid(["method", "CRPS"], [["naïve", "1.0"]], ["too narrow"], "lower is better"),
        ["Bands too narrow."],
        [
            Section("Fans", "What was said.", pictures),
            Section("Numbers", grid=Grid(["a"], [["1"]])),
            Section("Wide", wide=[picture(_figure(), "below", name="wide")]),
        ],
    )


def test_the_page_is_whole_labelled_and_loads_nothing() -> None:
    checker = _Checker()
    checker.feed(render(_page()))
    assert not checker.open and not checker.loads
    assert checker.labels == ['figure 1: "A < B"', 'figure 2: "A < B"', "below"]
    assert len(set(checker.ids)) == len(checker.ids)
    assert checker.references <= set(checker.ids) and checker.references


def test_text_is_escaped_and_black_is_the_colour_of_the_page() -> None:
    html = render(_page())
    assert "<script" not in html and "&lt;script&gt;" in html
    assert "#000000" not in html and "currentColor" in html
    assert "prefers-color-scheme: dark" in html
    assert ">0.125<" in html and ">2.375<" in html, "labels keep their digits"
    for line in ("CO₂ &lt;demo&gt;", "too narrow", "lower is better", "Bands too narrow."):
        assert line in html
    assert not re.search(r"(src|href)\s*=\s*[\"']?https?:", html) and "@import" not in html


def test_the_same_page_is_the_same_file(tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        write(_page(), tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_parts_may_be_absent() -> None:
    html = render(Page("t", "l", [], None, [], []))
    assert "Please read" not in html and "<table" not in html
