"""The parts of the report page about observations and forecasts."""

from __future__ import annotations

import torch
from torch import Tensor

from ..api.fit import Fit
from ..core.abilities import LinearGaussianModel
from ..core.results import Forecast, Smoothed
from ..evaluation.backtests import Backtest
from ..evaluation.calibration import reliability
from ..evaluation.consistency import Innovations, consistency, innovations, nis
from ..evaluation.scores import pit
from ..models.structural.decomposition import Decomposition
from ..models.structural.model import Structural
from ..report.html import Picture, Section, picture
from ..report.plots import plot_components, plot_observations
from ..report.plots_checks import plot_horizons, plot_innovations, plot_pit, plot_reliability
from ..report.plots_forecasts import plot_methods
from ..report.plots_images import plot_frames
from .exit_codes import UsageError
from .holdout import Study, label
from .observation_moments import ObservationMoments, from_moments

_SHOWN = 260
_COLUMNS = 3
_RECENT = 4000
_FRAMES = 12


def smoothed_section(study: Study) -> Section:
    """Return the observations with their gaps filled, and the parts of a structural model."""
    spec, fit = study.main
    smoothed = fit.smooth()
    observations = from_moments(
        fit.model, smoothed.mean, smoothed.cov, fit.series, diffuse=smoothed.diffuse
    )
    pictures = []
    for i, name in enumerate(spec.y[:_COLUMNS]):
        y, mean, sd = (part[:, i] for part in (fit.series.y, observations.mean, observations.sd))
        drawn = plot_observations(y, mean, sd, index=fit.index, name=name, rows=_SHOWN)
        alt = (
            f"Observations of {name} over time with the smoothed curve and its 50 and 90 percent "
            f"bands; {int(y.isnan().sum())} missing observations are shaded and filled."
        )
        pictures.append(picture(drawn, alt, name=f"smooth{i}"))
    if isinstance(fit.model, Structural):
        pictures.append(_parts_picture(fit.model, fit, smoothed))
    text = (
        "What a sensor would have shown, given all observations before and after. Shaded: there "
        "was no observation, and the bands say how sure the filling is."
    )
    return Section("Observations, smoothed, gaps filled", text, pictures)


def _parts_picture(model: Structural, fit: Fit, smoothed: Smoothed) -> Picture:
    rows = slice(-2 * _SHOWN, None)
    parts = model.components(smoothed, fit.series.u)
    index = None if fit.index is None else fit.index[rows]
    cut = Decomposition(parts.mean[rows], parts.variance[rows]).labelled(index, parts.names)
    drawn = plot_components(cut, fit.series.y[rows])
    names = ", ".join(model.parts)
    alt = f"What each part of the model adds to the last {len(cut.mean)} observations: {names}."
    return picture(drawn, alt, f"What each part adds, last {len(cut.mean)} rows.", name="parts")


def forecast_section(study: Study) -> Section:
    """Return the last forecast of each method beside what came true."""
    spec, fit = study.main
    fans = {label(study.fits, name): last(x, fit) for name, x in study.backtests.items()}
    first = next(iter(study.backtests.values()))
    origin, horizon = int(first.origins[-1]), first.y.shape[-2]
    past = slice(max(0, origin - max(2 * horizon, 40)), origin)
    index = None if fit.index is None else fit.index[past]
    pictures = []
    for i, name in enumerate(spec.y[:_COLUMNS]):
        drawn = plot_methods(
            fans, fit.series.y[past], index=index, truth=first.y[-1], past=_RECENT, component=i
        )
        alt = (
            f"Forecasts of {name}, 50 and 90 percent bands, and what came true: {', '.join(fans)}."
        )
        pictures.append(picture(drawn, alt, name=f"fan{i}"))
    text = (
        "Each method saw the same past, up to where its bands begin. Half of the dots should lie "
        "in the dark band, nine of ten in the light one."
    )
    return Section("Forecasts beside what came true", text, pictures)


def last(found: Backtest, fit: Fit) -> Forecast:
    """Return the forecast of the last origin, with the labels of its steps.

    Args:
        found: Forecasts from several origins.
        fit: Whose observations were forecast.
    """
    origin, horizon = int(found.origins[-1]), found.y.shape[-2]
    samples = found.forecast.samples
    drawn = None if samples is None else samples[:, -1]
    ahead = None if fit.index is None else fit.index[origin : origin + horizon]
    cut = Forecast(found.forecast.mean[-1], found.forecast.cov[-1], drawn)
    return cut.labelled(ahead, fit.names)


def frames_section(study: Study, height: int, width: int) -> Section:
    """Return the data as images: as seen, filled, and the last forecast beside what came true.

    Args:
        study: Fits and scores of a run whose columns are pixels, row by row.
        height: Pixels of a frame from top to bottom.
        width: Pixels from left to right.

    Raises:
        UsageError: the columns are not as many as the pixels.
    """
    spec, fit = study.main
    if len(spec.y) != height * width:
        raise UsageError(
            f"--frames {height}x{width} needs {height * width} columns; the run has {len(spec.y)}."
        )
    smoothed = fit.smooth()
    filled = from_moments(
        fit.model, smoothed.mean, smoothed.cov, fit.series, diffuse=smoothed.diffuse
    )
    shown = _most_missing(fit.series.y)
    gaps = {"read": fit.series.y[shown], "filled": _completed(fit.series.y, filled)[shown]}
    found = study.backtests[next(iter(study.fits))]
    ahead = {"came true": found.y[-1], "forecast": last(found, fit).mean}
    alt = f"Frames of {height} by {width} pixels: {{}}; tinted pixels were not read."
    pictures = [
        picture(
            plot_frames(rows, height, width, most=_FRAMES),
            alt.format(" above ".join(rows)),
            caption,
            name=f"frames{i}",
        )
        for i, (caption, rows) in enumerate(
            [("Where most is missing.", gaps), ("The last forecast.", ahead)]
        )
    ]
    text = "Numbers count the frames shown. A filled pixel is the mean of what it may have been."
    return Section("Frames, gaps filled", text, pictures)


def _most_missing(y: Tensor) -> slice:
    """Return a window of frames where most pixels are missing."""
    missing = y.isnan().double().mean(-1)
    if len(y) <= _FRAMES:
        return slice(0, len(y))
    start = int(missing.unfold(0, _FRAMES, 1).mean(-1).argmax())
    return slice(start, start + _FRAMES)


def _completed(y: Tensor, filled: ObservationMoments) -> Tensor:
    return torch.where(y.isnan(), filled.mean, y)


def calibration_section(study: Study) -> Section:
    """Return coverage by level and by steps ahead, and the histograms behind it."""
    generator = torch.Generator().manual_seed(0)
    named = {label(study.fits, name): found for name, found in study.backtests.items()}
    pits = {name: pit(found.forecast, found.y, generator) for name, found in named.items()}
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
    alt = f"Coverage of the 90 percent bands and CRPS by steps ahead: {', '.join(named)}."
    ahead = picture(plot_horizons(named), alt, "By steps ahead.", name="horizons")
    return Section("Calibration", text, pictures, side_by_side=True, wide=[ahead])


def innovation_sections(study: Study) -> list[Section]:
    """Return the one-step errors of each linear model in units of what it claims."""
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
