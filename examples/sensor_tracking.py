"""Track a target by radar: irregular sweeps, lost echoes, and how sure the filter really is.

The model is a constant velocity in continuous time; its two noise levels are learnt from the
readings alone. The true path is known, so the filter's claims can be checked against it.

Run: python examples/sensor_tracking.py [--quick] [states.svg]
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

import deepssm as ds
from deepssm import evaluation as ev
from deepssm.api.validation import as_series
from deepssm.report import plot_states

POSITIONS, VELOCITIES = [0, 2], [1, 3]


def main(quick: bool = False, picture: str | None = None) -> dict[str, float]:
    """Print errors and consistency; return them.

    Args:
        quick: Track for 80 sweeps instead of 600.
        picture: Where to save the smoothed states with their bands.
    """
    truth = ds.data.radar(
        80 if quick else 600, dt=2.0, jitter=0.8, gaps=0.2, acceleration=0.5, noise=30.0, seed=3
    )
    model = ds.models.ConstantVelocity(dims=2)
    fit = ds.fit(model, truth.y, dt=truth.dt, progress=False)
    filtered, smoothed = fit.filter(), fit.smooth()
    series = as_series(model, truth.y, dt=truth.dt)
    judged = ev.consistency(ev.nis(ev.innovations(model, series, filtered)))
    inside = coverage(truth.z, smoothed)
    found = {
        "reading, position m": rms(truth.y - truth.z[:, POSITIONS]),
        "filtered, position m": rms((filtered.mean - truth.z)[5:, POSITIONS]),
        "smoothed, position m": rms((smoothed.mean - truth.z)[:, POSITIONS]),
        "filtered, velocity m/s": rms((filtered.mean - truth.z)[5:, VELOCITIES]),
        "smoothed, velocity m/s": rms((smoothed.mean - truth.z)[:, VELOCITIES]),
        "90 % bands hold the truth": inside,
        "mean NIS": judged.mean,
    }
    lost = int(truth.y[:, 0].isnan().sum())
    print(f"{len(truth.y)} sweeps, {lost} without an echo; errors are root mean squares\n")
    for name, value in found.items():
        print(f"{name:28}{value:9.3f}")
    print(f"\nNIS of a right filter: {judged.lower:.3f} to {judged.upper:.3f}")
    print(f"noise learnt: {model.noise_variance.item() ** 0.5:.1f} m, true: 30.0 m")
    if picture is not None:
        plot_states(smoothed, y=truth.y, truth=truth.z).savefig(picture)
    return found


def rms(error: Tensor) -> float:
    """Return the root of the mean square over what was seen."""
    return error.square().nanmean().sqrt().item()


def coverage(z: Tensor, smoothed: ds.Smoothed) -> float:
    """Return the share of true states inside their 90 % bands."""
    sd = smoothed.cov.diagonal(dim1=-2, dim2=-1).sqrt()
    return ((z - smoothed.mean).abs() <= 1.6449 * sd).double().mean().item()


if __name__ == "__main__":
    torch.set_num_threads(2)
    arguments = [a for a in sys.argv[1:] if a != "--quick"]
    main(quick="--quick" in sys.argv, picture=arguments[0] if arguments else None)
