"""A filter of filterpy in generic position, its data, and how close ours must come."""

from __future__ import annotations

import numpy as np
import torch
from filterpy.kalman import KalmanFilter

NONE_AT = (0, 4, 5, 11)


def generic_filter(column: bool = False, inputs: int = 0) -> KalmanFilter:
    kf = KalmanFilter(dim_x=3, dim_z=2, dim_u=inputs)
    rng = np.random.default_rng(0)
    kf.F = np.array([[0.9, 0.3, 0.0], [-0.2, 0.8, 0.1], [0.0, 0.4, 0.5]])
    kf.H = rng.normal(size=(2, 3))
    for name, size in (("Q", 3), ("R", 2), ("P", 3)):
        root = rng.normal(size=(size, size))
        setattr(kf, name, root @ root.T + 0.2 * np.eye(size))
    kf.x = rng.normal(size=(3, 1) if column else 3)
    if inputs:
        setattr(kf, "B", rng.normal(size=(3, inputs)))  # noqa: B010
    return kf


def measurements(column: bool = False, time: int = 20) -> list[np.ndarray | None]:
    rng = np.random.default_rng(1)
    zs = rng.normal(size=(time, 2, 1) if column else (time, 2))
    return [None if t in NONE_AT else z for t, z in enumerate(zs)]


def assert_close(ours: torch.Tensor, theirs: np.ndarray) -> None:
    np.testing.assert_allclose(
        ours.detach().numpy(), theirs.reshape(ours.shape), rtol=1e-10, atol=1e-10
    )
