"""What is timed: constant-velocity models of four sizes, with their data. Needs NumPy alone."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

Task = Literal["log_likelihood", "filter", "smoother", "gradient"]
TASKS: tuple[Task, ...] = ("log_likelihood", "filter", "smoother", "gradient")
"""`gradient` is the log-likelihood and its derivatives in `A`, `Q` and `R`."""


class Case(NamedTuple):
    """A size of data: `series` series of `time` steps, and whether components are missing."""

    series: int
    time: int
    state: int
    obs: int
    gaps: bool

    @property
    def label(self) -> str:
        """Name for a table."""
        return f"B={self.series} T={self.time} n={self.state} p={self.obs}"

    @property
    def data(self) -> str:
        """Which of the two kinds of data."""
        return "20 % missing" if self.gaps else "complete"


SIZES = ((1, 10_000, 4, 2), (256, 1_000, 4, 2), (32, 4_096, 8, 4), (1, 1_000_000, 2, 1))
CASES = tuple(Case(*size, gaps) for gaps in (False, True) for size in SIZES)
QUICK = (Case(1, 500, 4, 2, gaps=False), Case(8, 200, 2, 1, gaps=True))


class Problem(NamedTuple):
    """A constant model and data; the first observation is emitted by a state from `N(m0, P0)`.

    Attributes:
        A: Transition, `(n, n)`. Q: Covariance of its noise.
        C: Emission, `(p, n)`. R: Covariance of its noise.
        m0: Mean of the first state, `(n,)`. P0: Its covariance.
        y: Observations, `(series, time, p)`, NaN where missing.
    """

    A: np.ndarray
    Q: np.ndarray
    C: np.ndarray
    R: np.ndarray
    m0: np.ndarray
    P0: np.ndarray
    y: np.ndarray

    def cut(self, series: int, time: int) -> Problem:
        """Return the same model with fewer series or steps."""
        return self._replace(y=np.ascontiguousarray(self.y[:series, :time]))


def constant_velocity(axes: int, spectral: float = 0.05, noise: float = 0.5) -> Problem:
    """A point that moves freely on `axes` axes; its position is measured. No data yet."""
    eye = np.eye(axes)
    A, Q = np.array([[1.0, 1.0], [0.0, 1.0]]), spectral * np.array([[1 / 3, 1 / 2], [1 / 2, 1.0]])
    A, Q, C = np.kron(eye, A), np.kron(eye, Q), np.kron(eye, np.array([[1.0, 0.0]]))
    before = 10.0 * np.eye(2 * axes)
    m0 = np.linspace(-1.0, 1.0, 2 * axes)
    return Problem(A, Q, C, noise * eye, m0, A @ before @ A.T + Q, np.empty((0, 0, axes)))


def simulate(case: Case, seed: int = 0) -> Problem:
    """Draw the data of a case; with gaps, each component is missing with probability 0.2."""
    rng = np.random.default_rng(seed)
    model = constant_velocity(case.obs)
    assert model.A.shape[0] == case.state, "a constant-velocity model has two states an axis"
    shock, start = np.linalg.cholesky(model.Q), np.linalg.cholesky(model.P0)
    z = model.m0 + rng.normal(size=(case.series, case.state)) @ start.T
    y = np.empty((case.series, case.time, case.obs))
    w = rng.normal(size=(case.time, case.series, case.state)) @ shock.T
    for t in range(case.time):
        z = z @ model.A.T + w[t] if t else z
        y[:, t] = z @ model.C.T
    y += rng.normal(size=y.shape) * np.sqrt(np.diagonal(model.R))
    if case.gaps:
        y[rng.random(y.shape) < 0.2] = np.nan
    return model._replace(y=y)


def save(problem: Problem, path: Path) -> None:
    """Write a problem to one file that every environment can read."""
    np.savez(path, **problem._asdict())


def load(path: Path) -> Problem:
    """Read what `save` wrote."""
    with np.load(path) as arrays:
        return Problem(**{name: arrays[name] for name in Problem._fields})
