"""Digits pixel by pixel: four S4D layers read 64 numbers, in order or shuffled.

Run: python benchmarks/learn_digits.py [epochs] [seed]
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from torch import Tensor

from deepssm.linear import s4d_lin
from deepssm.models import S4D, ResidualBlock, SequenceClassifier, SequenceModel, param_groups


def load(seed: int, permute: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return inputs `(series, 64, 1)` and classes: 1437 to learn from, 360 to test."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    split: Any = train_test_split(
        pixels, labels, test_size=360, stratify=labels, random_state=seed
    )
    train, test, train_labels, test_labels = split
    order = torch.arange(64)
    if permute:
        order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    u, v = (torch.tensor(x / 8 - 1).float()[:, order, None] for x in (train, test))
    return u, torch.tensor(train_labels), v, torch.tensor(test_labels)


def train(
    model: SequenceClassifier, u: Tensor, labels: Tensor, epochs: int, rate: float = 1e-2
) -> None:
    """Fit by AdamW on a cosine schedule, in batches of 64."""
    batches = -(-len(u) // 64)
    groups = param_groups(model, lr=rate, slow_lr=rate / 4, weight_decay=0.05)
    optimizer = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(u)).chunk(batches):
            loss = torch.nn.functional.cross_entropy(model(u[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def accuracy(model: SequenceClassifier, u: Tensor, labels: Tensor, rate: float = 1.0) -> float:
    """Return the share of right classes."""
    model.eval()
    return (model(u, rate=rate).argmax(-1) == labels).float().mean().item()


def main(steps: int = 30, seed: int = 0) -> dict[str, float]:
    """Train for `steps` epochs on both orders; print and return the test accuracies."""
    results = {}
    for name, permute in (("sequential", False), ("permuted", True)):
        torch.manual_seed(seed)
        u, labels, test, test_labels = load(seed, permute)
        blocks = [
            ResidualBlock(
                S4D(64, 16, initial=s4d_lin, smallest_dt=1e-2, largest_dt=0.5), dropout=0.2
            )
            for _ in range(4)
        ]
        model = SequenceClassifier(SequenceModel(1, 10, [*blocks]))
        start = time.process_time()
        train(model, u, labels, steps)
        results[name] = accuracy(model, test, test_labels)
        seconds = time.process_time() - start
        print(f"{name:>10} digits: accuracy {results[name]:.3f} on 360, {seconds:.0f} CPU s")
    return results


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
