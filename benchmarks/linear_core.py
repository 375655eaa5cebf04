"""The linear core beside its peers: seconds, memory and agreement, in one process.

Run: OMP_NUM_THREADS=1 python benchmarks/linear_core.py [--peers FOLDER] [--device cuda] [--short]

Median of the CPU time of several calls (wall time on CUDA), forward alone and forward with
backward. Memory is the peak of forward with backward above what was in use: of the process on CPU
(`VmHWM`, Linux), of the allocator on CUDA. `bandwidth` is the traffic that cannot be avoided (the
large input read once, the output written once, and twice that with gradients) over the time, as a
share of the speed of `x.clone()`. Every row is compared with the first of its table.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import math
import statistics
import time as clock
from collections.abc import Callable
from pathlib import Path
from typing import Any

import linear_core_peers as peers
import torch
from torch import Tensor

from deepssm.linear import (
    Bilinear,
    Diagonal,
    LinearSystem,
    LowRankPlusDiagonal,
    View,
    chunked,
    convolved,
    diagonal_scan,
    innovations,
    legs,
    scanned,
    selective_scan,
)

Case = Callable[..., Tensor]


def seconds(call: Callable[[], object], device: torch.device, repeats: int = 7) -> float:
    """Return the median time of a call."""
    call()
    times = []
    for _ in range(repeats):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = clock.perf_counter() if device.type == "cuda" else clock.process_time()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        end = clock.perf_counter() if device.type == "cuda" else clock.process_time()
        times.append(end - start)
    return statistics.median(times)


def peak_megabytes(call: Callable[[], object], device: torch.device) -> float:
    """Return the peak memory of a call above what was in use."""
    gc.collect()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    call()
    return (_status("VmHWM") - before) / 2**10


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def table(
    title: str, cases: dict[str, Case | None], leaves: list[Tensor], device: torch.device
) -> None:
    """Time every case on the same leaves, forward and with gradients of all of them."""
    print(f"\n{title}\n{'':24} forward s  ratio   fwd+bwd s  ratio    peak MB", end="")
    print("  max rel diff  bandwidth")
    first: tuple[Tensor, float, float] | None = None
    copy = seconds(leaves[-1].detach().clone, device) / 2
    for name, case in cases.items():
        if case is None:
            continue
        with torch.no_grad():
            y = case(*leaves)
            forward = seconds(lambda case=case: case(*leaves), device)

        def train(case: Case = case) -> object:
            inputs = [x.detach().requires_grad_() for x in leaves]
            return torch.autograd.grad(case(*inputs).abs().square().sum(), inputs)

        both, memory = seconds(train, device, 5), peak_megabytes(train, device)
        first = first or (y, forward, both)
        difference = ((y - first[0]).abs().max() / first[0].abs().max()).item()
        print(
            f"{name:24} {forward:9.4f} {first[1] / forward:6.2f} {both:11.4f} "
            f"{first[2] / both:6.2f} {memory:10.0f} {difference:13.1e} "
            f"{2 * copy / forward:6.0%} {4 * copy / both:5.0%}"
        )


def plain_s4d(
    log_dt: Tensor, log_decay: Tensor, frequency: Tensor, C: Tensor, u: Tensor
) -> Tensor:
    """The published listing: all `H x N x L` exponentials, then an FFT of twice the length."""
    time = u.shape[-1]
    A = torch.complex(-log_decay.exp(), frequency)
    scaled = A * log_dt.exp()[:, None]
    powers = (scaled[..., None] * torch.arange(time, device=u.device)).exp()
    kernel = 2 * torch.einsum("hn,hnl->hl", C * (scaled.exp() - 1) / A, powers).real
    product = torch.fft.rfft(u, n=2 * time) * torch.fft.rfft(kernel, n=2 * time)
    return torch.fft.irfft(product, n=2 * time)[..., :time]


def s4d_by(view: View) -> Case:
    def apply(
        log_dt: Tensor, log_decay: Tensor, frequency: Tensor, C: Tensor, u: Tensor
    ) -> Tensor:
        dt = log_dt.exp()[:, None]
        A = torch.complex(-log_decay.exp(), frequency) * dt
        B = dt.to(A.dtype).expand_as(A)[..., None]
        system = LinearSystem(Diagonal(A), B, C[:, None])
        return system.apply(u[..., None], view=view)[..., 0]

    return apply


def s4d_table(
    found: dict[str, Any], device: torch.device, batch: int, time: int, channels: int, modes: int
) -> None:
    torch.manual_seed(0)
    leaves = [
        math.log(1e-3) + math.log(100) * torch.rand(channels),
        torch.full((channels, modes), math.log(0.5)),
        math.pi * torch.arange(modes).float().expand(channels, modes).clone(),
        torch.randn(channels, modes, dtype=torch.complex64),
        torch.randn(batch, channels, time),
    ]
    leaves = [x.to(device) for x in leaves]

    def peer(*parts: Tensor) -> Tensor:
        apply = peers.s4d(found, parts[:-1])
        assert apply is not None
        return apply(parts[-1])

    cases: dict[str, Case | None] = {
        "published listing": plain_s4d,
        "state-spaces s4d.py": peer if "s4d" in found else None,
        "convolved": s4d_by(convolved),
        "chunked": s4d_by(chunked),
    }
    if batch * time * channels * modes <= 4_194_304 or device.type == "cuda":
        cases["scanned"] = s4d_by(scanned)
    table(f"S4D, B {batch} L {time} H {channels} N {modes}", cases, leaves, device)


def scan_table(found: dict[str, Any], device: torch.device) -> None:
    torch.manual_seed(0)
    gates = torch.polar(0.2 * torch.rand(32) + 0.8, torch.randn(32)).to(device)
    drive = torch.randn(8, 4096, 32, dtype=torch.complex64, device=device)
    cases: dict[str, Case | None] = {
        "diagonal_scan": lambda a, b: diagonal_scan(a[None], b),
        "diagonal_scan, varying": lambda a, b: diagonal_scan(a.expand_as(b), b),
        "torch associative_scan": peers.torch_scan,
        "mambapy": peers.mambapy(found),
        "accelerated-scan ref": peers.accelerated(found),
    }
    table("Scan of S5 size, B 8 L 4096 P 32 complex", cases, [gates, drive], device)


def selective_table(found: dict[str, Any], device: torch.device) -> None:
    torch.manual_seed(0)
    A = -torch.arange(1, 17).float().expand(64, -1).clone()
    parts = [A, torch.randn(4, 2048, 1, 16), torch.randn(4, 2048, 1, 16)]
    parts += [0.1 * torch.rand(4, 2048, 64), torch.randn(4, 2048, 64)]

    def plain(A: Tensor, B: Tensor, C: Tensor, delta: Tensor, u: Tensor) -> Tensor:
        gates, drive = (delta[..., None] * A).exp(), (delta * u)[..., None] * B
        z, outputs = torch.zeros_like(drive[:, 0]), []
        for a, b, c in zip(gates.unbind(1), drive.unbind(1), C.unbind(1), strict=True):
            z = a * z + b
            outputs.append((z * c).sum(-1))
        return torch.stack(outputs, 1)

    def ours(A: Tensor, B: Tensor, C: Tensor, delta: Tensor, u: Tensor) -> Tensor:
        return selective_scan(u, delta, A, B, C)[0]

    scan = peers.mambapy_varying(found)

    def peer(A: Tensor, B: Tensor, C: Tensor, delta: Tensor, u: Tensor) -> Tensor:
        assert scan is not None
        states = scan((delta[..., None] * A).exp(), delta[..., None] * B * u[..., None])
        return (states @ C.mT)[..., 0]

    cases: dict[str, Case | None] = {
        "loop": plain,
        "mambapy": peer if scan is not None else None,
        "selective_scan": ours,
    }
    table("Selective scan, B 4 L 2048 D 64 N 16", cases, [x.to(device) for x in parts], device)


def s4_table(found: dict[str, Any], device: torch.device) -> None:
    channels, modes, time = 64, 32, 4096
    start = legs(2 * modes).modes()
    poles, P = start.eigenvalues.to(torch.complex64), start.low_rank.to(torch.complex64)
    C = torch.randn(channels, 1, modes, dtype=torch.complex64)
    dt = torch.logspace(-3, -1, channels)[:, None]
    B = (start.B.to(torch.complex64) * dt)[..., None]

    def kernel(C: Tensor, dt: Tensor) -> Tensor:
        structure = LowRankPlusDiagonal(poles * dt, P * dt[..., None].sqrt())
        return LinearSystem(structure, B, C, None, Bilinear()).kernel(time)

    print(f"\nS4 kernel, L {time} H {channels} N {modes} (their parameters differ)")
    if device.type == "cuda":
        return
    rows = {"ours, complex128": (lambda: kernel(C, dt), [C, dt, poles, P])}
    theirs = peers.s4(found, channels, modes, time)
    if theirs is not None:
        rows["state-spaces s4.py"] = theirs
    for name, (call, parameters) in rows.items():
        with torch.no_grad():
            forward = seconds(call, device, 5)
        for parameter in parameters:
            parameter.requires_grad_()

        def train(call: Callable[[], Tensor] = call, wrt: list[Tensor] = parameters) -> object:
            return torch.autograd.grad(call().square().sum(), wrt, allow_unused=True)

        both, memory = seconds(train, device, 3), peak_megabytes(train, device)
        print(f"{name:24} {forward:9.4f} s, with gradients {both:9.4f} s {memory:8.0f} MB")


def kalman_table(device: torch.device) -> None:
    torch.manual_seed(0)
    n, m, batch, time = 8, 4, 32, 4096
    A = torch.randn(n, n, dtype=torch.float64)
    A = 0.95 * A / torch.linalg.eigvals(A).abs().max()
    C, L = torch.randn(m, n, dtype=torch.float64), torch.randn(n, n, dtype=torch.float64)
    Q, R = L @ L.mT, torch.eye(m, dtype=torch.float64)
    A, C, Q, R = (x.to(device) for x in (A, C, Q, R))
    y = torch.randn(batch, time, m, dtype=torch.float64, device=device)

    def batched(y: Tensor) -> Tensor:
        z = y.new_zeros(batch, n)
        P, outputs = Q.expand(batch, n, n), []
        for t in range(time):
            z, P = z @ A.mT, A @ P @ A.mT + Q
            K = torch.linalg.solve(C @ P @ C.mT + R, C @ P).mT
            z = z + (K @ (y[:, t] - z @ C.mT)[..., None])[..., 0]
            P = P - K @ C @ P
            outputs.append(z)
        return torch.stack(outputs, 1)

    print(f"\nKalman filter means, B {batch} L {time} n {n} m {m}, float64")
    first = None
    with torch.no_grad():
        for name, call in (
            ("batched sequential", lambda: batched(y)),
            ("innovations, chunked", lambda: innovations(A, C, Q, R).apply(y, view=chunked)),
            ("innovations, convolved", lambda: innovations(A, C, Q, R).apply(y, view=convolved)),
        ):
            result, spent = call(), seconds(call, device, 3)
            first = first or (result, spent)
            # The first steps differ: the sequential filter has not settled yet.
            error = (result - first[0])[:, time // 2 :].abs().max().item()
            print(
                f"{name:24} {spent:9.4f} s {first[1] / spent:6.1f} times, settled mean {error:.1e}"
            )


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", type=Path, help="folder with the peers' code")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--short", action="store_true", help="one size of S4D instead of three")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    found = peers.load(options.peers) if options.peers else {}
    name = torch.cuda.get_device_name() if device.type == "cuda" else "one CPU thread"
    print(f"torch {torch.__version__}, {name}; ratios are to the first row of each table")
    for batch, time in ((8, 4096), (32, 1024), (1, 16384))[: 1 if options.short else 3]:
        s4d_table(found, device, batch, time, 64, 32)
    scan_table(found, device)
    selective_table(found, device)
    s4_table(found, device)
    kalman_table(device)


if __name__ == "__main__":
    main()
