"""Taking a sensor record apart: trend, season and noise of CO2, and the year the Nile changed.

1. Weekly CO2 at Mauna Loa: a trend, a yearly season and an autoregression are fitted by maximum
   likelihood through 59 gaps, the parts drawn apart with their bands, and two years forecast,
   once and then again from every year of the second half of the record.
2. The Nile at Aswan: did the flow drop in 1899? A regression on a step answers with a number.

Run: python examples/structural.py [--quick]
"""

from __future__ import annotations

import sys

import pandas as pd
import torch

import deepssm as ds

YEAR = 365.25 / 7


def carbon_dioxide(quick: bool) -> dict[str, float]:
    """Fit, decompose and forecast; return errors in ppm and the coverage of 90 % intervals."""
    record = ds.data.co2()
    record = record.iloc[-260:] if quick else record
    past, future = record.iloc[:-104], record.iloc[-104:]
    model = (
        ds.models.LocalLinearTrend(level_variance=0.0)
        + ds.models.Seasonal(YEAR, harmonics=2, variance=0.0 if quick else None)
        + ds.models.Autoregressive(1)
    )
    fit = ds.fit(model, past, progress=False)
    print(fit.summary(), end="\n\n")
    smoothed = fit.smooth()
    parts = model.components(smoothed)
    lower, upper = parts.band(0.9)
    print(f"{'component':<16}{'range (ppm)':>14}{'90 % band (ppm)':>18}")
    for i, name in enumerate(parts.names or ()):
        spread = parts.mean[:, i].max() - parts.mean[:, i].min()
        band = (upper - lower)[:, i].mean()
        print(f"{name:<16}{spread.item():>14.2f}{band.item():>18.2f}")
    forecast = fit.forecast(len(future))
    low, high = forecast.interval(0.9)
    truth = torch.tensor(future.to_list(), dtype=torch.float64)[:, None]
    seen = ~truth.isnan()
    error = (forecast.mean - truth)[seen].square().mean().sqrt().item()
    inside = ((truth >= low) & (truth <= high))[seen].double().mean().item()
    print(f"\n104 weeks ahead: RMSE {error:.2f} ppm, 90 % intervals cover {100 * inside:.0f} %")
    if not quick:
        inside = rolling_coverage(model, record)
        print("One window says little, since its errors move together.")
    print()
    return {"rmse": error, "coverage": inside}


def rolling_coverage(model: ds.models.Structural, record: pd.Series) -> float:
    """Learn from the first half, forecast two years from every year of the second."""
    first, horizon = len(record) // 2, 104
    ds.fit(model, record.iloc[:first], progress=False)
    truth = torch.tensor(record.to_list(), dtype=torch.float64)[:, None]
    hits, origins = [], range(first, len(record) - horizon, 52)
    for origin in origins:
        low, high = ds.forecast(model, record.iloc[:origin], horizon).interval(0.9)
        future = truth[origin : origin + horizon]
        hits.append(((future >= low) & (future <= high))[~future.isnan()].double().mean())
    share = torch.stack(hits).mean().item()
    print(f"From {len(origins)} origins, a year apart: they cover {100 * share:.0f} %")
    return share


def nile_dam() -> dict[str, float]:
    """Estimate the step of 1899 and how much the random walk of the level is then needed."""
    flow = ds.data.nile()
    late = pd.DatetimeIndex(flow.index).year >= 1899
    step = torch.tensor(late.tolist(), dtype=torch.float64)[:, None]
    results = {}
    for name, model, u in (
        ("level", ds.models.LocalLevel(), None),
        ("level and step", ds.models.LocalLevel() + ds.models.Regression(1), step),
    ):
        fit = ds.fit(model, flow, u, progress=False)
        results[name] = fit.learned.objective
        if u is None:
            found = fit.disturbances().unusual(2.6)
            print("Unusual:", ", ".join(f"{what} of {when:%Y}" for when, what in found.index))
        print(f"{name:<16} log-likelihood {fit.learned.objective:.2f}", *fit.learned.warnings)
        if u is not None:
            smoothed = fit.smooth()
            effect, sd = smoothed.mean[-1, -1].item(), smoothed.cov[-1, -1, -1].sqrt().item()
            print(f"The flow changed by {effect:.0f} +- {sd:.0f} (10^8 m^3 a year) in 1899")
            results["effect"] = effect
    return results


def main(quick: bool = False) -> dict[str, float]:
    """Run both parts; return their figures.

    Args:
        quick: Use five years of the CO2 record instead of all.
    """
    return carbon_dioxide(quick) | nile_dam()


if __name__ == "__main__":
    main("--quick" in sys.argv[1:])
