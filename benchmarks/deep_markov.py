"""Training steps of a deep Markov model: ours beside the one in Pyro's examples, one thread.

Pyro's script is not part of this project; point `PYRO_DMM` at a copy of its `examples/dmm.py`
(Apache-2.0). Both train on the same random binary batches with the same sizes; times are CPU
seconds of this process, so other work on the machine does not count.

Run: PYRO_DMM=/path/to/dmm.py python benchmarks/deep_markov.py [repeats]
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import pyro
import pyro.contrib.examples
import torch
from torch import Tensor, nn

from deepssm.base import Series
from deepssm.inference import (
    ChainGuide,
    GateCombiner,
    LinearizedGuide,
    RecurrentEncoder,
    SmoothingGuide,
    negative_elbo,
)
from deepssm.inference.reader import Reader
from deepssm.models import BernoulliEmission, DeepMarkov, GatedTransition


class Size(NamedTuple):
    """Sizes of a model and of a batch."""

    name: str
    obs: int
    state: int
    emission: int
    transition: int
    encoder: int
    batch: int
    time: int


SIZES = (
    Size("paper, JSB batch", 88, 100, 100, 200, 600, 20, 60),
    Size("sensor, long", 6, 4, 16, 16, 16, 16, 300),
    Size("sensor, wide", 6, 8, 32, 32, 32, 32, 100),
)


def pyro_example(size: Size) -> Callable[[Tensor], object]:
    """Return one training step of Pyro's own model, as its script configures it."""
    loader: Any = ModuleType("polyphonic_data_loader")
    loader.pad_and_reverse = lambda packed, lengths: nn.utils.rnn.pad_packed_sequence(
        packed, batch_first=True
    )[0].flip(1)
    # The script imports its loader, which needs torchvision; series of one length need little.
    sys.modules["pyro.contrib.examples.polyphonic_data_loader"] = loader
    pyro.contrib.examples.polyphonic_data_loader = loader  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location("pyro_dmm", os.environ["PYRO_DMM"])
    assert spec is not None and spec.loader is not None
    script: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    pyro.clear_param_store()
    dmm = script.DMM(
        input_dim=size.obs,
        z_dim=size.state,
        emission_dim=size.emission,
        transition_dim=size.transition,
        rnn_dim=size.encoder,
        rnn_dropout_rate=0.0,
        num_iafs=0,
    )
    optimizer = script.ClippedAdam({"lr": 3e-4, "clip_norm": 10.0, "weight_decay": 2.0})
    svi = script.SVI(dmm.model, dmm.guide, optimizer, loss=script.Trace_ELBO())

    def step(y: Tensor) -> object:
        lengths = torch.full((len(y),), y.shape[1])
        packed = nn.utils.rnn.pack_padded_sequence(y.flip(1), lengths, batch_first=True)
        return svi.step(y, packed, torch.ones(y.shape[:2]), lengths, 1.0)

    return step


def own(size: Size, guide: nn.Module) -> Callable[[Tensor], object]:
    """Return one training step of ours with a guide."""
    model = DeepMarkov(
        size.obs,
        size.state,
        transition=GatedTransition(size.state, hidden=size.transition),
        emission=BernoulliEmission(size.state, size.obs, hidden=size.emission),
    )
    loss = negative_elbo(model, guide)
    parameters = [*model.parameters(), *guide.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=3e-4)

    def step(y: Tensor) -> object:
        optimizer.zero_grad(set_to_none=True)
        loss(*Series(y)).backward()
        nn.utils.clip_grad_norm_(parameters, 10.0)
        return optimizer.step()

    return step


def own_guides(size: Size) -> dict[str, nn.Module]:
    """Return the guides compared; the first has the recursion of Pyro's example."""
    reader = Reader(size.obs, changes=False)
    combiner = GateCombiner(size.state, size.obs, size.encoder)
    encoder = RecurrentEncoder(reader.size, size.encoder, cell="relu")
    recursive = SmoothingGuide(
        size.obs, size.state, combiner=combiner, reader=reader, encoder=encoder
    )
    chain = ChainGuide(size.obs, size.state, hidden=size.encoder, reader=reader)
    table: dict[str, nn.Module] = {"recursive guide": recursive}
    if size.state <= 16:
        table |= {"parallel chain": chain, "linearised": LinearizedGuide(2)}
    return table


def seconds(step: Callable[[Tensor], object], y: Tensor, repeats: int) -> float:
    """Return CPU seconds of one step, the fastest of some."""
    step(y)
    times = []
    for _ in range(repeats):
        start = time.process_time()
        step(y)
        times.append(time.process_time() - start)
    return min(times)


def main(repeats: int = 5) -> None:
    """Print seconds per step and the ratio to Pyro's example."""
    torch.set_num_threads(1)
    for size in SIZES:
        y = (torch.rand(size.batch, size.time, size.obs) < 0.1).float()
        peer = seconds(pyro_example(size), y, repeats) if "PYRO_DMM" in os.environ else None
        print(size)
        print(f"  {'Pyro example':18s} " + (f"{peer * 1e3:8.1f} ms" if peer else "not found"))
        for name, guide in own_guides(size).items():
            spent = seconds(own(size, guide), y, repeats)
            ratio = f"{peer / spent:6.1f} x" if peer else ""
            print(f"  {name:18s} {spent * 1e3:8.1f} ms {ratio}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
