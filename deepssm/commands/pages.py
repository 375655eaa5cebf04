"""The report page of a run, from its fits and their scores."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import numpy as np

from ..base import LinearGaussianModel
from ..evaluation.backtest import Backtest
from ..evaluation.consistency import consistency, innovations, nis
from ..evaluation.scores import pit
from ..fitted import Fit
from ..report import html_figures as figures
from ..report.html import Grid, Page, Picture, Section, picture
from .readings import from_moments
from .specs import ModelSpec
from .study import Study, label

_SHOWN = 260


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
    readings = from_moments(fit.model, smoothed.mean, smoothed.cov, fit.series.u)
    index, y = _index(fit), fit.series.y.double().numpy()
    pictures = []
    for i, name in enumerate(spec.y[:3]):
        mean, sd = readings.mean[:, i].double().numpy(), readings.sd[:, i].double().numpy()
        drawn = figures.smoothed_figure(index, y[:, i], mean, sd, name, min(_SHOWN, len(y)))
        gaps = int(np.isnan(y[:, i]).sum())
        alt = (
            f"Readings of {name} over time with the smoothed curve and its 50 and 90 percent "
            f"bands; {gaps} missing readings are shaded and filled."
        )
        pictures.append(picture(drawn, alt, name=f"smooth{i}"))
    text = (
        "The curve is what a sensor would have shown, given all readings before and after; where "
        "one is missing, the bands say how sure that is."
    )
    return Section("Readings, smoothed, gaps filled", text, pictures)


def _forecast_section(study: Study) -> Section:
    pictures = [_fan_picture(study, i) for i in range(min(3, len(study.main[0].y)))]
    text = (
        "Each method saw the same past, up to where its bands begin. Half of the dots should lie "
        "in the dark band, nine of ten in the light one."
    )
    return Section("Forecasts beside what came true", text, pictures)


def _fan_picture(study: Study, column: int) -> Picture:
    spec, fit = study.main
    index, y = _index(fit), fit.series.y.double().numpy()[:, column]
    fans, origin = [], 0
    for name, found in study.backtests.items():
        origin, horizon = int(found.origins[-1]), found.y.shape[-2]
        bands = {level: _ends(found, level / 100, column) for level in (90, 50)}
        ahead = slice(origin, origin + horizon)
        mean, truth = found.forecast.mean[-1, :, column], found.y[-1, :, column]
        title = label(study.fits, name)
        fans.append(figures.Fan(title, index[ahead], mean.numpy(), bands, truth.numpy()))
    past = slice(max(0, origin - max(2 * len(fans[0].mean), 40)), origin)
    drawn = figures.fan_figure(index[past], y[past], fans, spec.y[column])
    names = ", ".join(fan.name for fan in fans)
    alt = f"Forecasts of {spec.y[column]}, 50 and 90 percent bands, and what came true: {names}."
    return picture(drawn, alt, name=f"fan{column}")


def _ends(found: Backtest, level: float, column: int) -> tuple[np.ndarray, np.ndarray]:
    lower, upper = found.forecast.interval(level)
    return lower[-1, :, column].numpy(), upper[-1, :, column].numpy()


def _calibration_section(study: Study) -> Section:
    pits = {
        label(study.fits, name): pit(found.forecast, found.y).double().numpy().ravel()
        for name, found in study.backtests.items()
    }
    shares = ", ".join(
        f"{name} {100 * np.nanmean(np.abs(2 * values - 1) <= 0.9):.0f} %"
        for name, values in pits.items()
    )
    alt = (
        f"Observed against nominal coverage, and PIT histograms. At 90 percent nominal: {shares}."
    )
    drawn = figures.calibration_figure(pits)
    text = (
        "Left: a curve below the diagonal means bands that are too narrow, above it too wide. "
        "Right: the histogram is flat if the forecasts are right; a hump in the middle means "
        "bands that are too wide. Steps ahead of one origin err together, so chance is larger "
        "than its band, which takes them as independent."
    )
    return Section("Calibration", text, [picture(drawn, alt, name="calibration")])


def _innovation_sections(study: Study) -> list[Section]:
    sections = []
    for name, (_, fit) in study.fits.items():
        if not isinstance(fit.model, LinearGaussianModel):
            continue
        found = innovations(fit.model, fit.series, fit.filter())
        squared = nis(found)
        verdict = consistency(squared)
        values = (squared.value / squared.dof.clamp(min=1)).detach().double().numpy()
        errors = found.standardized[:, 0].detach().double().numpy()
        alt = (
            f"Moving mean of the normalized innovation squared of {name}, overall "
            f"{verdict.mean:.2f}, and autocorrelations of the innovations."
        )
        text = (
            f"The filter's squared one-step errors, in units of what it claims: "
            f"{verdict.mean:.3f} "
            f"on average, where chance allows {verdict.lower:.3f} to {verdict.upper:.3f}. Above 1 "
            "it is too sure of itself. Autocorrelations outside the grey band are structure that "
            "the model has missed."
        )
        drawn = figures.innovation_figure(_index(fit), values, errors)
        sections.append(
            Section(
                f"Is the filter consistent? {name}", text, [picture(drawn, alt, name="nis" + name)]
            )
        )
    return sections


def _learning_sections(study: Study) -> list[Section]:
    courses = {
        name: fit.learned.history
        for name, (_, fit) in study.fits.items()
        if len(fit.learned.history) > 1
    }
    if not courses:
        return []
    alt = f"What learning maximised, step by step, for {', '.join(courses)}."
    drawn = figures.learning_figure(courses)
    text = "The log-likelihood of a classical model, the evidence lower bound of a deep one."
    return [Section("Learning", text, [picture(drawn, alt, name="learning")])]


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


def _index(fit: Fit) -> np.ndarray:
    return np.arange(fit.series.time) if fit.index is None else np.asarray(fit.index)
