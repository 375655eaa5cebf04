"""The exact filter of larger states, structural and irregular models, by turns with statsmodels.

Run: python benchmarks/larger_states.py [--turns 5]

Needs statsmodels (extra `test`) beside deepssm, in one process of one thread. Ratios are medians
over turns of statsmodels' processor time by ours; log-likelihoods must agree first. A gradient is
given in log-likelihoods of ours.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import ONE_THREAD
from statsmodels.tsa.statespace.kalman_smoother import (
    SMOOTHER_STATE,
    SMOOTHER_STATE_AUTOCOV,
    SMOOTHER_STATE_COV,
    KalmanSmoother,
)
from torch import Tensor

import deepssm as ds

SIZES = ((10, 5), (20, 10), (30, 3), (50, 20), (13, 100), (100, 10), (100, 100))
OUTPUT = SMOOTHER_STATE | SMOOTHER_STATE_COV | SMOOTHER_STATE_AUTOCOV
SECONDS = 0.05


def main(arguments: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    turns = parser.parse_args(arguments).turns
    torch.set_num_threads(1)
    print("| states, observations | data | log-likelihood | filter | smoother | gradient |")
    print("|---|---|---|---|---|---|")
    for n, p in SIZES:
        for gaps in (False, True):
            print(_size(n, p, gaps, turns), flush=True)
    print("\n| model | log-likelihood | gradient |\n|---|---|---|")
    for name, model, steps in _structural():
        print(_structural_row(name, model, steps, turns), flush=True)
    print(
        "\n| irregular, 20,000 steps | log-likelihood | gradient | smoother |\n|---|---|---|---|"
    )
    print(_matern(), flush=True)


def clock(call: Callable[[], object]) -> float:
    """Processor seconds of a call."""
    count, start = 0, time.process_time()
    while True:
        call()
        count += 1
        passed = time.process_time() - start
        if passed >= SECONDS:
            return passed / count


def ratio(
    ours: Callable[[], object], theirs: Callable[[], object], turns: int
) -> tuple[float, float]:
    """Our time, and how many times theirs is longer."""
    ours(), theirs()
    pairs = [(clock(ours), clock(theirs)) for _ in range(turns)]
    return statistics.median(x for x, _ in pairs), statistics.median(y / x for x, y in pairs)


def random_model(n: int, p: int) -> ds.models.LinearGaussian:
    """A stable model without structure, `R` diagonal."""
    rng = np.random.default_rng(0)
    A, C, Q = rng.normal(size=(n, n)), rng.normal(size=(p, n)), rng.normal(size=(n, n))
    A *= 0.95 / np.abs(np.linalg.eigvals(A)).max()
    parts = (A, Q @ Q.T / n + 0.1 * np.eye(n), C, np.diag(rng.uniform(0.5, 2.0, p)))
    A_, Q_, C_, R_ = (torch.tensor(x) for x in parts)
    leaves = (torch.nn.Parameter(x) for x in (A_, Q_, C_, R_))
    return ds.models.LinearGaussian(
        *leaves, m0=torch.zeros(n).double(), P0=3 * torch.eye(n).double()
    )


def peer(model: Any, y: Tensor, *, diffuse: bool = False) -> KalmanSmoother:  # noqa: ANN401
    """The same model as statsmodels' filter."""
    with torch.no_grad():
        start, (A, _, Q), (C, _, R) = model.linear_parameters(None, None)
    n, p = A.shape[-1], C.shape[-2]
    kalman = KalmanSmoother(p, n)
    kalman["transition"], kalman["state_cov"], kalman["selection"] = (
        A[0].numpy(),
        Q[0].numpy(),
        np.eye(n),
    )
    kalman["design"], kalman["obs_cov"] = C[0].numpy(), R[0].numpy()
    if diffuse:
        kalman.initialize_diffuse()
    else:
        kalman.initialize_known(start.mean.numpy(), start.cov.numpy())
    kalman.bind(np.ascontiguousarray(y.numpy()))
    return kalman


def gradient(model: torch.nn.Module, y: Tensor, dt: Tensor | None = None) -> None:
    """Log-likelihood with its gradient."""
    model.zero_grad()
    ds.log_likelihood(model, y, dt=dt).sum().backward()  # type: ignore[arg-type]


def _size(n: int, p: int, gaps: bool, turns: int) -> str:
    model, steps = random_model(n, p), 1000 if n < 60 else 300
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        y = ds.simulate(model, steps, generator=generator).y
        if gaps:
            holes = torch.rand(y.shape, generator=generator, dtype=torch.float64) < 0.2
            y = torch.where(holes, torch.nan, y)
        other = peer(model, y)
        _agree(ds.log_likelihood(model, y).sum(), other.loglike())
        pairs = (
            (lambda: ds.log_likelihood(model, y), other.loglike),
            (lambda: ds.filter(model, y), other.filter),
            (lambda: ds.smooth(model, y), lambda: other.smooth(smoother_output=OUTPUT)),
        )
        found = [ratio(*pair, turns) for pair in pairs]
    by = statistics.median(clock(lambda: gradient(model, y)) for _ in range(turns))
    cells = [f"{seconds / steps * 1e6:.1f} us, {times:.2f}" for seconds, times in found]
    data = "20 % missing" if gaps else "complete"
    return f"| {n}, {p} | {data} | {' | '.join(cells)} | {by / found[0][0]:.1f} |"


def _structural() -> list[tuple[str, Any, int]]:
    models = ds.models
    return [
        ("trend + DummySeasonal(52)", models.LocalLinearTrend() + models.DummySeasonal(52), 520),
        (
            "level + Seasonal(365.25, 10) + Seasonal(7)",
            models.LocalLevel() + models.Seasonal(365.25, 10) + models.Seasonal(7),
            2000,
        ),
        ("trend + DummySeasonal(12)", models.LocalLinearTrend() + models.DummySeasonal(12), 300),
    ]


def _structural_row(name: str, model: Any, steps: int, turns: int) -> str:  # noqa: ANN401
    noise = torch.randn(steps, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y = 30 + noise + noise.cumsum(0) / 4
    with torch.no_grad():
        other = peer(model, y, diffuse=True)
        seconds, times = ratio(lambda: ds.log_likelihood(model, y), other.loglike, turns)
    by = statistics.median(clock(lambda: gradient(model, y)) for _ in range(turns))
    return f"| {name}, {steps} steps | {seconds * 1e3:.1f} ms, {times:.2f} | {by / seconds:.1f} |"


def _matern() -> str:
    generator = torch.Generator().manual_seed(3)
    dt = 0.1 * torch.rand(20_000, generator=generator, dtype=torch.float64)
    y = (dt.cumsum(0).sin() + 0.3 * torch.randn(20_000, generator=generator).double())[:, None]
    model = ds.models.Matern(1.5)
    with torch.no_grad():
        ll = clock(lambda: ds.log_likelihood(model, y, dt=dt))
        smoother = clock(lambda: ds.smooth(model, y, dt=dt))
    by = clock(lambda: gradient(model, y, dt))
    return f"| Matern 3/2 | {ll * 1e3:.1f} ms | {by * 1e3:.1f} ms | {smoother * 1e3:.1f} ms |"


def _agree(ours: Tensor, theirs: float) -> None:
    if abs(float(ours) - theirs) > 1e-8 * abs(theirs):
        raise RuntimeError(f"log-likelihoods differ: {float(ours)} and {theirs}")


if __name__ == "__main__":
    if not os.environ.items() >= ONE_THREAD.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ONE_THREAD)
    main()
