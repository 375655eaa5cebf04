"""A target that flies straight and turns: which of three motions is it in, and how does it turn?

Radar positions with 5 m of noise, once a second. One Kalman filter has to choose between
smoothness and speed; the interacting multiple model filter runs one filter for each motion and
weighs them. Then the turn rate, the noises and the changes of motion are forgotten, and learnt
from the positions alone by variational EM.

Run: python examples/manoeuvring_target.py
"""

from __future__ import annotations

import math

import torch
from scipy import stats
from torch import Tensor, nn

import deepssm as ds
from deepssm.models import CoordinatedTurn, SwitchingLinearGaussian

RATE = 0.2  # rad/s
CHAIN = torch.tensor(
    [[0.97, 0.015, 0.015], [0.05, 0.95, 0.0], [0.05, 0.0, 0.95]], dtype=torch.float64
)
POSITION, MODES = slice(3, 7, 2), slice(0, 3)
START = {"m0": [0.0, 10.0, 0.0, 0.0], "P0": torch.diag(torch.tensor([100.0, 1.0, 100.0, 1.0]))}


def known(diffusion: float = 0.01) -> SwitchingLinearGaussian:
    """Return the flight: straight, left, right."""
    modes = [
        CoordinatedTurn(rate, dt=1.0, diffusion=diffusion, noise_variance=25.0)
        for rate in (0.0, RATE, -RATE)
    ]
    first = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    return SwitchingLinearGaussian(modes, transition=CHAIN, initial=first, **START)


def forgotten() -> SwitchingLinearGaussian:
    """Return the same flight with everything unknown but that there are three motions."""
    modes = [
        CoordinatedTurn(nn.Parameter(torch.tensor(rate, dtype=torch.float64)), dt=1.0)
        for rate in (0.0, 0.05, -0.05)
    ]
    for mode in modes[1:]:  # one radar: its noise is the same in all motions
        mode.noise_variance_unconstrained = modes[0].noise_variance_unconstrained
    modes[0].noise_variance = torch.tensor(10.0, dtype=torch.float64)
    modes[0].rate.requires_grad_(False)  # type: ignore[union-attr]
    return SwitchingLinearGaussian(modes, **START)


def best_single_filter(y: Tensor, truth: Tensor) -> float:
    """Return the error of the best Kalman filter, its noise chosen with hindsight."""
    errors = []
    for diffusion in torch.logspace(-1, 1.5, 8).tolist():
        straight = CoordinatedTurn(0.0, dt=1.0, diffusion=diffusion, noise_variance=25.0)
        one = ds.filter(SwitchingLinearGaussian([straight], **START), y)
        errors.append(_error(one.mean[..., 1:5:2], truth))
    return min(errors)


def main(flights: int = 50, time: int = 120, quick: bool = False) -> dict[str, float]:
    """Print errors of position, consistency, and what was learnt.

    Args:
        flights: Number of flights to filter.
        time: Seconds of each.
        quick: A few short flights.
    """
    flights, time = (8, 60) if quick else (flights, time)
    model = known()
    z, y = ds.simulate(
        model, time, num_samples=flights, generator=torch.Generator().manual_seed(0)
    )
    truth = z[..., POSITION]
    single = best_single_filter(y, truth)
    filtered, smoothed = ds.filter(model, y), ds.smooth(model, y)
    error = _error(filtered.mean[..., POSITION], truth)
    left = truth - filtered.mean[..., POSITION]
    cov = filtered.cov[..., POSITION, POSITION]
    nees = (left * torch.linalg.solve(cov, left)).sum(-1).mean().item()
    low, high = (stats.chi2.ppf(p, 2 * flights) / flights for p in (0.005, 0.995))
    found = {
        "raw readings: error of position [m]": _error(y, truth),
        "best single Kalman filter [m]": single,
        "interacting multiple models [m]": error,
        "gain [%]": 100 * (1 - error / single),
        "smoother [m]": _error(smoothed.mean[..., POSITION], truth),
        "NEES (2 if consistent)": nees,
        "its 99 % band, from": low,
        "its 99 % band, to": high,
        "motion right, filter [%]": _right(filtered.mean, z),
        "motion right, smoother [%]": _right(smoothed.mean, z),
    }
    found |= learn(y[: 4 if quick else 8], z, quick)
    for name, value in found.items():
        print(f"{name:44} {value:9.3f}")
    return found


def learn(y: Tensor, z: Tensor, quick: bool) -> dict[str, float]:
    """Learn the motions from positions alone."""
    model = forgotten()
    method = ds.inference.VariationalEM(max_iterations=5 if quick else 300)
    learned = ds.fit(model, y, method=method, progress=False).learned
    bound = [record["objective"] for record in learned.history]
    radar, left, right = model.modes
    smoothed = ds.smooth(model, y)
    return {
        "bound at first [nats]": bound[0],
        "bound at last [nats]": bound[-1],
        "largest fall of the bound [nats]": max(
            0.0, *(a - b for a, b in zip(bound, bound[1:], strict=False))
        ),
        "log-likelihood of the truth [nats]": ds.log_likelihood(known(), y).sum().item(),
        "log-likelihood learnt [nats]": learned.diagnostics["log_likelihood"],
        f"turn rate left (truth {RATE}) [rad/s]": torch.as_tensor(left.rate).item(),
        f"turn rate right (truth {-RATE}) [rad/s]": torch.as_tensor(right.rate).item(),
        "noise of the radar (truth 5) [m]": math.sqrt(
            float(torch.as_tensor(radar.noise_variance).detach())
        ),
        "motion right after learning, smoother [%]": _right(smoothed.mean, z[: len(y)]),
    }


def _error(estimate: Tensor, truth: Tensor) -> float:
    return (estimate - truth).square().sum(-1).mean().sqrt().item()


def _right(mean: Tensor, z: Tensor) -> float:
    same = mean[..., MODES].argmax(-1) == z[..., MODES].argmax(-1)
    return 100 * same.double().mean().item()


if __name__ == "__main__":
    main()
