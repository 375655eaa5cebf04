"""Moving house from filterpy: six of its filters beside ours, on the same readings.

A cart on a spring, seen from the side (linear) and by a range finder on a mast (nonlinear).
Each filter of filterpy is set up as its users set it up, run, and handed to `from_filterpy`;
the largest difference of the filtered means is printed. Then what filterpy does not have: the
spring's stiffness is learnt from the readings, and a thousand series are filtered in one call.

Run: python examples/from_filterpy.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from filterpy.kalman import (
    CubatureKalmanFilter,
    EnsembleKalmanFilter,
    ExtendedKalmanFilter,
    IMMEstimator,
    KalmanFilter,
    MerweScaledSigmaPoints,
    UnscentedKalmanFilter,
)
from torch import Tensor, nn

import deepssm as ds
from deepssm.interop import from_filterpy

DT, HEIGHT, AWAY = 0.1, 2.0, 3.0
F = np.array([[1.0, DT], [-0.4, 0.95]])
Q, R, P = np.diag([1e-4, 1e-2]), np.array([[0.04]]), np.diag([0.5, 0.5])
X = np.array([1.5, 0.0])


def fx(x: np.ndarray, dt: float) -> np.ndarray:
    """Move the cart, as filterpy wants it."""
    return F @ x


def hx(x: np.ndarray) -> np.ndarray:
    """Measure the distance to the range finder, as filterpy wants it."""
    return np.sqrt(HEIGHT**2 + (AWAY + x[:1]) ** 2)


def h(z: Tensor, u: Tensor | None) -> Tensor:
    """Measure the distance, as this library wants it: any leading axes."""
    return (HEIGHT**2 + (AWAY + z[..., :1]) ** 2).sqrt()


def set_up(kf: Any, column: bool = False) -> Any:  # noqa: ANN401
    """Give a filter of filterpy its numbers."""
    kf.x, kf.P, kf.Q, kf.R = X[:, None].copy() if column else X.copy(), P.copy(), Q, R
    if hasattr(kf, "F"):
        kf.F = F
    if hasattr(kf, "H"):
        kf.H = np.array([[1.0, 0.0]])
    return kf


def loop(kf: Any, zs: np.ndarray, **options: Any) -> np.ndarray:  # noqa: ANN401
    """Filter as filterpy's users do."""
    means = []
    for z in zs:
        kf.predict()
        kf.update(z, **options)
        means.append(np.array(kf.x).ravel())
    return np.stack(means)


def range_slope(x: np.ndarray) -> np.ndarray:
    """Return the Jacobian that filterpy's extended filter wants by hand."""
    return np.array([[(AWAY + x[0]) / hx(x)[0], 0.0]])


def bank() -> IMMEstimator:
    """Return two springs, one of which the cart may be on."""
    filters = [set_up(KalmanFilter(2, 1)) for _ in range(2)]
    filters[1].F = np.array([[1.0, DT], [-0.1, 0.95]])
    return IMMEstimator(filters, np.array([0.5, 0.5]), np.array([[0.95, 0.05], [0.05, 0.95]]))


def compare(time: int, members: int) -> dict[str, float]:
    """Return the largest difference of filtered means of each kind of filter."""
    rng = np.random.default_rng(0)
    x, truth = X, []
    for _ in range(time):
        x = F @ x + rng.multivariate_normal(np.zeros(2), Q)
        truth.append(x)
    states = np.stack(truth)
    side = states[:, :1] + 0.2 * rng.normal(size=(time, 1))
    above = np.stack([hx(x) for x in states]) + 0.2 * rng.normal(size=(time, 1))
    points = MerweScaledSigmaPoints(2, alpha=0.5, beta=2.0, kappa=1.0)
    np.random.seed(0)
    kinds: dict[str, tuple[Callable[[], Any], np.ndarray, dict[str, Any], dict[str, Any]]] = {
        "KalmanFilter": (lambda: set_up(KalmanFilter(2, 1)), side, {}, {}),
        "ExtendedKalmanFilter": (
            lambda: set_up(ExtendedKalmanFilter(2, 1)),
            above,
            {"HJacobian": range_slope, "Hx": hx},
            {"emission": h},
        ),
        "UnscentedKalmanFilter": (
            lambda: set_up(UnscentedKalmanFilter(2, 1, DT, hx, fx, points)),
            above,
            {},
            {},
        ),
        "CubatureKalmanFilter (see the README)": (
            lambda: set_up(CubatureKalmanFilter(2, 1, DT, hx, fx), column=True),
            above,
            {},
            {},
        ),
        "EnsembleKalmanFilter (random)": (
            lambda: set_up(EnsembleKalmanFilter(X, P, 1, DT, members, hx, fx)),
            above,
            {},
            {},
        ),
        "IMMEstimator": (bank, side, {}, {}),
    }
    differences = {}
    for name, (build, zs, update, changes) in kinds.items():
        moved = from_filterpy(build(), **changes)
        model, method = moved if isinstance(moved, tuple) else (moved, None)
        ours = ds.filter(model, zs, method=method).mean[..., -2:].detach().numpy()
        differences[f"{name}: largest difference"] = float(
            np.abs(loop(build(), zs, **update) - ours).max()
        )
    return differences


class Spring(nn.Module):
    """The same cart in torch, its stiffness to be learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.stiffness = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))

    def forward(self, z: Tensor, u: Tensor | None, dt: Tensor | None) -> Tensor:
        """Move the cart."""
        pull = 0.95 * z[..., 1] - self.stiffness * z[..., 0]
        return torch.stack((z[..., 0] + DT * z[..., 1], pull), -1)


def learn(series: int, time: int) -> dict[str, float]:
    """Learn the stiffness through the unscented filter from many series at once."""
    kf = set_up(UnscentedKalmanFilter(2, 1, DT, hx, fx, MerweScaledSigmaPoints(2, 1.0, 0.0, 0.0)))
    truth, _ = from_filterpy(kf)
    y = ds.simulate(truth, time, num_samples=series, generator=torch.Generator().manual_seed(1)).y
    spring = Spring()
    model, method = from_filterpy(kf, transition=spring, emission=h)
    learner = ds.inference.MaximumLikelihood(inference=method)
    ds.fit(model, y, method=learner, progress=False)
    return {"stiffness learnt (0.4 in truth)": spring.stiffness.item()}


def main(time: int = 100, members: int = 1_000, quick: bool = False) -> dict[str, float]:
    """Print differences between both libraries, and the stiffness learnt.

    Args:
        time: Number of readings.
        members: Of the ensemble.
        quick: Fewer of both.
    """
    time, members = (20, 100) if quick else (time, members)
    found = compare(time, members) | learn(5 if quick else 1_000, time)
    for name, value in found.items():
        print(f"{name:60} {value:.3g}")
    return found


if __name__ == "__main__":
    main()
