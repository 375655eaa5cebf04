"""Random models over scales, ranks, duplicates, gaps: what nobody hand-picked."""

from __future__ import annotations

import numpy as np
import torch

from deepssm.core.model import GaussianInitial, LinearConditional, LinearParameters
from tests import oracles

from .cases import Case, simulate

Array = np.ndarray


def random_case(seed: int, *, time: int = 30) -> Case:
    """Draw a model of 1 to 5 states and 1 to 3 sensors, badly scaled in every way at once."""
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    axes = (time,) if rng.random() < 0.3 else (1,)
    A = _transition(rng, n, axes)
    Q = 10.0 ** rng.uniform(-6, 2) * _covariance(rng, n, _rank(rng, n, 0.5), axes)
    R = 10.0 ** rng.uniform(-6, 2) * _covariance(rng, m, _rank(rng, m, 0.25), axes)
    P0 = 10.0 ** rng.uniform(-6, 10) * _covariance(rng, n, _rank(rng, n, 0.25))
    C = rng.normal(size=(1, m, n))
    if m > 1 and rng.random() < 0.25:
        C[:, 1] = C[:, 0]
    if rng.random() < 0.15:
        C[..., rng.integers(n)] = 0
    params = scaled(
        _parameters(A, Q, C, R, rng.normal(size=n), P0), _units(rng, n), _units(rng, m)
    )
    y = simulate(params, time, seed, _modest(params.initial.cov))
    if rng.random() < 0.5:
        y = oracles.punch_holes(y, 0.3, seed)
    return Case(params, y)


def singular_noise_case(seed: int, *, time: int = 30) -> Case:
    """Draw a model whose `Q` has rank below `n`, everything else regular."""
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(2, 6)), int(rng.integers(1, 4))
    rank = int(rng.integers(0, n))
    A, C = _transition(rng, n, (1,)), rng.normal(size=(1, m, n))
    Q = 10.0 ** rng.uniform(-3, 1) * _covariance(rng, n, rank, (1,))
    R = 10.0 ** rng.uniform(-3, 1) * _covariance(rng, m, m + 1, (1,))
    P0 = 10.0 ** rng.uniform(-3, 6) * _covariance(rng, n, n + 1)
    params = scaled(
        _parameters(A, Q, C, R, rng.normal(size=n), P0), _units(rng, n), _units(rng, m)
    )
    y = simulate(params, time, seed, _modest(params.initial.cov))
    return Case(params, oracles.punch_holes(y, 0.2, seed) if rng.random() < 0.5 else y)


def regular_case(seed: int, *, time: int = 30) -> Case:
    """Draw a model that nobody would call ill-conditioned."""
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    params = oracles.random_linear_gaussian(n, m, time, seed, time_varying=rng.random() < 0.3)
    y = simulate(params, time, seed)
    return Case(params, oracles.punch_holes(y, 0.2, seed) if rng.random() < 0.5 else y)


def perturbed(given: Case, seed: int) -> Case:
    """Move every number of the model and of the data by one unit in its last place."""
    rng = np.random.default_rng(seed)
    eps = torch.finfo(given.y.dtype).eps

    def jiggle(x: torch.Tensor, symmetric: bool = False) -> torch.Tensor:
        signs = torch.from_numpy(rng.choice([-1.0, 1.0], size=tuple(x.shape)))
        if symmetric:
            signs = signs.tril() + signs.tril(-1).mT
        return x * (1 + eps * signs)

    start, transition, emission = given.params
    return Case(
        LinearParameters(
            GaussianInitial(jiggle(start.mean), jiggle(start.cov, True)),
            LinearConditional(
                jiggle(transition.matrix), jiggle(transition.offset), jiggle(transition.cov, True)
            ),
            LinearConditional(
                jiggle(emission.matrix), jiggle(emission.offset), jiggle(emission.cov, True)
            ),
        ),
        jiggle(given.y),
    )


def scaled(params: LinearParameters, state: Array, obs: Array) -> LinearParameters:
    """Change the units of states and sensors; exact where the factors are powers of two."""
    s, r = torch.from_numpy(state), torch.from_numpy(obs)
    start, (A, b, Q), (C, d, R) = params
    return LinearParameters(
        GaussianInitial(start.mean * s, start.cov * s[:, None] * s),
        LinearConditional(A * s[:, None] / s, b * s, Q * s[:, None] * s),
        LinearConditional(C * r[:, None] / s, d * r, R * r[:, None] * r),
    )


def _transition(rng: np.random.Generator, n: int, axes: tuple[int, ...]) -> Array:
    """Full with a spectral radius of 0.3 to 1.1, a chain of integrators, or singular."""
    kind = rng.random()
    if kind < 0.2:
        return np.tile(np.eye(n) + np.diag(np.ones(n - 1), 1), (*axes, 1, 1))
    A = rng.normal(size=(*axes, n, n))
    A *= rng.uniform(0.3, 1.1) / np.abs(np.linalg.eigvals(A)).max(-1)[..., None, None]
    if kind > 0.9:
        A[..., -1, :] = 0
    return A


def _covariance(
    rng: np.random.Generator, size: int, rank: int, axes: tuple[int, ...] = ()
) -> Array:
    """`L L'` with `rank` columns of short numbers, so that the product is exact in float64."""
    factor = np.round(rng.normal(size=(*axes, size, rank)) * 2**16) / 2**16
    return factor @ np.swapaxes(factor, -1, -2)


def _rank(rng: np.random.Generator, size: int, deficient: float) -> int:
    return int(rng.integers(0, size)) if rng.random() < deficient else size + 1


def _units(rng: np.random.Generator, size: int) -> Array:
    """Powers of two from about 1e-6 to 1e6, or all ones."""
    return 2.0 ** rng.integers(-20, 21, size) if rng.random() < 0.5 else np.ones(size)


def _modest(cov: torch.Tensor) -> Array:
    """A start to simulate from: the prior, brought down to the size of the state's unit."""
    return (cov / max(1.0, float(cov.abs().max()))).numpy()


def _parameters(A: Array, Q: Array, C: Array, R: Array, m0: Array, P0: Array) -> LinearParameters:
    A, Q, C, R, m0, P0 = (torch.from_numpy(x) for x in (A, Q, C, R, m0, P0))  # type: ignore[assignment]
    b, d = torch.zeros(1, A.shape[-1]).double(), torch.zeros(1, C.shape[-2]).double()
    return LinearParameters(
        GaussianInitial(m0, P0),  # type: ignore[arg-type]
        LinearConditional(A, b, Q),  # type: ignore[arg-type]
        LinearConditional(C, d, R),  # type: ignore[arg-type]
    )


def skew_case(seed: int, *, time: int = 30) -> Case:
    """Draw a model in coordinates so skew that its states' parts cancel, nearly singular too.

    States are turned and stretched by up to 1e5 (a full similarity, not only other units), `Q`
    is deficient to 1e-12 of its size, some sensors have no noise and some repeat another.
    """
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    turn, _ = np.linalg.qr(rng.normal(size=(n, n)))
    other, _ = np.linalg.qr(rng.normal(size=(n, n)))
    basis = turn * 10.0 ** rng.uniform(-5, 5, n) @ other
    A = basis @ _transition(rng, n, ())[...] @ np.linalg.inv(basis)
    weak = _covariance(rng, n, n + 1) * 10.0 ** rng.uniform(-14, -10)
    Q = _covariance(rng, n, _rank(rng, n, 0.6)) + (weak if rng.random() < 0.5 else 0)
    R = 10.0 ** rng.uniform(-6, 2) * _covariance(rng, m, _rank(rng, m, 0.25))
    P0 = 10.0 ** rng.uniform(-6, 8) * _covariance(rng, n, _rank(rng, n, 0.25))
    C = rng.normal(size=(m, n)) @ np.linalg.inv(basis)
    if rng.random() < 0.25:
        row = rng.integers(m)
        R[row], R[:, row] = 0.0, 0.0
    if m > 1 and rng.random() < 0.25:
        C[1], R[1], R[:, 1] = C[0], R[0], R[:, 0]
    turned = [basis @ x @ basis.T for x in (Q, P0)]
    Q, P0 = ((x + x.T) / 2 for x in turned)
    params = _parameters(A[None], Q[None], C[None], R[None], basis @ rng.normal(size=n), P0)
    y = simulate(params, time, seed, _modest(params.initial.cov))
    return Case(params, oracles.punch_holes(y, 0.3, seed) if rng.random() < 0.5 else y)


def nearly_singular_case(seed: int, *, time: int = 30) -> Case:
    """Draw a model in badly scaled units, deficient to 1e-12 of its size in every covariance."""
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 6)), int(rng.integers(1, 4))

    def covariance(size: int, deficient: float) -> Array:
        cov = _covariance(rng, size, _rank(rng, size, deficient))
        weak = 10.0 ** rng.uniform(-14, -10) * _covariance(rng, size, size + 1)
        return cov + (weak if rng.random() < 0.5 else 0)

    A, C = _transition(rng, n, (1,)), rng.normal(size=(1, m, n))
    Q = 2.0 ** rng.integers(-20, 7) * covariance(n, 0.6)
    R = 2.0 ** rng.integers(-20, 7) * covariance(m, 0.25)
    P0 = 2.0 ** rng.integers(-20, 34) * covariance(n, 0.25)
    if rng.random() < 0.25:
        row = rng.integers(m)
        R[row], R[:, row] = 0.0, 0.0
    if m > 1 and rng.random() < 0.25:
        C[:, 1], R[1], R[:, 1] = C[:, 0], R[0], R[:, 0]
    # Powers of two keep what is singular exactly so.
    units = 2.0 ** rng.integers(-17, 18, n), 2.0 ** rng.integers(-17, 18, m)
    params = scaled(_parameters(A, Q[None], C, R[None], rng.normal(size=n), P0), *units)
    y = simulate(params, time, seed, _modest(params.initial.cov))
    return Case(params, oracles.punch_holes(y, 0.3, seed) if rng.random() < 0.5 else y)
