"""One core: a deep layer and a Kalman filter of the same system run through the same function.

A damped oscillator drives both. Its response to a known force is an S4D layer; the filter that
estimates it from noisy positions is, once settled, the same kind of system, fed with data instead
of force. Each is computed by a loop, a scan, blocks and a convolution. Last, `ds.filter` with
`Kalman(backend="stationary")` does the same from the public door: it filters the first steps
exactly, until the gains have settled, and gives all others to that one function.

Run: python examples/one_core.py [steps]
"""

from __future__ import annotations

import math
import sys
import time as clock

import torch
from torch import Tensor

import deepssm as ds
from deepssm.linear import (
    Dense,
    Diagonal,
    LinearSystem,
    chunked,
    convolved,
    innovations,
    looped,
    scanned,
    van_loan,
)

VIEWS = {"loop": looped, "scan": scanned, "chunk": chunked, "convolution": convolved}
F64 = torch.float64


def oscillator() -> tuple[Tensor, Tensor]:
    """Return `A` and `B` of a pendulum of period 1 that loses its swing in a few periods."""
    frequency = 2 * math.pi
    A = torch.tensor([[0.0, 1.0], [-(frequency**2), -0.6]], dtype=F64)
    return A, torch.tensor([[0.0], [1.0]], dtype=F64)


def layer() -> LinearSystem:
    """Return the oscillator in its modes: one complex number, as a channel of S4D."""
    A, B = oscillator()
    values, vectors = torch.linalg.eig(A)
    B_modes = torch.linalg.solve(vectors, B.to(values.dtype))
    return LinearSystem(Diagonal(values[:1]), B_modes[:1], vectors[:1, :1])


def model(dt: float) -> ds.models.LinearGaussian:
    """Return the oscillator seen in positions with noise of sd 0.02, kicked with sd 1."""
    A, B = oscillator()
    transition, Q = van_loan(A, B @ B.mT, torch.tensor(dt, dtype=F64))
    return ds.models.LinearGaussian(
        transition, Q, [[1.0, 0.0]], [[0.0004]], P0=0.01 * torch.eye(2, dtype=F64)
    )


def kalman(dt: float) -> LinearSystem:
    """Return the steady Kalman filter of that model."""
    (A, _, Q), (C, _, R) = model(dt).linear_parameters(None, None)[1:]
    return innovations(A[0], C[0], Q[0], R[0])


def public_door(y: Tensor, dt: float) -> float:
    """Filter by `ds.filter`, step by step and settled; print times, return the difference."""
    means: list[Tensor] = []
    print("\n`ds.filter`, the first steps exactly, the settled ones by `LinearSystem.apply`")
    for backend in ("sequential", "stationary"):
        method = ds.inference.Kalman(backend)
        ds.filter(model(dt), y[:2], method=method)  # loads what is compiled
        start = clock.perf_counter()
        means.append(ds.filter(model(dt), y, method=method).mean)
        print(f"  {backend:>12}: {1e3 * (clock.perf_counter() - start):8.1f} ms")
    difference = (means[0] - means[1]).abs().max().item()
    print(f"  they differ by {difference:.1e}")
    return difference


def compare(title: str, system: LinearSystem, u: Tensor, dt: float | None) -> float:
    """Run one system through all views; print times and return the largest difference."""
    print(f"\n{title}: `LinearSystem.apply`, {type(system.structure).__name__} structure")
    expected, worst = system.apply(u, dt=dt, view=looped), 0.0
    for name, view in VIEWS.items():
        start = clock.perf_counter()
        y = system.apply(u, dt=dt, view=view)
        spent = clock.perf_counter() - start
        difference = (y - expected).abs().max().item()
        worst = max(worst, difference)
        print(f"  {name:>12}: {1e3 * spent:8.1f} ms, differs from the loop by {difference:.1e}")
    return worst


def main(steps: int = 5_000) -> dict[str, float]:
    """Simulate `steps` steps; print and return the differences and the filter's error."""
    torch.manual_seed(0)
    dt = 0.02
    force = torch.randn(steps, 1, dtype=F64) / math.sqrt(dt)
    deep = compare("S4D layer, force to position", layer(), force, dt)
    A, B = oscillator()
    exact = LinearSystem(Dense(A), B, torch.eye(2, dtype=F64)).apply(force, dt=dt)
    same = (layer().apply(force, dt=dt)[:, 0] - exact[:, 0]).abs().max().item()
    y = exact[:, :1] + 0.02 * torch.randn(steps, 1, dtype=F64)
    classical = compare("Kalman filter, data to estimate", kalman(dt), y, None)
    estimate = kalman(dt).apply(y)
    exact_filter = public_door(y, dt)
    raw = (y - exact[:, :1]).square().mean().sqrt().item()
    filtered = (estimate[:, 0] - exact[:, 0]).square().mean().sqrt().item()
    print(f"\nlayer against the oscillator's own matrices: {same:.1e}")
    print(f"position error: {raw:.4f} as measured, {filtered:.4f} after the filter")
    differences = {"layer": deep, "kalman": classical, "same": same, "door": exact_filter}
    return differences | {"raw": raw, "filtered": filtered}


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
