"""The report page of a run, from its fits and their scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

from ..api.fit import Fit
from ..report.html import Grid, Page, Section
from .failures import surviving
from .holdout import Study, label
from .model_specs import ModelSpec
from .report_sections import (
    calibration_section,
    forecast_section,
    frames_section,
    innovation_sections,
    smoothed_section,
)
from .report_sections_learning import learning_sections, state_sections


def page_of(
    study: Study, config: Mapping[str, Any], frames: tuple[int, int] | None = None
) -> Page:
    """Return the page of a run.

    Args:
        study: Fits and scores.
        config: What `config.toml` holds.
        frames: Height and width where the columns are the pixels of images.
    """
    data = config["data"]
    rows = study.main[1].series.time
    lead = f"{' and '.join(label(study.fits, name) for name in study.fits)}, {_scored(study)}."
    failures: list[str] = []
    sections: list[Section] = []
    for what, make in _makers(study, frames):
        with surviving(f"The report's part on {what}", failures):
            sections += make()
    card = [
        ("data", f"{data['source']}: {rows} rows, {data['missing']} missing observations"),
        ("columns", ", ".join(study.main[0].y)),
        ("time step", data["step"] or "one row"),
        *((name, spec.words) for name, (spec, _) in study.fits.items()),
        ("seed", str(config["seed"])),
        ("learnt in", f"{config['seconds']:.0f} s on {config['device']}"),
        ("versions", ", ".join(f"{k} {v}" for k, v in config["versions"].items())),
        ("command", config["command"]),
    ]
    return Page(
        data["title"], lead, card, headline(study), [*study.warnings(), *failures], sections
    )


def _makers(
    study: Study, frames: tuple[int, int] | None
) -> list[tuple[str, Callable[[], list[Section]]]]:
    """Return what makes each part of the page, in order."""
    first: list[tuple[str, Callable[[], list[Section]]]] = (
        [("frames", lambda: [frames_section(study, *frames)])]
        if frames
        else [
            ("observations", lambda: [smoothed_section(study)]),
            ("forecasts", lambda: [forecast_section(study)] if study.backtests else []),
        ]
    )
    return [
        *first,
        ("calibration", lambda: [calibration_section(study)] if study.backtests else []),
        ("innovations", lambda: list(innovation_sections(study))),
        ("learning", lambda: list(learning_sections(study))),
        ("states", lambda: list(state_sections(study))),
        ("parameters", lambda: _summary_sections(study)),
    ]


def headline(study: Study) -> Grid | None:
    """Return the table of CRPS, coverage and width by method, `None` where nothing was scored."""
    scores = study.scores()
    if not scores:
        return None
    rows, notes = [], []
    for name, score in scores.items():
        rows.append([name, *_cells(score)])
        off = score["cov90"] - 0.9
        notes.append("" if abs(off) <= 0.1 else f"bands too {'wide' if off > 0 else 'narrow'}")
    count = int(next(iter(scores.values()))["count"]) if scores else 0
    caption = (
        f"{count} observations {'that no model has seen' if study.holdout else 'scored'}. CRPS: "
        "error of the whole forecast distribution in the unit of the data, lower is better. "
        "Coverage: share of observations inside the 90 % band, right near 90 %. Width: of that "
        "band, narrower is better if coverage holds."
    )
    return Grid(["method", "CRPS", "90 % coverage", "90 % width"], rows, notes, caption)


def text_table(study: Study) -> str:
    """Return the headline table as plain text."""
    grid = headline(study)
    if grid is None:
        return "Nothing could be scored."
    rows = [list(grid.header), *(list(row) for row in grid.rows)]
    width = max(len(row[0]) for row in rows)
    lines = [f"{row[0]:{width}}" + "".join(f"{cell:>15}" for cell in row[1:]) for row in rows]
    notes = ["", *grid.notes]
    return "\n".join(f"{a}  {b}".rstrip() for a, b in zip(lines, notes, strict=True))


def _cells(score: Mapping[str, float]) -> list[str]:
    return [f"{score['crps']:.4g}", f"{100 * score['cov90']:.1f} %", f"{score['width90']:.4g}"]


def _scored(study: Study) -> str:
    if not study.backtests:
        return "not scored"
    if study.holdout:
        return f"scored on the last {study.holdout} rows, which no model has seen"
    found = next(iter(study.backtests.values()), None)
    if found is None:
        return "not scored"
    return f"scored from {len(found.origins)} origins, {found.y.shape[-2]} rows ahead each"


def _summary_sections(study: Study) -> list[Section]:
    sections = []
    for name, (spec, fit) in study.fits.items():
        values = fit.learned.diagnostics
        rows = [[key.replace("_", " "), f"{value:.6g}"] for key, value in values.items()]
        rows.insert(0, ["objective, nats", f"{fit.learned.objective:.6g}"])
        sections.append(
            Section(f"What was learnt: {name}", spec.words, (), _grid(spec, fit, rows))
        )
    return sections


def _grid(spec: ModelSpec, fit: Fit, rows: list[list[str]]) -> Grid:
    names = [] if spec.deep else [name for name, _ in fit.model.named_parameters()]
    for name in names:
        plain = name.removesuffix("_unconstrained")
        value = attrgetter(plain)(fit.model).detach().flatten().tolist()
        rows.append([plain, ", ".join(f"{x:.6g}" for x in value[:4])])
    return Grid(["quantity", "value"], rows)
