"""One self-contained HTML page: tables, sentences and inline SVG, nothing fetched."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..io.atomic import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Picture(NamedTuple):
    """A figure ready for the page.

    Attributes:
        svg: Inline SVG; its black is the page's text colour.
        alt: What the figure shows, in words, for those who cannot see it.
        caption: What to look for.
    """

    svg: str
    alt: str
    caption: str = ""


class Grid(NamedTuple):
    """A table of text.

    Attributes:
        header: Column titles.
        rows: Cells; the first of a row names it.
        notes: Remarks, one a row, empty where there is none.
        caption: What the numbers are.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    caption: str = ""


class Section(NamedTuple):
    """A titled part of the page.

    Attributes:
        title: Its heading.
        text: A sentence or two.
        pictures: Its figures.
        grid: A table, or `None`.
        side_by_side: Whether small figures stand beside each other.
        wide: Figures below them that take the whole width.
    """

    title: str
    text: str = ""
    pictures: Sequence[Picture] = ()
    grid: Grid | None = None
    side_by_side: bool = False
    wide: Sequence[Picture] = ()


class Page(NamedTuple):
    """All that the page shows.

    Attributes:
        title: Title of the page.
        lead: One sentence under it.
        card: Names and values of the run: data, model, sizes, seed, versions, time, command.
        headline: The table to look at first, or `None`.
        warnings: Sentences a user should read.
        sections: The parts below.
    """

    title: str
    lead: str
    card: Sequence[tuple[str, str]]
    headline: Grid | None
    warnings: Sequence[str]
    sections: Sequence[Section]


def render(page: Page) -> str:
    """Return the page as HTML text.

    Args:
        page: What to show.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("deepssm.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("template.html").render(page=page)


def write(page: Page, path: str | Path) -> None:
    """Write the page as one file.

    Args:
        page: What to show.
        path: The file, by custom `report.html`.
    """
    write_text(path, render(page))


def picture(figure: Figure, alt: str, caption: str = "", *, name: str = "f") -> Picture:
    """Turn a matplotlib figure into inline SVG.

    Args:
        figure: The figure.
        alt: What it shows, in words.
        caption: What to look for.
        name: Prefix of its element ids, different for each figure of a page.
    """
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(
            buffer, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None}
        )
    svg = _inline(buffer.getvalue(), name)
    return Picture(
        svg.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1), alt, caption
    )


def _inline(svg: str, name: str) -> str:
    """Cut the XML prologue and metadata, own the ids, and let the page choose black."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sid="', f' id="{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    svg = re.sub(r"#000000|(?<=fill: )black", "currentColor", svg)
    svg = re.sub(r"font: ([^;\"]*?)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r'(<svg[^>]*?) width="([\d.]+)pt" height="[\d.]+pt"', _at_most, svg, count=1)
    # A tenth of a point is finer than a screen shows; numbers outside of tags are labels.
    svg = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d\.\d)\d+", r"\1", tag[0]), svg)
    return re.sub(r"\n\s*", "\n", svg)


def _at_most(match: re.Match[str]) -> str:
    """Let a figure shrink with the page but not grow far beyond its size."""
    return f'{match[1]} style="max-width: {1.4 * float(match[2]):.0f}px"'
