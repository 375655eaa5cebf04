"""A deep Markov model of Bach's chorales: how well does it predict music it has not heard?

The data are piano rolls, 88 keys a quarter note (Boulanger-Lewandowski, Bengio, Vincent 2012),
found in `$DEEPSSM_DATA/polyphonic` or downloaded. Two scores, both in nats per quarter note, both
on the test pieces and never to be compared with one another: minus the evidence lower bound, and
the tighter estimate by importance sampling. Training takes three to four CPU minutes.

Run: python examples/music.py [epochs]
"""

from __future__ import annotations

import sys
import time

import torch
from torch import Tensor

from deepssm.core.model import Series
from deepssm.data.polyphonic import pad, polyphonic
from deepssm.inference import SVI, GateCombiner, SmoothingGuide, bound, importance_log_likelihood
from deepssm.inference.guides.encoders.features import Reader
from deepssm.models import BernoulliEmission, DeepMarkov, GatedTransition


def progressions(count: int, seed: int) -> list[Tensor]:
    """Make up pieces for a quick run: four chords in a circle, each held for a beat or two."""
    g = torch.Generator().manual_seed(seed)
    chords = torch.zeros(4, 88)
    for chord, root in zip(chords, (40, 45, 47, 43), strict=True):
        chord[torch.tensor([root - 12, root, root + 4, root + 7])] = 1
    pieces = []
    for length in torch.randint(20, 32, (count,), generator=g).tolist():
        moves = torch.rand(length, generator=g) < 0.7
        pieces.append(chords[(torch.randint(4, (), generator=g) + moves.cumsum(0)) % 4])
    return pieces


def independent_keys(train: list[Tensor], test: list[Tensor]) -> float:
    """Score a model in which every key sounds by itself at its mean rate."""
    rows = torch.cat(train).double()
    rate = (rows.sum(0) + 0.5) / (len(rows) + 1)
    heard = torch.cat(test).double()
    return -float((heard * rate.log() + (1 - heard) * (1 - rate).log()).sum()) / len(heard)


def scores(
    model: DeepMarkov, guide: SmoothingGuide, pieces: list[Tensor], samples: int
) -> tuple[float, float]:
    """Return minus the bound and minus the importance-sampled likelihood, in nats per step."""
    total = torch.zeros(2)
    pieces = sorted(pieces, key=len)
    with torch.no_grad():
        for start in range(0, len(pieces), 20):
            series = Series(pad(pieces[start : start + 20]).y)
            parts = bound(model, guide, series, 10)
            total[0] -= float((parts.reconstruction - parts.divergence).sum()) / 10
            total[1] -= importance_log_likelihood(model, guide, series, samples, 50).sum()
    return tuple((total / sum(map(len, pieces))).tolist())


def main(
    epochs: int = 300, samples: int = 100, seed: int = 0, quick: bool = False
) -> dict[str, float]:
    """Train on the chorales, or in a quick run on made-up ones, and score the test pieces."""
    if quick:
        train, test, epochs, width = progressions(40, 0), progressions(10, 1), 120, 32
    else:
        data = polyphonic("JSB_Chorales")
        train, test, width = data.train, data.test, 200
    torch.manual_seed(seed)
    begun = time.process_time()
    model = DeepMarkov(
        88,
        32,
        transition=GatedTransition(32, hidden=width // 2),
        emission=BernoulliEmission(32, 88, hidden=width // 2),
    )
    reader = Reader(88, changes=False, gaps=False)
    combiner = GateCombiner(32, 88, width)
    guide = SmoothingGuide(88, 32, hidden=width, combiner=combiner, reader=reader)
    steps = epochs * -(-len(train) // 20)
    method = SVI(
        guide,
        steps=steps,
        batch_size=20,
        window=None,
        bucketed=True,
        learning_rate=5e-3,
        weight_decay=3e-4,
        clip=3.0,
        kl_warmup=min(1000, steps // 4),
        report_every=max(steps // 12, 1),
    )
    learned = method.fit(model, Series(pad(train).y), progress=False)
    trained = time.process_time() - begun
    for record in learned.history:
        print(
            f"step {record['step']:5.0f}  train bound {-record['elbo']:7.3f} = reconstruction "
            f"{-record['reconstruction']:7.3f} + divergence {record['divergence']:6.3f}"
        )
    level, sampled = scores(model, guide, test, samples)
    found = {
        "test, independent keys": independent_keys(train, test),
        "test, minus the bound": level,
        f"test, importance sampling, {samples} paths": sampled,
        "training, CPU seconds": trained,
    }
    for name, value in found.items():
        print(f"{name:42s} {value:8.3f}")
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
