"""The 27 stress cases: each one is where some trusted library gives a wrong answer in silence."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deepssm.core.model import GaussianInitial, LinearConditional, LinearParameters
from tests import oracles

NAN = float("nan")
A3 = [[0.9, 0.2, 0.0], [-0.1, 0.8, 0.3], [0.05, 0.0, 0.95]]
C3 = [[1.0, 0.5, 0.0], [0.0, 1.0, -0.5]]
Q3 = [[0.5, 0.125, 0.0], [0.125, 0.25, 0.0625], [0.0, 0.0625, 0.75]]
R2 = [[0.5, 0.125], [0.125, 0.25]]
P3 = [[2.0, 0.5, 0.0], [0.5, 1.0, 0.25], [0.0, 0.25, 1.5]]
M3 = [0.5, -1.0, 1.5]
WALK = [[1.0, 1.0], [0.0, 1.0]]
RANK_1 = [[0.0625, 0.125], [0.125, 0.25]]


class Case(NamedTuple):
    params: LinearParameters
    y: Tensor


Matrix = list[list[float]] | np.ndarray | Tensor


def linear(
    A: Matrix = A3,
    Q: Matrix = Q3,
    C: Matrix = C3,
    R: Matrix = R2,
    m0: list[float] | np.ndarray | Tensor = M3,
    P0: Matrix = P3,
) -> LinearParameters:
    """Parameters with a time axis of size 1 where there is none, and no offsets."""
    A, Q, C, R, m0, P0 = (torch.as_tensor(np.asarray(x), dtype=torch.float64)
                          for x in (A, Q, C, R, m0, P0))  # fmt: skip
    A, Q, C, R = (x[None] if x.ndim == 2 else x for x in (A, Q, C, R))
    b, d = A.new_zeros(1, A.shape[-1]), C.new_zeros(1, C.shape[-2])
    return LinearParameters(
        GaussianInitial(m0, P0), LinearConditional(A, b, Q), LinearConditional(C, d, R)
    )


def simulate(
    params: LinearParameters, time: int, seed: int, start: Matrix | None = None
) -> Tensor:
    """Draw `y`, `(time, obs)`; `start` replaces a `P0` too vague to draw the first state from."""
    rng = np.random.default_rng(seed)
    mean, cov = params.initial.mean.numpy(), params.initial.cov.numpy()
    (A, b, Q), (C, d, R) = ([x.numpy() for x in part] for part in params[1:])
    LQ, LR = [_root(x) for x in Q], [_root(x) for x in R]
    P0 = cov if start is None else np.asarray(start, float)
    z = mean + _root(P0) @ rng.normal(size=len(mean))
    y = np.empty((time, C.shape[-2]))
    for t in range(time):
        if t > 0:
            z = _at(A, t) @ z + _at(b, t) + _at(LQ, t) @ rng.normal(size=len(z))
        y[t] = _at(C, t) @ z + _at(d, t) + _at(LR, t) @ rng.normal(size=y.shape[1])
    return torch.from_numpy(y)


def case(name: str) -> Case:
    """Build one of the 27 cases."""
    return CASES[name]()


def cast(given: Case, dtype: torch.dtype) -> Case:
    """Round the model and the data to `dtype`."""
    start, transition, emission = given.params
    return Case(
        LinearParameters(
            start._replace(mean=start.mean.to(dtype), cov=start.cov.to(dtype)),
            LinearConditional(*(x.to(dtype) for x in transition)),
            LinearConditional(*(x.to(dtype) for x in emission)),
        ),
        given.y.to(dtype),
    )


def _root(cov: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(cov)
    return vectors * np.sqrt(values.clip(0))


def _at(x: np.ndarray | list[np.ndarray], t: int) -> np.ndarray:
    return x[t if len(x) > 1 else 0]


def _drawn(params: LinearParameters, time: int = 60, start: Matrix | None = None) -> Case:
    return Case(params, simulate(params, time, 7, start))


def _eye(n: int, scale: float = 1.0) -> np.ndarray:
    return scale * np.eye(n)


def _small_units() -> Case:
    scaled = (np.array(x) * 1e-16 for x in (Q3, R2, P3))
    Q, R, P0 = scaled
    return _drawn(linear(Q=Q, R=R, m0=np.array(M3) * 1e-8, P0=P0))


def _constant_velocity() -> Case:
    params = linear(WALK, RANK_1, [[1.0, 0.0]], [[1e-10]], [0.0, 0.0], _eye(2, 1e10))
    return _drawn(params, start=_eye(2))


def _constant_acceleration() -> Case:
    A, g = [[1.0, 1.0, 0.5], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0]], np.array([[0.5], [1.0], [1.0]])
    params = linear(A, g @ g.T / 64, [[1.0, 0.0, 0.0]], [[1e-10]], [0.0] * 3, _eye(3, 1e10))
    return _drawn(params, start=_eye(3))


def _long(time: int = 100_000) -> Case:
    A, Q = [[0.95, 0.2], [-0.1, 0.9]], [[0.25, 0.0625], [0.0625, 0.5]]
    return _drawn(linear(A, Q, [[1.0, 0.5]], [[1.0]], [1.0, -1.0], _eye(2, 4.0)), time)


def _long_hard(time: int = 100_000) -> Case:
    """An integrated walk that ends five orders above its posterior deviation."""
    Q = np.array(RANK_1) * 2.0**-15
    params = linear(WALK, Q, [[1.0, 0.0]], [[1.0]], [0.0, 0.0], _eye(2, 1e4))
    return _drawn(params, time, _eye(2))


def _unobserved(growth: float, variance: float) -> Case:
    A, Q, C, P0 = _eye(3), _eye(3, 0.25), np.zeros((2, 3)), _eye(3)
    A[:2, :2], A[2, 2] = np.array(A3)[:2, :2], growth
    C[:, :2], P0[2, 2] = [[1, 0.5], [0, 1]], variance
    return _drawn(linear(A, Q, C, R2, M3, P0), start=_eye(3))


def _growing() -> Case:
    A = np.array(A3)
    A *= 1.05 / np.abs(np.linalg.eigvals(A)).max()
    return _drawn(linear(A), 300)


def _gaps(kind: str) -> Case:
    params, y = _drawn(linear())
    if kind == "steps":
        y[[3, 10, 11, 12, 30, 45]] = NAN
    elif kind == "components":
        y = oracles.punch_holes(y, 0.3, 5)
    elif kind == "ends":
        y[:8], y[50:] = NAN, NAN
    else:
        y[:] = NAN
    return Case(params, y)


def _transformed() -> Case:
    """The base model in other coordinates, of condition 1e6."""
    params, y = _drawn(linear())
    U, _, V = np.linalg.svd(np.random.default_rng(3).normal(size=(3, 3)))
    M = U * np.array([1e3, 1.0, 1e-3]) @ V
    back = V.T / np.array([1e3, 1.0, 1e-3]) @ U.T
    turned = [M @ np.array(x) @ M.T for x in (Q3, P3)]
    Q, P0 = ((x + x.T) / 2 for x in turned)
    return Case(linear(M @ np.array(A3) @ back, Q, np.array(C3) @ back, R2, M @ M3, P0), y)


def _two_scales() -> Case:
    """States in units 1e8 apart, sensors too."""
    s, r = np.array([1e8, 1.0, 1e-8]), np.array([1e6, 1e-6])
    params, y = _drawn(linear())
    A, C = np.array(A3) * s[:, None] / s, np.array(C3) * r[:, None] / s
    Q, P0, R = (np.array(x) * np.outer(v, v) for x, v in ((Q3, s), (P3, s), (R2, r)))
    return Case(linear(A, Q, C, R, np.array(M3) * s, P0), y * torch.from_numpy(r))


def _duplicated(variance: float) -> Case:
    C = [[1.0, 0.5, 0.0], [1.0, 0.5, 0.0]]
    return _drawn(linear(C=C, R=_eye(2, variance)))


def _irregular() -> Case:
    """White-noise acceleration over random steps; some take no time at all."""
    dt = np.random.default_rng(2).exponential(1.0, 60)
    dt[[5, 6, 20, 40]] = 0.0
    A, Q = np.tile(np.eye(2), (60, 1, 1)), np.empty((60, 2, 2))
    A[:, 0, 1] = dt
    Q[:, 0, 0], Q[:, 0, 1], Q[:, 1, 0], Q[:, 1, 1] = dt**3 / 3, dt**2 / 2, dt**2 / 2, dt
    return _drawn(linear(A, Q, [[1.0, 0.0]], [[0.25]], [0.0, 1.0], _eye(2, 4.0)))


CASES: dict[str, Callable[[], Case]] = {
    "base": lambda: _drawn(linear()),
    "Q 1e-12": lambda: _drawn(linear(Q=_eye(3, 1e-12))),
    "Q = 0": lambda: _drawn(linear(Q=_eye(3, 0.0))),
    "small units": _small_units,
    "rank-1 Q": lambda: _drawn(linear(Q=np.outer([0.5, 1.0, -0.25], [0.5, 1.0, -0.25]))),
    "R 1e-10, P0 1e10": _constant_velocity,
    "constant acceleration, R 1e-10, P0 1e10": _constant_acceleration,
    "P0 1e14": lambda: _drawn(linear(P0=_eye(3, 1e14)), start=P3),
    "T = 100k": _long,
    "T = 100k, hard": _long_hard,
    "unobserved random walk": lambda: _unobserved(1.0, 1.0),
    "unobserved unstable state": lambda: _unobserved(1.2, 1.0),
    "unobserved state, P0 1e12": lambda: _unobserved(1.0, 1e12),
    "spectral radius 1.05": _growing,
    "gaps of whole steps": lambda: _gaps("steps"),
    "gaps of components": lambda: _gaps("components"),
    "gaps at both ends": lambda: _gaps("ends"),
    "nothing observed": lambda: _gaps("all"),
    "similarity transform": _transformed,
    "two scales": _two_scales,
    "one exact row": lambda: _drawn(linear(R=[[0.0, 0.0], [0.0, 0.25]])),
    "duplicated sensor, R 1e-14": lambda: _duplicated(1e-14),
    "duplicated sensor, R = 0": lambda: _duplicated(0.0),
    "irregular steps, some dt = 0": _irregular,
    "T = 1": lambda: _drawn(linear(), 1),
    "deterministic": lambda: _drawn(linear(Q=_eye(3, 0.0), P0=_eye(3, 0.0))),
    "P0 = 0": lambda: _drawn(linear(P0=_eye(3, 0.0))),
}

# The two that are long; they can be asked for at any length.
LONG: dict[str, Callable[..., Case]] = {"T = 100k": _long, "T = 100k, hard": _long_hard}
