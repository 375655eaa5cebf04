"""Where the time of a training step goes, and what it could not be faster than."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from deepssm.core.pyro_sites import observed_steps
from deepssm.ops.products import times_turned

PARTS = {
    "encoder": ("part: encoder", "CudnnRnnBackward0", "_ReluBackward", "_GruBackward",
                "CompiledReluBackward", "CompiledGruBackward"),
    "guide's recursion": ("_GatedPath", "_GatedPathBackward", "_Chain", "_ChainBackward"),
    "transition, forwards": ("part: transition_net",),
    "emission, forwards": ("part: emission_net",),
    "optimizer": ("Optimizer.step#Adam.step",),
}  # fmt: skip
"""Parts of a step by the names that the profiler gives them; none lies inside another."""

Step = Callable[[Tensor], object]
Epoch = Callable[[], Iterator[Tensor]]


def print_bounds(step: Step, epoch: Epoch, model: nn.Module, guide: nn.Module) -> None:
    """Time epochs, profile one, and print its parts beside what bounds it.

    Args:
        step: One training step.
        epoch: Gives the batches of an epoch.
        model: Its parts `transition_net` and `emission_net` are told apart.
        guide: So is its `encoder`.
    """
    device = next(model.parameters()).device
    whole = min(_seconds(step, epoch, device) for _ in range(3))
    batches = list(epoch())
    steps = sum(int(observed_steps(y).sum()) for y in batches)
    print(f"  an epoch             {whole * 1e3:9.1f} ms, {len(batches)} gradient step(s)")
    watched = [("encoder", getattr(guide, "encoder", None))]
    watched += [(name, getattr(model, name)) for name in ("transition_net", "emission_net")]
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with ExitStack() as stack:
        for name, module in watched:
            if module is not None:
                stack.enter_context(_named(name, module))
        with profile(activities=activities) as recorded:
            for y in batches:
                step(y)
            _wait(device)
    _print_parts(recorded.key_averages(), device)
    # Forwards every weight meets every row once, backwards twice; two operations each time.
    weights = sum(p.numel() for m in (model, guide) for p in m.parameters() if p.ndim > 1)
    operations, rate = 6.0 * weights * steps, _rate(device)
    print(
        f"  arithmetic alone     {operations / rate * 1e3:9.1f} ms: {operations / 1e9:.1f} GFLOP "
        f"at {rate / 1e9:.0f} GFLOP/s, a large product's rate here; "
        f"{operations / rate / whole:.0%} of the epoch"
    )


def _print_parts(events: Any, device: torch.device) -> None:  # noqa: ANN401
    """Print time by part, as the profiler slows it down, in shares of all."""
    cuda = device.type == "cuda"
    host = [e for e in events if e.device_type == torch.autograd.DeviceType.CPU]
    spent = {e.key: e.device_time_total if cuda else e.cpu_time_total for e in host}
    kernels = [e for e in events if e not in host and not e.is_user_annotation]
    busy = sum(e.self_device_time_total for e in kernels)
    total = busy if cuda else sum(e.self_cpu_time_total for e in events)
    rest = total
    for part, names in PARTS.items():
        own = sum(spent.get(name, 0.0) for name in names)
        rest -= own
        print(f"  {part:20s} {own / 1e3:9.1f} ms {own / total:6.0%}")
    print(f"  {'everything else':20s} {rest / 1e3:9.1f} ms {rest / total:6.0%}")
    if cuda:
        count = sum(e.count for e in kernels)
        print(f"  device busy          {busy / 1e3:9.1f} ms in {count} kernels; the rest of the "
              "epoch it waits for launches")  # fmt: skip


@contextmanager
def _named(name: str, module: nn.Module) -> Iterator[None]:
    """Let the profiler see the forward passes of a module."""
    plain = module._compiled_call_impl
    inner: Callable[..., Any] = plain or module._call_impl

    def call(*parts: object, **named: object) -> object:
        with record_function(f"part: {name}"):
            return inner(*parts, **named)

    # Not a hook: `torch.compile` would compile that too.
    module._compiled_call_impl = call
    yield
    module._compiled_call_impl = plain


def _seconds(step: Step, epoch: Epoch, device: torch.device) -> float:
    """Return seconds of an epoch after another: of the CPU, or of the clock for a GPU."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    for y in epoch():
        step(y)
    _wait(device)
    start = clock()
    for y in epoch():
        step(y)
    _wait(device)
    return clock() - start


def _rate(device: torch.device, size: int = 2048) -> float:
    """Return operations a second of a large product in float32."""
    left = torch.randn(size, size, device=device)
    times = []
    for _ in range(4):
        _wait(device)
        start = time.perf_counter()
        times_turned(left, left)
        _wait(device)
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
