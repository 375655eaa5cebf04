"""A pendulum filmed at irregular times by a flickering camera: does the time step help?

Run: python benchmarks/learn_pendulum.py [epochs] [seed]
"""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor, nn

from deepssm.models import S5, ResidualBlock, SequenceModel, param_groups

PIXELS, FRAMES, KEPT = 12, 100, 40


def simulate(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return frames `(count, 40, 144)`, targets `(sin, cos)` of the angle, and time steps.

    A damped pendulum with random kicks, 100 frames 0.1 time units apart, of which 40 are kept.
    A frame shows the bob through noise whose share wanders slowly between 0 and 1.
    """
    angle = math.pi * (2 * torch.rand(count) - 1)
    speed = torch.randn(count)
    angles, shares, share = [], [], torch.rand(count)
    for _ in range(FRAMES):
        for _ in range(10):
            speed = speed - 0.01 * (9.81 * angle.sin() + 0.1 * speed)
            angle = angle + 0.01 * speed
        speed = speed + 0.1 * torch.randn(count)
        share = (share + 0.4 * torch.rand(count) - 0.2).clamp(0, 1)
        angles.append(angle)
        shares.append(share)
    keep = torch.rand(count, FRAMES).argsort(-1)[:, :KEPT].sort(-1).values
    angle = torch.stack(angles, 1).gather(1, keep)
    share = torch.stack(shares, 1).gather(1, keep)
    share[:, :5] = 0.0
    targets = torch.stack([angle.sin(), angle.cos()], -1)
    grid = torch.linspace(-1.3, 1.3, PIXELS)
    blob = torch.exp(-(((targets[..., None] - grid) / 0.25) ** 2) / 2)
    image = (blob[..., 0, :, None] * blob[..., 1, None, :]).flatten(-2)
    share = share[..., None]
    frames = (1 - share) * image + share * torch.rand(image.shape)
    steps = torch.nn.functional.pad(keep.diff(dim=-1).float(), (1, 0), value=1.0)
    return frames, targets, steps / (FRAMES / KEPT)


def network() -> nn.ModuleDict:
    """A small encoder in front of three S5 blocks."""
    blocks = [ResidualBlock(S5(32, 16, smallest_dt=0.02, largest_dt=1.0)) for _ in range(3)]
    encoder = nn.Sequential(nn.Linear(PIXELS**2, 64), nn.ReLU())
    return nn.ModuleDict({"encoder": encoder, "stack": SequenceModel(64, 2, [*blocks])})


def learn(
    seed: int, epochs: int, data: tuple[Tensor, Tensor, Tensor], use_dt: bool
) -> nn.ModuleDict:
    """Fit by the squared error of `(sin, cos)`."""
    torch.manual_seed(seed)
    model = network()
    frames, targets, steps = data
    batches = -(-len(frames) // 32)
    optimizer = torch.optim.AdamW(param_groups(model, lr=6e-3, slow_lr=3e-3))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    for _ in range(epochs):
        for batch in torch.randperm(len(frames)).chunk(batches):
            dt = steps[batch] if use_dt else None
            y = model["stack"](model["encoder"](frames[batch]), dt=dt)
            loss = (y - targets[batch]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model


@torch.no_grad()
def error(model: nn.ModuleDict, data: tuple[Tensor, Tensor, Tensor], use_dt: bool) -> float:
    """Return the mean squared error of `(sin, cos)`."""
    frames, targets, steps = data
    y = model["stack"](model["encoder"](frames), dt=steps if use_dt else None)
    return (y - targets).square().mean().item()


def main(steps: int = 40, seed: int = 0) -> dict[str, float]:
    """Train for `steps` epochs with and without time steps; print and return test errors."""
    torch.manual_seed(seed)
    data, test = simulate(1000), simulate(500)
    results = {}
    for name, use_dt in (("with dt", True), ("without dt", False)):
        results[name] = error(learn(seed, steps, data, use_dt), test, use_dt)
        print(f"S5 {name:>10}: mean squared error {1e3 * results[name]:.2f}e-3")
    print(f"time steps remove {1 - results['with dt'] / results['without dt']:.0%} of the error")
    return results


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
