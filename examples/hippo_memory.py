"""Why these layers remember: a state of 32 numbers holds a whole signal, and gives it back.

Writes `hippo_memory.svg` into the folder given, or only prints when there is none.

Run: python examples/hippo_memory.py [steps] [folder]
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch
from torch import Tensor

from deepssm.linear import ScaledMemory, SlidingMemory

F64 = torch.float64


def signal(steps: int) -> tuple[Tensor, Tensor]:
    """Return times in (0, 1] and a smooth random signal on them."""
    t = (torch.arange(steps, dtype=F64) + 0.5) / steps
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(2, 6, dtype=F64, generator=generator)
    phases = 2 * math.pi * torch.arange(1, 7, dtype=F64) * t[:, None]
    return t, phases.sin() @ weights[0] + phases.cos() @ weights[1]


def draw(folder: Path, t: Tensor, u: Tensor, whole: dict[int, Tensor], recent: Tensor) -> Path:
    """Draw the signal with what each memory recalls at the end."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(t, u, color="0.6", label="signal")
    for order, recalled in whole.items():
        above.plot(t, recalled, label=f"all of the past, {order} numbers")
    below.plot(t, u, color="0.6", label="signal")
    below.plot(t[-len(recent) :], recent, label="last quarter, 16 numbers")
    for axes in (above, below):
        axes.legend()
        axes.set_ylabel("signal")
    below.set_xlabel("time")
    path = folder / "hippo_memory.svg"
    figure.savefig(path)
    return path


def main(steps: int = 1_000, folder: str | None = None) -> dict[str, float]:
    """Remember a signal of `steps` samples; print and return relative errors of recall."""
    t, u = signal(steps)
    results, whole = {}, {}
    for order in (8, 16, 32):
        memory = ScaledMemory(order)
        whole[order] = memory.recall(memory.remember(u)[-1], t)
        results[f"all, {order}"] = ((whole[order] - u).norm() / u.norm()).item()
    window = max(steps // 4, 1)
    sliding = SlidingMemory(16, window=window / steps)
    places = (torch.arange(window, dtype=F64) + 0.5) / window
    recent = sliding.recall(sliding.remember(u, 1 / steps)[-1], places)
    results["recent, 16"] = ((recent - u[-window:]).norm() / u[-window:].norm()).item()
    for name, value in results.items():
        print(f"{name:>10} numbers: relative error {value:.1e} over {steps} samples")
    if folder is not None:
        print(f"wrote {draw(Path(folder), t, u, whole, recent)}")
    return results


if __name__ == "__main__":
    main(*(int(x) if x.isdigit() else x for x in sys.argv[1:]))  # pyright: ignore[reportArgumentType]
