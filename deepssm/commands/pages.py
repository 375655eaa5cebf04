"""The report page of a run, from its fits and their scores."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base import LinearGaussianModel
from ..evaluation.backtest import Backtest
from ..evaluation.calibration import reliability
from ..evaluation.consistency import Innovations, consistency, innovations, nis
from ..evaluation.scores import pit
from ..fitted import Fit
from ..models.structural import Structural
from ..models.structural_decomposition import Decomposition
from ..report.html import Grid, Page, Picture, Section, picture
from ..report.html_figures import LEVELS, Fan, plot_methods, plot_readings
from ..report.plots import plot_components
from ..report.plots_canvas import positions
from ..report.plots_checks import plot_innovations, plot_pit, plot_reliability, plot_training
from ..results import Smoothed
from .readings import from_moments
from .specs import ModelSpec
from .study import Study, label

_SHOWN = 260
_COLUMNS = 3
_RECENT = 4000


def page_of(study: Study, config: Mapping[str, Any]) -> Page:
    """Return the page of a run.

    Args:
        study: Fits and scores.
        config: What `config.toml` holds.
    """
    data = config["data"]
    rows = study.main[1].series.time
    lead = f"{' and '.join(label(study.fits, name) for name in study.fits)}, {_scored(study)}."
    sections = [
        _smoothed_section(study),
        _forecast_section(study),
        _calibration_section(study),
        *_innovation_sections(study),
        *_learning_sections(study),
        *_summary_sections(study),
    ]
    card = [
        ("data", f"{data['source']}: {rows} rows, {data['missing']} missing readings"),
        ("columns", ", ".join(study.main[0].y)),
        ("time step", data["step"] or "one row"),
        *((name, spec.words) for name, (spec, _) in study.fits.items()),
        ("seed", str(config["seed"])),
        ("learnt in", f"{config['seconds']:.0f} s on {config['device']}"),
        ("versions", ", ".join(f"{k} {v}" for k, v in config["versions"].items())),
        ("command", config["command"]),
    ]
    return Page(data["title"], lead, card, headline(study), study.warnings(), sections)


def headline(study: Study) -> Grid:
    """Return the table of CRPS, coverage and width by method."""
    scores = study.scores()
    rows, notes = [], []
    for name, score in scores.items():
        rows.append([name, *_cells(score)])
        off = score["cov90"] - 0.9
        notes.append("" if abs(off) <= 0.1 else f"bands too {'wide' if off > 0 else 'narrow'}")
    count = int(next(iter(scores.values()))["count"])
    caption = (
        f"{count} readings {'that no model has seen' if study.holdout else 'scored'}. CRPS: error "
        "of the whole forecast distribution in the unit of the data, lower is better. Coverage: "
        "share of readings inside the 90 % band, right near 90 %. Width: of that band, narrower "
        "is better if coverage holds."
    )
    return Grid(["method", "CRPS", "90 % coverage", "90 % width"], rows, notes, caption)


def text_table(study: Study) -> str:
    """Return the headline table as plain text."""
    grid = headline(study)
    rows = [list(grid.header), *(list(row) for row in grid.rows)]
    width = max(len(row[0]) for row in rows)
    lines = [f"{row[0]:{width}}" + "".join(f"{cell:>15}" for cell in row[1:]) for row in rows]
    notes = ["", *grid.notes]
    return "\n".join(f"{a}  {b}".rstrip() for a, b in zip(lines, notes, strict=True))


def _cells(score: Mapping[str, float]) -> list[str]:
    return [f"{score['crps']:.4g}", f"{100 * score['cov90']:.1f} %", f"{score['width90']:.4g}"]


def _scored(study: Study) -> str:
    if study.holdout:
        return f"scored on the last {study.holdout} rows, which no model has seen"
    found = next(iter(study.backtests.values()))
    return f"scored from {len(found.origins)} origins, {found.y.shape[-2]} rows ahead each"


def _smoothed_section(study: Study) -> Section:
    spec, fit = study.main
    smoothed = fit.smooth()
    readings = from_moments(fit.model, smoothed.mean, smoothed.cov, fit.series)
    x, y = positions(fit.index, fit.series.time), _array(fit.series.y)
    pictures = []
    for i, name in enumerate(spec.y[:_COLUMNS]):
        mean, sd = _array(readings.mean[:, i]), _array(readings.sd[:, i])
        drawn = plot_readings(x, y[:, i], mean, sd, unit=name, rows=min(_SHOWN, len(y)))
        gaps = int(np.isnan(y[:, i]).sum())
        alt = (
            f"Readings of {name} over time with the smoothed curve and its 50 and 90 percent "
            f"bands; {gaps} missing readings are shaded and filled."
        )
        pictures.append(picture(drawn, alt, name=f"smooth{i}"))
    if isinstance(fit.model, Structural):
        pictures.append(_parts_picture(fit.model, fit, smoothed))
    text = (
        "What a sensor would have shown, given all readings before and after. Shaded: there was "
        "no reading, and the bands say how sure the filling is."
    )
    return Section("Readings, smoothed, gaps filled", text, pictures)


def _parts_picture(model: Structural, fit: Fit, smoothed: Smoothed) -> Picture:
    rows = slice(-2 * _SHOWN, None)
    parts = model.components(smoothed, fit.series.u)
    index = None if fit.index is None else fit.index[rows]
    cut = Decomposition(parts.mean[rows], parts.variance[rows]).labelled(index, parts.names)
    drawn = plot_components(cut, fit.series.y[rows])
    names = ", ".join(model.parts)
    alt = f"What each part of the model adds to the last {len(cut.mean)} readings: {names}."
    return picture(drawn, alt, f"What each part adds, last {len(cut.mean)} rows.", name="parts")


def _forecast_section(study: Study) -> Section:
    pictures = [_methods_picture(study, i) for i in range(min(_COLUMNS, len(study.main[0].y)))]
    text = (
        "Each method saw the same past, up to where its bands begin. Half of the dots should lie "
        "in the dark band, nine of ten in the light one."
    )
    return Section("Forecasts beside what came true", text, pictures)


def _methods_picture(study: Study, column: int) -> Picture:
    spec, fit = study.main
    x, y = positions(fit.index, fit.series.time), _array(fit.series.y)[:, column]
    fans = [
        Fan(
            label(study.fits, name),
            _array(found.forecast.mean[-1, :, column]),
            {level: _ends(found, level, column) for level in LEVELS},
            _array(found.y[-1, :, column]),
        )
        for name, found in study.backtests.items()
    ]
    first = next(iter(study.backtests.values()))
    origin, horizon = int(first.origins[-1]), first.y.shape[-2]
    past = slice(max(0, origin - max(2 * horizon, 40)), origin)
    ahead = x[origin : origin + horizon]
    drawn = plot_methods(x[past], y[past], ahead, fans, unit=spec.y[column])
    names = ", ".join(each.name for each in fans)
    alt = f"Forecasts of {spec.y[column]}, 50 and 90 percent bands, and what came true: {names}."
    return picture(drawn, alt, name=f"fan{column}")


def _ends(found: Backtest, level: float, column: int) -> tuple[np.ndarray, np.ndarray]:
    lower, upper = found.forecast.interval(level)
    return _array(lower[-1, :, column]), _array(upper[-1, :, column])


def _calibration_section(study: Study) -> Section:
    generator = torch.Generator().manual_seed(0)
    pits = {
        label(study.fits, name): pit(found.forecast, found.y, generator)
        for name, found in study.backtests.items()
    }
    curves = {name: reliability(values) for name, values in pits.items()}
    shares = ", ".join(
        f"{name} {100 * float(curve.coverage[curve.level.sub(0.9).abs().argmin()]):.0f} %"
        for name, curve in curves.items()
    )
    alt = f"Observed against nominal coverage. At 90 percent nominal: {shares}."
    pictures = [picture(plot_reliability(curves), alt, name="reliability")]
    for i, (name, values) in enumerate(pits.items()):
        drawn = plot_pit(values)
        alt = f"Histogram of the probability integral transform of {name}."
        pictures.append(picture(drawn, alt, name, name=f"pit{i}"))
    text = (
        "A curve below the diagonal means bands that are too narrow, above it too wide. A flat "
        "histogram is right, a hump means bands too wide, a bowl too narrow, a slope a bias. "
        "Steps ahead of one origin err together, so chance allows more than its band, which "
        "takes them as independent."
    )
    return Section("Calibration", text, pictures, side_by_side=True)


def _innovation_sections(study: Study) -> list[Section]:
    sections = []
    for name, (_, fit) in study.fits.items():
        if not isinstance(fit.model, LinearGaussianModel):
            continue
        with torch.no_grad():
            found = innovations(fit.model, fit.series, fit.filter())
            verdict = consistency(nis(found))
            recent = Innovations(*(part[-_RECENT:] for part in found))
            index = None if fit.index is None else fit.index[-_RECENT:]
            drawn = plot_innovations(recent, index=index)
        alt = (
            f"Moving mean of the normalized innovation squared of {name}, {verdict.mean:.2f} "
            "overall, and autocorrelations of the innovations."
        )
        text = (
            "Squared one-step errors of the filter in units of what it claims: "
            f"{verdict.mean:.3f} on average, where chance allows {verdict.lower:.3f} to "
            f"{verdict.upper:.3f}. Above 1 it is too sure of itself. Autocorrelations outside the "
            "grey band are structure that the model has missed."
        )
        shown = [picture(drawn, alt, name=f"nis-{name}")]
        sections.append(Section(f"Is the filter consistent? {name}", text, shown))
    return sections


def _learning_sections(study: Study) -> list[Section]:
    pictures = []
    for name, (_, fit) in study.fits.items():
        if len(fit.learned.history) > 1:
            drawn = plot_training(fit.learned.history, ("reconstruction", "divergence"))
            alt = f"What learning {name} maximised, step by step."
            pictures.append(picture(drawn, alt, name, name=f"learning-{name}"))
    text = "The log-likelihood of a classical model, the evidence lower bound of a deep one."
    return [Section("Learning", text, pictures)] if pictures else []


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


def _array(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()
