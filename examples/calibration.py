"""Is a stated 90 % really 90 %? Weekly CO2 at Mauna Loa, forecast a quarter of a year ahead.

A structural model is fitted to the first half of the record. The second half shows how honest its
intervals are; how dishonest those of a copy are that was told a quarter of the variances; and that
one factor, learnt on the older half of the forecasts, puts the newer half right.

Run: python examples/calibration.py [--quick] [reliability.svg]
"""

from __future__ import annotations

import sys
from operator import attrgetter

import torch
from torch import Tensor

import deepssm as ds
from deepssm import evaluation as ev
from deepssm.report import plot_reliability

SEASON, HORIZON = 365.25 / 7, 13
BOLD = "a quarter of the variances"
VARIANCES = (
    "noise_variance", "trend.level_variance", "trend.slope_variance", "seasonal.variance"
)  # fmt: skip


def co2_model(variances: list[Tensor] | list[None]) -> ds.models.Structural:
    """Return a trend with a yearly season; variances that are `None` are learnt."""
    noise, level, slope, season = variances
    trend = ds.models.LocalLinearTrend(level, slope, noise_variance=noise)
    return trend + ds.models.Seasonal(SEASON, harmonics=2, variance=season)


def main(quick: bool = False, picture: str | None = None) -> dict[str, float]:
    """Print a table of scores; return the coverage of 90 % intervals by method.

    Args:
        quick: Use four years of the record instead of all.
        picture: Where to save the reliability curves.
    """
    y = ds.data.co2().iloc[-208:] if quick else ds.data.co2()
    start = len(y) // 2
    honest = co2_model([None] * 4)
    ds.fit(honest, y.iloc[:start], progress=False)
    found = [attrgetter(name)(honest).detach() for name in VARIANCES]
    bold = co2_model([value / 4 for value in found])
    runs = {
        "fitted": ds.backtest(honest, y, start=start, horizon=HORIZON, period=52),
        "a quarter of the variances": ds.backtest(
            bold, y, start=start, horizon=HORIZON, period=52
        ),
        "seasonal naive": ds.backtest(ev.SeasonalNaive(52), y, start=start, horizon=HORIZON),
    }
    runs = {name: halves(run)[1] for name, run in runs.items()} | {
        "... rescaled by one factor": rescaled(runs["a quarter of the variances"])
    }
    coverage, curves = {}, {}
    print(f"{'':28}{'CRPS':>8}{'90 % holds':>12}{'width':>8}{'count':>7}")
    for name, run in runs.items():
        row = run.scores().iloc[0]
        print(
            f"{name:28}{row['crps']:8.3f}{row['cov90']:12.1%}{row['width90']:8.2f}{row['count']:7}"
        )
        coverage[name] = float(row["cov90"])
        curves[name] = ev.reliability(ev.pit(run.forecast, run.y))
    for sentence in ev.calibration_warnings(*runs[BOLD][:2]):
        print(sentence)
    if picture is not None:
        plot_reliability(curves).savefig(picture)
    return coverage


def halves(run: ev.Backtest) -> tuple[ev.Backtest, ev.Backtest]:
    """Split a backtest at the middle of its origins."""
    half = len(run.origins) // 2
    return cut(run, slice(half)), cut(run, slice(half, None))


def cut(run: ev.Backtest, part: slice) -> ev.Backtest:
    """Keep some origins."""
    forecast = ds.Forecast(run.forecast.mean[part], run.forecast.cov[part])
    return ev.Backtest(forecast, run.y[part], run.origins[part], run.scale)


def rescaled(run: ev.Backtest) -> ev.Backtest:
    """Learn one factor on the older forecasts and apply it to the newer ones."""
    older, test = halves(run)
    factor = ev.recalibration_factor(older.forecast, older.y)
    print(f"factor learnt on the older forecasts: {factor.item():.2f}\n")
    return test._replace(forecast=ev.rescale(test.forecast, factor))


if __name__ == "__main__":
    torch.set_num_threads(2)
    arguments = [a for a in sys.argv[1:] if a != "--quick"]
    main(quick="--quick" in sys.argv, picture=arguments[0] if arguments else None)
