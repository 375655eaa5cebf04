"""Does training stay finite? 1000 updates of a deep Markov model of the paper's size, five seeds.

Krishnan's sizes (state 100, emission 100, transition 200, recursion 600 wide) on the JSB chorales
in minibatches of 20, Adam at a constant 8e-4, the divergence's weight rising from 0.01 to 1 over
the run, gradients clipped at norm 10. Unlike `SVI`, this loop rescues nothing: it counts.

Run: DEEPSSM_DATA=/path/to/data python benchmarks/stability.py [updates] [seeds] [relu | gru]
"""

from __future__ import annotations

import sys
import time
from typing import Literal, NamedTuple

import torch
from torch import nn

from deepssm.core.model import Series
from deepssm.data.polyphonic import pad, polyphonic
from deepssm.inference import GateCombiner, RecurrentEncoder, SmoothingGuide, negative_elbo
from deepssm.inference.guides.encoders.features import Reader
from deepssm.inference.variational.minibatches import Minibatches
from deepssm.models import deep_markov_model

Cell = Literal["relu", "gru"]

WIDTH = 600


class Record(NamedTuple):
    """What one run went through.

    Attributes:
        broken: Updates whose loss or gradient was not finite.
        finite: Whether all weights are finite at the end.
        largest: Largest norm of a gradient before clipping.
        loss: Last loss, nats per step.
        seconds: Of the processor.
    """

    broken: int
    finite: bool
    largest: float
    loss: float
    seconds: float


def train(seed: int, updates: int, cell: Cell) -> Record:
    """Train once and count what is not finite."""
    torch.manual_seed(seed)
    model = deep_markov_model(88)
    data = Series(pad(polyphonic("JSB_Chorales").train).y)
    model.initialize_from(data)
    reader = Reader(88, changes=False, gaps=False)
    encoder = RecurrentEncoder(reader.size, WIDTH, cell=cell)
    combiner = GateCombiner(100, 88, WIDTH)
    guide = SmoothingGuide(88, 100, encoder=encoder, combiner=combiner, reader=reader)
    guide.initialize_from(model, data)
    loss = negative_elbo(model, guide)
    parameters = [*model.parameters(), *guide.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=8e-4, fused=True)
    batches, broken, largest, value = Minibatches(data, 20, None, bucketed=True), 0, 0.0, 0.0
    begun = time.process_time()
    for update in range(updates):
        batch = next(batches)
        weight = 0.01 + 0.99 * update / updates
        optimizer.zero_grad(set_to_none=True)
        count = int((~torch.isnan(batch.y)).any(-1).sum())
        found = loss(batch.y, None, None, weight, 1.0 / count)
        found.backward()
        norm = nn.utils.clip_grad_norm_(parameters, 10.0)
        value, size = float(found.detach()), float(norm)
        broken += not bool(torch.isfinite(torch.tensor([value, size])).all())
        largest = max(largest, size)
        optimizer.step()
    finite = all(bool(torch.isfinite(p).all()) for p in parameters)
    return Record(broken, finite, largest, value, time.process_time() - begun)


def main(updates: int = 1000, seeds: int = 5, *, cell: Cell = "relu") -> dict[str, float]:
    """Print a line a seed and return the number of broken updates of each."""
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {cell} encoder of width {WIDTH}, {updates} updates")
    found = {}
    for seed in range(seeds):
        record = train(seed, updates, cell)
        found[f"seed {seed}"] = float(record.broken + (not record.finite))
        print(
            f"seed {seed}: not finite {record.broken} of {updates}, weights finite "
            f"{record.finite}, largest gradient {record.largest:.3g}, last loss "
            f"{record.loss:.3f} nats/step, {record.seconds:.0f} CPU s",
            flush=True,
        )
    return found


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]), cell="gru" if "gru" in sys.argv else "relu")
