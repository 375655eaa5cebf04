"""Forecasts of several methods from the same past, scored side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from ..api.backtest import backtest
from ..api.fit import Fit
from ..evaluation.backtests import Backtest
from ..evaluation.baselines import SeasonalNaive
from ..evaluation.calibration import calibration_warnings
from .failures import surviving
from .model_specs import ModelSpec, usual_period

Fits = Mapping[str, tuple[ModelSpec, Fit]]


class Study(NamedTuple):
    """Models learnt from one table, and how well all methods forecast it.

    Attributes:
        fits: Specification and fit by name, the main one first; the fits hold all rows.
        backtests: Forecasts and what came true, by method; the last is the seasonal naive one.
        holdout: Last rows that no model has learnt from; 0 if all were learnt from.
        failures: What could not be forecast, scored or drawn, in sentences.
    """

    fits: Fits
    backtests: dict[str, Backtest]
    holdout: int
    failures: tuple[str, ...] = ()

    @property
    def main(self) -> tuple[ModelSpec, Fit]:
        """The first model."""
        return next(iter(self.fits.values()))

    def scores(self) -> dict[str, dict[str, float]]:
        """Return `crps`, `cov90`, `width90`, `mase`, `count` ... of each method."""
        return {
            label(self.fits, name): {
                str(key): float(value) for key, value in found.scores().iloc[0].items()
            }
            for name, found in self.backtests.items()
        }

    def warnings(self) -> list[str]:
        """Return what a reader of the scores must know, in plain words."""
        lines = list(self.failures)
        if not self.holdout:
            lines.append(
                "The models were learnt from all rows, also those that are scored here, so the "
                "scores flatter them. Fit with --holdout N to score rows that no model has seen."
            )
        for name, found in self.backtests.items():
            with surviving(f"{label(self.fits, name)}: a test of its bands", lines):
                for line in calibration_warnings(found.forecast, found.y):
                    lines.append(f"{label(self.fits, name)}: {line}")
        for name, (_, fit) in self.fits.items():
            lines += [f"{label(self.fits, name)}: {line}" for line in fit.learned.warnings]
        return lines


def label(fits: Fits, name: str) -> str:
    """Return the name of a method as tables show it."""
    if name not in fits:
        return name
    return f"{name} (deep, approximate)" if fits[name][0].deep else f"{name} (linear, exact)"


def evaluate(fits: Fits, *, holdout: int, seed: int, step: str) -> Study:
    """Forecast with every model and with the seasonal naive method, and keep what came true.

    With a holdout there is one origin, before it; else there are several in the last 40 %. A
    method that fails costs its own scores only, and is named among the failures.

    Args:
        fits: Specification and fit by name; the fits hold all rows.
        holdout: Last rows that no model has learnt from.
        seed: Of forecasts by draws.
        step: The time step in words, for the season of the naive method.
    """
    main_spec, main = next(iter(fits.values()))
    rows = main.series.time
    where = _one_origin(rows, holdout) if holdout else _many_origins(rows)
    backtests: dict[str, Backtest] = {}
    failures: list[str] = []
    for name, (_, fit) in fits.items():
        with surviving(f"Scores of {label(fits, name)}", failures):
            found = _model_backtest(fit, where, seed).labelled(main.index, main.names)
            found.scores()
            backtests[name] = found
    period = season(main_spec, step, where["start"])
    with surviving("Scores of the naive forecast", failures):
        period, naive = usable_baseline(main, period, where)
        naive.scores()
        backtests[naive_name(period)] = naive
    return Study(fits, backtests, holdout, tuple(failures))


def _model_backtest(fit: Fit, where: Mapping[str, Any], seed: int) -> Backtest:
    y, u, dt = fit.series
    generator = torch.Generator(fit.model.device).manual_seed(seed)
    return backtest(
        fit.model, y, u, dt=dt, method=fit.method, generator=generator, num_samples=None, **where
    )


def usable_baseline(fit: Fit, period: int, where: Mapping[str, Any]) -> tuple[int, Backtest]:
    """Return the seasonal naive forecasts, or the last value where a step of it was never seen.

    Args:
        fit: Whose data.
        period: Rows to look back.
        where: `start`, `horizon` and perhaps `stride`.

    Raises:
        ValueError: Nothing was seen twice.
    """
    try:
        return period, naive_backtest(fit, period, where)
    except ValueError:
        if period == 1:
            raise
        return 1, naive_backtest(fit, 1, where)


def naive_name(period: int) -> str:
    """Return what the baseline is called."""
    return "seasonal naive" if period > 1 else "last value"


def season(spec: ModelSpec, step: str, past: int) -> int:
    """Return the whole number of rows that the naive method looks back."""
    period = round(spec.period or usual_period(step) or 1)
    return period if 2 * period <= past else 1


def naive_backtest(fit: Fit, period: int, where: Mapping[str, Any]) -> Backtest:
    """Forecast a fit's data with the seasonal naive method, row by row whatever their times.

    Args:
        fit: Whose data.
        period: Rows to look back.
        where: `start`, `horizon` and perhaps `stride`.
    """
    found = backtest(SeasonalNaive(period), fit.series.y.double().cpu(), **where)
    return found.labelled(fit.index, fit.names)


def _one_origin(rows: int, holdout: int) -> dict[str, Any]:
    return {"start": rows - holdout, "horizon": holdout}


def _many_origins(rows: int) -> dict[str, Any]:
    horizon = max(1, min(24, rows // 10))
    return {"start": int(0.6 * rows), "horizon": horizon, "stride": horizon}
