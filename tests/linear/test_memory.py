"""HiPPO memories against projections computed by quadrature, and published error levels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from deepssm.linear import Bilinear, Dense, LinearSystem, ScaledMemory, SlidingMemory, legs
from deepssm.linear.memory import legendre

F64 = torch.float64


def signal() -> tuple[Tensor, Tensor]:
    """Return `sin(6 pi t)` at the middle of 1000 cells of [0, 1], and those times."""
    t = (torch.arange(1000, dtype=F64) + 0.5) / 1000
    return (6 * math.pi * t).sin(), t


def relative_error(result: Tensor, expected: Tensor) -> float:
    return ((result - expected).norm() / expected.norm()).item()


def test_exact_memory_reconstructs_a_sine() -> None:
    u, t = signal()
    memory = ScaledMemory(32)
    assert relative_error(memory.recall(memory.remember(u)[-1], t), u) <= 1.02e-4


@pytest.mark.parametrize(("rule", "expected"), [(Bilinear(), 5.5e-3), (Bilinear(1.0), 3.3e-2)])
def test_inexact_steps_cost_what_was_measured_elsewhere(rule: Bilinear, expected: float) -> None:
    """The reference implementation's steps of `1/k` instead of `log((k+1)/k)`."""
    u, t = signal()
    hippo = legs(32)
    system = LinearSystem(Dense(hippo.A), hippo.B[:, None], torch.eye(32, dtype=F64), None, rule)
    steps = 1 / torch.arange(1, 1001, dtype=F64)
    coefficients = system.apply(u[:, None], dt=steps)[-1]
    error = relative_error(ScaledMemory(32).recall(coefficients, t), u)
    assert abs(error / expected - 1) <= 0.1


def test_coefficients_are_the_projection_at_every_time() -> None:
    """Quadrature of the held signal against the polynomials, at irregular times."""
    torch.manual_seed(2)
    times = torch.rand(30, dtype=F64).cumsum(0)
    u = torch.randn(2, 30, dtype=F64)
    coefficients = ScaledMemory(6).remember(u, times)
    nodes, weights = np.polynomial.legendre.leggauss(8)
    edges = torch.cat([torch.zeros(1, dtype=F64), times])
    for k in (0, 1, 12, 29):
        expected = torch.zeros(2, 6, dtype=F64)
        for i in range(k + 1):
            half = (edges[i + 1] - edges[i]) / 2
            s = edges[i] + half * (1 + torch.from_numpy(nodes))
            cell = legendre(6, s / times[k]) @ torch.from_numpy(weights) * half / times[k]
            expected += u[:, i, None] * cell
        torch.testing.assert_close(coefficients[:, k], expected, rtol=1e-11, atol=1e-11)


def test_constant_signal_is_remembered_exactly() -> None:
    coefficients = ScaledMemory(32).remember(torch.ones(1000, dtype=F64))
    expected = torch.zeros(1000, 32, dtype=F64)
    expected[:, 0] = 1.0
    assert (coefficients - expected).abs().max() <= 1e-12


def test_sliding_memory_delays() -> None:
    """Window 2, step 1/500: at a jump of the held input, polynomials meet in the middle."""
    t = torch.arange(2500, dtype=F64) / 500
    u = (2 * math.pi * t).sin()
    memory = SlidingMemory(32, window=2.0)
    places = torch.tensor([0.0, 0.5], dtype=F64)
    delayed = memory.recall(memory.remember(u, 1 / 500), places)[1500:]
    for place, delay in enumerate((1000, 500)):
        middle = (u[1500 - delay : 2500 - delay] + u[1501 - delay : 2501 - delay]) / 2
        assert (delayed[:, place] - middle).square().mean().sqrt() <= 1e-3
    slow = (math.pi * t).sin()
    delayed = memory.recall(memory.remember(slow, 1 / 500), places)[1500:, 0]
    assert (delayed - slow[500:1500]).square().mean().sqrt() <= 4e-3


def test_sliding_memory_recalls_the_signal_of_the_recorded_case() -> None:
    """Recorded elsewhere: 3e-3 from `u(t-2)` and 1.1 from `u(t-1)`; `sin(4.5 t)` has both.

    The first is the half step by which a held input lags, `frequency dt / sqrt(8)`.
    """
    t = torch.arange(2500, dtype=F64) / 500
    u, memory = (4.5 * t).sin(), SlidingMemory(32, window=2.0)
    recalled = memory.recall(memory.remember(u, 1 / 500), torch.zeros(1, dtype=F64))[1500:, 0]
    assert (recalled - u[500:1500]).square().mean().sqrt() <= 4e-3
    assert 1.0 < (recalled - u[1000:2000]).square().mean().sqrt() < 1.2


def test_memory_of_one_sample_and_bad_times() -> None:
    one = ScaledMemory(3).remember(torch.tensor([2.0]))
    assert one.tolist() == [[2.0, 0.0, 0.0]]
    with pytest.raises(ValueError, match="`times` must be positive and growing"):
        ScaledMemory(3).remember(torch.zeros(2), torch.tensor([1.0, 1.0]))
