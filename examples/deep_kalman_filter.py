"""A deep Kalman filter on a weekly sensor record: train, forecast two years, score.

Run: python examples/deep_kalman_filter.py
"""

from __future__ import annotations

import math

import torch

import deepssm as ds
from deepssm.data import co2


def calendar(dates: object, harmonics: int = 3) -> torch.Tensor:
    """Return sines and cosines of the year, known for the future too, `(time, 2 harmonics)`."""
    phase = torch.as_tensor(dates.day_of_year.to_numpy() / 365.25)  # type: ignore[attr-defined]
    return torch.stack(
        [
            f(2 * math.pi * k * phase)
            for k in range(1, harmonics + 1)
            for f in (torch.sin, torch.cos)
        ],
        dim=-1,
    )


def main(steps: int = 600, seed: int = 0) -> dict[str, float]:
    """Hold out the last 104 weeks of the Mauna Loa record and forecast them."""
    y = co2()
    u, past = calendar(y.index), len(y) - 104
    torch.manual_seed(seed)
    model = ds.models.DeepMarkov(1, 3, input_dim=u.shape[-1], hidden=16)
    fit = ds.fit(model, y[:past], u[:past], method=ds.inference.SVI(steps=steps), progress=False)
    forecast = fit.forecast(104, u_future=u[past:], num_samples=500)
    lower, upper = forecast.interval(0.9)
    truth = torch.tensor(y[past:].to_list(), dtype=lower.dtype).reshape(-1, 1)
    found = {
        "absolute error, ppm": float((forecast.mean - truth).abs().mean()),
        "coverage of 90 % intervals": float(((lower < truth) & (truth < upper)).double().mean()),
        "width, ppm": float((upper - lower).mean()),
    }
    for name, value in found.items():
        print(f"{name:28s} {value:.3f}")
    return found


if __name__ == "__main__":
    main()
