"""Trained at one sampling rate, used at half of it: tones told apart by their frequency.

Run: python benchmarks/learn_half_rate.py [epochs] [seed]
"""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor

from deepssm.models import S4D, ResidualBlock, SequenceClassifier, SequenceModel, param_groups

CLASSES, TIME = 8, 256


def tones(count: int) -> tuple[Tensor, Tensor]:
    """Return noisy sines of random phase `(count, 256, 1)` and the class of their frequency."""
    labels = torch.randint(CLASSES, (count,))
    cycles = 4 * 1.25 ** labels[:, None] * (1 + 0.02 * torch.randn(count, 1))
    phase = 2 * math.pi * (torch.rand(count, 1) + cycles * torch.arange(TIME) / TIME)
    return (phase.sin() + 0.3 * torch.randn(count, TIME))[..., None], labels


@torch.no_grad()
def accuracy(model: SequenceClassifier, u: Tensor, labels: Tensor, rate: float = 1.0) -> float:
    """Return the share of right classes."""
    model.eval()
    return (model(u, rate=rate).argmax(-1) == labels).float().mean().item()


def main(steps: int = 15, seed: int = 0) -> dict[str, float]:
    """Train for `steps` epochs; print and return test accuracies at both rates."""
    torch.manual_seed(seed)
    u, labels = tones(2000)
    test, test_labels = tones(1000)
    blocks = [ResidualBlock(S4D(32, 16)) for _ in range(2)]
    model = SequenceClassifier(SequenceModel(1, CLASSES, [*blocks]))
    optimizer = torch.optim.AdamW(param_groups(model, lr=1e-2, slow_lr=2e-3))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps * 40)
    for _ in range(steps):
        for batch in torch.randperm(2000).chunk(40):
            loss = torch.nn.functional.cross_entropy(model(u[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    half = test[:, 1::2]
    results = {
        "full rate": accuracy(model, test, test_labels),
        "half rate, told": accuracy(model, half, test_labels, rate=2.0),
        "half rate, not told": accuracy(model, half, test_labels),
    }
    for name, value in results.items():
        print(f"{name:>20}: accuracy {value:.3f}")
    return results


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
