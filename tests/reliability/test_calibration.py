"""Simulation-based calibration: the truth is one more draw from its own posterior.

Draw a path and data from the model, then paths from the posterior given the data; the rank of any
functional of the true path among those of the draws is uniform. The model has a lopsided `A`, a
`Q` that changes in time, weak data and gaps, without which several known bugs go unseen.

Source: Talts et al. (2018), arXiv 1804.06788; Modrák et al. (2023), Bayesian Analysis.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import deepssm as ds
from deepssm.core.model import GaussianInitial, LinearConditional, LinearParameters
from tests import oracles
from tests.given import Given

TIME = 16
FUNCTIONALS: dict[str, Callable[[Tensor], Tensor]] = {
    "a state": lambda z: z[..., 7, 1],
    "a maximum": lambda z: z[..., 0].amax(-1),
    "the roughness of a path": lambda z: z[..., 0].diff(dim=-1).square().sum(-1),
}


def model() -> LinearParameters:
    double = torch.float64
    A = torch.tensor([[[0.9, 0.5], [-0.2, 0.7]]], dtype=double)
    Q = torch.tensor([[0.4, 0.1], [0.1, 0.2]], dtype=double)
    growth = torch.linspace(0.2, 3.0, TIME, dtype=double)[:, None, None]
    C = torch.tensor([[[1.0, 0.2], [0.3, -1.0]]], dtype=double)
    R = torch.tensor([[[3.0, 1.0], [1.0, 2.0]]], dtype=double)
    P0 = torch.tensor([[2.0, -0.5], [-0.5, 1.0]], dtype=double)
    return LinearParameters(
        GaussianInitial(torch.tensor([1.0, -1.0], dtype=double), P0),
        LinearConditional(A, torch.full((1, 2), 0.1, dtype=double), growth * Q),
        LinearConditional(C, torch.tensor([[0.5, -0.5]], dtype=double), R),
    )


def simulate(params: LinearParameters, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Paths and data, `(count, time, ...)`, by the definition of the model."""
    rng = np.random.default_rng(seed)
    (A, b, Q), (C, d, R) = ([x.numpy() for x in part] for part in params[1:])
    LQ, LR = np.linalg.cholesky(Q), np.linalg.cholesky(R)[0]
    z = np.empty((count, TIME, 2))
    noise = rng.normal(size=z.shape)
    start, cov = (x.numpy() for x in params.initial[:2])
    z[:, 0] = start + noise[:, 0] @ np.linalg.cholesky(cov).T
    for t in range(1, TIME):
        z[:, t] = z[:, t - 1] @ A[0].T + b[0] + noise[:, t] @ LQ[t].T
    y = z @ C[0].T + d[0] + rng.normal(size=z.shape) @ LR.T
    return torch.from_numpy(z), oracles.punch_holes(torch.from_numpy(y), 0.3, seed)


def ranks(count: int, draws: int, seed: int) -> dict[str, np.ndarray]:
    params = model()
    z, y = simulate(params, count, seed)
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, list[Tensor]] = {name: [] for name in FUNCTIONALS}
    # Small parts: below the amount of data for which `Kalman` compiles a kernel of its own.
    for truth, data in zip(z.split(60), y.split(60), strict=True):
        paths = ds.sample_posterior(Given(params), data, num_samples=draws, generator=generator)
        for name, f in FUNCTIONALS.items():
            parts[name].append((f(paths) < f(truth)).sum(0))
    return {name: torch.cat(part).numpy() for name, part in parts.items()}


def assert_uniform(found: np.ndarray, draws: int, bins: int, alpha: float) -> None:
    counts = np.bincount(found * bins // (draws + 1), minlength=bins)
    assert stats.chisquare(counts).pvalue > alpha, counts


def coverage(found: np.ndarray, draws: int) -> float:
    """Share of truths inside the central 80 % of their draws."""
    tail = (draws + 1) // 10
    return float(((found >= tail) & (found < draws + 1 - tail)).mean())


def test_ranks_of_the_truth_are_uniform() -> None:
    """Fails by chance with probability 3e-4 for the ranks and 2e-4 for the coverage."""
    for found in ranks(300, 19, 11).values():
        assert_uniform(found, 19, 10, 1e-4)
        assert abs(coverage(found, 19) - 0.8) < 4 * (0.16 / 300) ** 0.5


@pytest.mark.slow
def test_ranks_of_a_thousand_truths() -> None:
    """Chi-square at 1e-4; 80 % intervals cover 77 to 83 %, 2.4 standard errors each way."""
    for name, found in ranks(1000, 99, 12).items():
        assert_uniform(found, 99, 20, 1e-4)
        assert 0.77 <= coverage(found, 99) <= 0.83, (name, coverage(found, 99))


def test_calibration_notices_independent_marginals() -> None:
    """Draws with the right marginals and no memory fail on the path alone."""
    params = model()
    z, y = simulate(params, 300, 13)
    smoothed = ds.smooth(Given(params), y)
    noise = torch.randn(39, *z.shape, dtype=torch.float64)
    paths = smoothed.mean + (torch.linalg.cholesky(smoothed.cov) @ noise[..., None])[..., 0]
    state, _, path = ((f(paths) < f(z)).sum(0).numpy() for f in FUNCTIONALS.values())
    assert_uniform(state, 39, 10, 1e-4)
    with pytest.raises(AssertionError):
        assert_uniform(path, 39, 10, 1e-4)
