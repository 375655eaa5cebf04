"""The acceptance figures of the linear core at full size, each beside its tolerance.

Run: OMP_NUM_THREADS=1 python benchmarks/linear_core_cases.py

What other people's code computes is in `tests/linear/peer_numbers.json` and checked by
`tests/linear/test_peers.py`; speed is in `linear_core.py`, learning in `learn_*.py`.
"""

from __future__ import annotations

import math
import resource
import time as clock
from collections.abc import Callable

import numpy as np
import scipy.linalg
import scipy.signal
import torch
from torch import Tensor

from deepssm.linear import (
    Bilinear,
    Dense,
    Diagonal,
    LinearSystem,
    LowRankPlusDiagonal,
    ScaledMemory,
    SlidingMemory,
    ZeroOrderHold,
    chunked,
    convolved,
    fourier,
    innovations,
    legs,
    legt,
    looped,
    s4d_inv,
    s4d_lin,
    scanned,
    steady_state,
)

F32, F64 = torch.float32, torch.float64
VIEWS = (scanned, convolved, chunked)


def say(name: str, value: float, limit: float) -> None:
    """Print a figure, its limit, and whether it keeps it."""
    print(f"{name:62} {value:9.1e}  limit {limit:7.1e}  {'yes' if value <= limit else 'NO'}")


def relative(result: Tensor, expected: Tensor) -> float:
    return ((result - expected).abs().max() / expected.abs().max()).item()


def channels(size: int, dtype: torch.dtype) -> list[Tensor]:
    """Return `A, B, C, log dt` of S4D-Lin with 32 modes and steps from 1e-3 to 1e-1."""
    torch.manual_seed(0)
    wide = torch.complex64 if dtype == F32 else torch.complex128
    A = s4d_lin(32).to(wide).expand(size, -1).clone()
    C = torch.randn(size, 1, 32, dtype=wide)
    log_dt = torch.linspace(-6.9, -2.3, size, dtype=dtype)
    return [A, torch.ones(size, 32, 1, dtype=wide), C, log_dt]


def system(A: Tensor, B: Tensor, C: Tensor, log_dt: Tensor) -> LinearSystem:
    dt = log_dt.exp()[:, None]
    return LinearSystem(Diagonal(A * dt), B * dt[..., None], C)


@torch.no_grad()
def views(batch: int, dtype: torch.dtype, limit: float) -> None:
    """Case 1: outputs, initial state, pieces, rates."""
    model = system(*channels(64, dtype))
    for time in (4096, 4097):
        u = torch.randn(batch, 64, time, 1, dtype=dtype)
        z0 = torch.randn(batch, 64, 32, dtype=model.B.dtype)
        for start in (None, z0):
            expected, last = model.run(u, start, view=looped)
            worst = 0.0
            for view in VIEWS:
                y, z = model.run(u, start, view=view)
                worst = max(worst, relative(y, expected), relative(z, last))
            zero = "" if start is None else ", z0"
            say(f"1 views, {dtype}, B {batch} L {time}{zero}", worst, limit)
    for rate in (0.5, 1.0, 2.0):
        expected, _ = model.run(u, rate=rate, view=looped)
        worst = 0.0
        for view in VIEWS:
            z, pieces = None, []
            for piece in u.split(1025, -2):
                y, z = model.run(piece, z, rate=rate, view=view)
                pieces.append(y)
            worst = max(worst, relative(torch.cat(pieces, -2), expected))
        say(f"1 views, {dtype}, B {batch} L {time}, four pieces, rate {rate}", worst, limit)
    discrete, z, outputs = model.discretized(), None, []
    for t in range(time):
        y, z = discrete.step(u[:1, :, t], z)
        outputs.append(y)
    error = relative(torch.stack(outputs, -2), model.apply(u[:1], view=looped))
    say(f"1 step, {dtype}, B 1 L {time}", error, limit)


def gradients(dtype: torch.dtype, limit: float) -> None:
    """Case 1: gradients in A, B, C, log dt, u and the initial state."""
    leaves = [x.requires_grad_() for x in channels(16, dtype)]
    u = torch.randn(1, 16, 4097, 1, dtype=dtype, requires_grad=True)
    z0 = torch.randn(1, 16, 32, dtype=leaves[0].dtype, requires_grad=True)
    weight = torch.randn(1, 16, 4097, 1, dtype=dtype)
    results = []
    for view in (looped, *VIEWS):
        y = system(*leaves).apply(u, z0, view=view)
        results.append(torch.autograd.grad((y * weight).sum(), [*leaves, u, z0]))
    pairs = [zip(result, results[0], strict=True) for result in results[1:]]
    worst = max(relative(x, y) for pair in pairs for x, y in pair)
    say(f"1 gradients, {dtype}, B 1 L 4097 H 16", worst, limit)


def conventions() -> None:
    """Case 3: scipy's discretizations and its simulation, one sample later."""
    A, B = legs(8).A, legs(8).B[:, None]
    rules = [(ZeroOrderHold(), "zoh", None), (Bilinear(), "bilinear", None)]
    rules += [(Bilinear(0.0), "euler", None), (Bilinear(1.0), "backward_diff", None)]
    rules += [(Bilinear(0.3), "gbt", 0.3)]
    for rule, name, alpha in rules:
        continuous = (A.numpy(), B.numpy(), np.eye(8), np.zeros((8, 1)))
        expected = scipy.signal.cont2discrete(continuous, 0.01, name, alpha=alpha)
        Ad, G = rule.dense(A, torch.tensor(0.01, dtype=F64))
        error = max(abs(Ad.numpy() - expected[0]).max(), abs((G @ B).numpy() - expected[1]).max())
        say(f"3 cont2discrete {name}, LegS 8", error, 1e-12)
    for dtype, limit in ((F64, 1e-10), (F32, 4e-8)):
        model = LinearSystem(Dense(A.to(dtype)), B.to(dtype), torch.ones(1, 8, dtype=dtype))
        kernel = model.kernel(200, dt=0.01)[0, 0]
        exact = LinearSystem(Dense(A), B, torch.ones(1, 8, dtype=F64)).discretized(0.01)
        matrices = (
            exact.structure.dense().numpy(),
            exact.B.numpy(),
            exact.C.numpy(),
            np.zeros((1, 1)),
        )
        impulse = np.eye(201)[0]
        response = scipy.signal.dlsim((*matrices, 1.0), impulse)[1][1:, 0]
        error = (kernel.to(F64) - torch.from_numpy(response)).abs().max().item()
        say(f"3 impulse response against dlsim one sample later, {dtype}", error, limit)


def normal_forms() -> None:
    """Cases 4 (long, single precision) and 5."""
    for size in (4, 16, 64, 256):
        A, _, P = legs(size)
        normal = A + P @ P.mT
        eye = torch.eye(size, dtype=F64)
        say(f"5 LegS {size}: S + S' + I", (normal + normal.mT + eye).abs().max().item(), 1e-12)
        for name, measure in (("LegS", legs), ("LegT", legt), ("Fourier", fourier)):
            modes, full = measure(size).modes(), measure(size).A
            V = torch.cat([modes.basis, modes.basis.conj()], 1)
            poles = torch.cat([modes.eigenvalues, modes.eigenvalues.conj()])
            low = torch.cat([modes.low_rank, modes.low_rank.conj()])
            error = (V.mH @ V - eye).abs().max().item()
            say(f"5 {name} {size}: V unitary", error, 1e-13)
            built = V @ (torch.diag(poles) - low @ low.mH) @ V.mH
            error = (built - full).abs().max() / torch.linalg.matrix_norm(full, 2)
            say(f"5 {name} {size}: A from its modes", error.item(), 1e-10)
    published = torch.tensor([1283.425461, 414.227265, 240.387626, 165.884925], dtype=F64)
    error = (s4d_inv(32).imag[:4] / published - 1).abs().max().item()
    say("5 S4D-Inv: four numbers, printed in single precision", error, 6e-8)
    modes, C = legs(64).modes(), torch.randn(1, 64, dtype=F64)
    dense = LinearSystem(Dense(legs(64).A), legs(64).B[:, None], C, None, Bilinear())
    for dtype, limit in ((torch.complex128, 1e-10), (torch.complex64, 1e-4)):
        low = LowRankPlusDiagonal(modes.eigenvalues.to(dtype), modes.low_rank.to(dtype))
        rows = (C.to(torch.complex128) @ modes.basis).to(dtype)
        model = LinearSystem(low, modes.B[:, None].to(dtype), rows, None, Bilinear())
        error = relative(model.kernel(4096, dt=0.01).to(F64), dense.kernel(4096, dt=0.01))
        say(f"4 Cauchy kernel against matrix powers, {dtype}, N 64 L 4096", error, limit)


def memories() -> None:
    """Case 6."""
    t = (torch.arange(1000, dtype=F64) + 0.5) / 1000
    u, memory = (6 * math.pi * t).sin(), ScaledMemory(32)

    def error(coefficients: Tensor) -> float:
        return ((memory.recall(coefficients, t) - u).norm() / u.norm()).item()

    say("6 LegS 32, exact in log-time", error(memory.remember(u)[-1]), 2e-4)
    steps = 1 / torch.arange(1, 1001, dtype=F64)
    for name, alpha, expected in (("bilinear", 0.5, 5.5e-3), ("backward", 1.0, 3.3e-2)):
        rule = Bilinear(alpha)
        full = LinearSystem(Dense(legs(32).A), legs(32).B[:, None], torch.eye(32, dtype=F64))
        reached = error(full._replace(rule=rule).apply(u[:, None], dt=steps)[-1])
        say(f"6 {name}: {reached:.2e}, away from {expected:.1e}", abs(reached / expected - 1), 0.1)
    ones = memory.remember(torch.ones(1000, dtype=F64))
    say("6 constant signal", (ones - torch.eye(32, dtype=F64)[0]).abs().max().item(), 1e-12)
    t = torch.arange(5000, dtype=F64) / 500
    sliding = SlidingMemory(32, window=2.0)
    for frequency in (math.pi, 4.5, 2 * math.pi):
        u = (frequency * t).sin()
        now = sliding.recall(sliding.remember(u, 1 / 500), torch.zeros(1, dtype=F64))[2000:, 0]
        two = (now - u[1000:4000]).square().mean().sqrt().item()
        one = (now - u[1500:4500]).square().mean().sqrt().item()
        middle = (now - (u[1000:4000] + u[1001:4001]) / 2).square().mean().sqrt().item()
        # The case names no signal; it recorded 3e-3 and, for u(t-1), 1.1: those of sin(4.5 t).
        limit = math.inf if frequency > 5 else 4e-3
        say(f"6 LegT, sin({frequency:.2f} t): u(t-2) (u(t-1): {one:.2f})", two, limit)
        say(f"6 LegT, sin({frequency:.2f} t): middle of the jump of the held u(t-2)", middle, 4e-3)


def kalman() -> None:
    """Case 9: closed forms of the local level and scipy's Riccati solver."""
    q = torch.tensor([[1469.1]], dtype=F64, requires_grad=True)
    r = torch.tensor([[15099.0]], dtype=F64, requires_grad=True)
    one = torch.ones(1, 1, dtype=F64)
    steady = steady_state(one, one, q, r)
    P, K = steady.cov, steady.gain
    slopes = torch.autograd.grad(P.sum(), (q, r))
    names = (("P", P, 5501.2579418), ("K", K, 0.2670480126))
    names += (("dP/dq", slopes[0], 2.1608475066), ("dP/dr", slopes[1], 0.1541000642))
    for name, value, expected in names:
        # Printed to ten figures.
        say(f"9 Nile {name}: {value.item():.10f}", abs(value.item() / expected - 1), 1e-8)
    worst, generator = 0.0, np.random.default_rng(0)
    for _ in range(100):
        A, C = generator.standard_normal((4, 4)), generator.standard_normal((2, 4))
        L, M = generator.standard_normal((4, 4)), generator.standard_normal((2, 2))
        Q, R = L @ L.T, M @ M.T + np.eye(2)
        expected = scipy.linalg.solve_discrete_are(A.T, C.T, Q, R)
        ours = steady_state(*(torch.from_numpy(x) for x in (A, C, Q, R))).cov.detach().numpy()
        worst = max(worst, abs(ours - expected).max() / abs(expected).max())
    say("9 Riccati equation against scipy, 100 random systems", worst, 1e-10)
    torch.manual_seed(0)
    A, C = 0.5 * torch.randn(8, 8, dtype=F64), torch.randn(4, 8, dtype=F64)
    model = innovations(A, C, torch.eye(8, dtype=F64), torch.eye(4, dtype=F64))
    y = torch.randn(2, 1000, 4, dtype=F64)
    expected = model.apply(y, view=looped)
    worst = max((model.apply(y, view=view) - expected).abs().max().item() for view in VIEWS)
    say("9 steady filter: chunk, convolution, scan against steps", worst, 1e-11)


def million() -> None:
    """A million steps of one S4D channel set: time and memory."""
    for name, view in (("convolved", convolved), ("chunked", chunked)):
        leaves = [x.requires_grad_() for x in channels(4, F32)]
        u = torch.randn(1, 4, 1_000_000, 1)
        start = clock.process_time()
        y = system(*leaves).apply(u, view=view)
        torch.autograd.grad(y.square().mean(), leaves)
        spent = clock.process_time() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        print(
            f"L 1e6, H 4, N 32, {name}: {spent:.2f} CPU s with gradients, process at {peak:.0f} MB"
        )


def main() -> None:
    """Print all figures."""
    torch.set_num_threads(1)
    million()
    tasks: list[Callable[[], None]] = [conventions, normal_forms, memories, kalman]
    for task in tasks:
        task()
    gradients(F32, 1e-4)
    gradients(F64, 1e-9)
    views(8, F32, 1e-5)
    views(2, F64, 1e-11)


if __name__ == "__main__":
    main()
