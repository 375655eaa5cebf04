"""Coverage of a trained deep model's forecasts where the exact answer is known.

Data come from a linear-Gaussian model; a `DeepMarkov` with linear parts is trained on them. Its
90 % intervals are scored on new series beside those of the Kalman filter under the true model.

Run: python benchmarks/linear_coverage.py [seed]
"""

from __future__ import annotations

import sys
import time

import torch
from torch import Tensor

import deepssm as ds
from deepssm.core.results import Forecast
from deepssm.inference import SVI
from deepssm.models import DeepMarkov, GaussianEmission, LinearGaussian, LinearTransition

HORIZONS = (1, 5, 25)


def truth() -> LinearGaussian:
    """Return a damped swing of two states, seen by two sensors with correlated noise."""
    return LinearGaussian(
        A=[[0.90, 0.35], [-0.35, 0.85]],
        Q=[[0.10, 0.0], [0.0, 0.05]],
        C=[[1.0, 0.3], [0.0, 1.0]],
        R=[[0.30, 0.0], [0.0, 0.20]],
        m0=[0.0, 0.0],
        P0=[[1.0, 0.0], [0.0, 1.0]],
    )


def main(seed: int = 0, *, count: int = 200, steps: int = 600) -> dict[str, float]:
    """Train, forecast 1000 new series, and print coverage, width and error by horizon.

    Args:
        seed: Of data, weights and draws.
        count: Series to learn from, 60 steps each.
        steps: Gradient steps.
    """
    exact, generator = truth(), torch.Generator().manual_seed(seed)
    train = ds.simulate(exact, 60, num_samples=count, generator=generator).y
    whole = ds.simulate(exact, 85, num_samples=1000, generator=generator).y
    past, future = whole[:, :60], whole[:, 60:]
    torch.manual_seed(seed)
    model = DeepMarkov(
        2, 2, transition=LinearTransition(2), emission=GaussianEmission(2, 2, hidden=0)
    ).double()
    start = time.process_time()
    fit = ds.fit(model, train, method=SVI(steps=steps), progress=False, generator=generator)
    spent = time.process_time() - start
    learned = ds.forecast(
        model, past, 25, method=fit.method, num_samples=1000, generator=generator
    )
    known = ds.forecast(exact, past, 25)
    found = {"CPU seconds": spent}
    print(f"trained in {spent:.0f} CPU s; 1000 series, 90 % intervals, two sensors")
    print(f"{'h':>4s} {'coverage':>9s} {'exact':>7s} {'width':>7s} {'exact':>7s}"
          f" {'RMSE':>7s} {'exact':>7s}")  # fmt: skip
    for h in HORIZONS:
        ours, best = scores(learned, future, h), scores(known, future, h)
        found |= {f"coverage h={h}": ours[0], f"exact coverage h={h}": best[0]}
        found |= {f"width h={h}": ours[1], f"exact width h={h}": best[1]}
        cells = [x for pair in zip(ours, best, strict=True) for x in pair]
        print(f"{h:4d} {cells[0]:9.3f} " + " ".join(f"{x:7.3f}" for x in cells[1:]))
    return found


def scores(forecast: Forecast, future: Tensor, h: int) -> tuple[float, float, float]:
    """Return coverage and mean width of the 90 % intervals, and the mean's error, at a horizon."""
    lower, upper = (x[:, h - 1] for x in forecast.interval(0.9))
    seen = future[:, h - 1]
    inside = ((lower < seen) & (seen < upper)).double().mean()
    error = (forecast.mean[:, h - 1] - seen).square().mean().sqrt()
    return float(inside), float((upper - lower).mean()), float(error)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
