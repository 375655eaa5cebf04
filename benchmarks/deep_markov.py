"""Training of a deep Markov model: ours beside the one in Pyro's examples, one thread.

At paper size both run epochs over the JSB chorales in minibatches of 20, drawn anew each epoch:
Pyro's as its script draws them, ours with series of like length together. At sensor sizes both
take steps on the same random binary batch. Times are CPU seconds of this process, so other work
on the machine does not count; on a GPU they are seconds of the clock. With `--device` the table
says what bounds ours instead: where an epoch's time goes, how long the device waits, and the time
that the arithmetic alone would take. With `--compile` ours is also run as `SVI(compile=True)`.

Pyro's script is not part of this project; point `PYRO_DMM` at a copy of its `examples/dmm.py`
(Apache-2.0), and `DEEPSSM_DATA` at a folder that holds `polyphonic/JSB_Chorales.mat`.

Run: PYRO_DMM=/path/to/dmm.py python benchmarks/deep_markov.py [repeats] [--compile]
     python benchmarks/deep_markov.py --device cuda [--compile]
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import ModuleType
from typing import Any, NamedTuple

import pyro
import pyro.contrib.examples
import torch
from torch import Tensor, nn
from what_bounds import print_bounds

from deepssm.core.model import Series
from deepssm.core.pyro_sites import observed_steps
from deepssm.data.polyphonic import pad, polyphonic
from deepssm.inference import (
    ChainGuide,
    GateCombiner,
    LinearizedGuide,
    RecurrentEncoder,
    SmoothingGuide,
    negative_elbo,
)
from deepssm.inference.guides.encoders.features import Reader
from deepssm.inference.guides.encoders.recurrent import reversal
from deepssm.inference.variational.compile import compiled_parts
from deepssm.inference.variational.minibatches import Minibatches
from deepssm.models import BernoulliEmission, DeepMarkov, GatedTransition

Step = Callable[[Tensor], object]


class Size(NamedTuple):
    """Sizes of a model and of a batch; `time` 0 means epochs over the chorales."""

    name: str
    obs: int
    state: int
    emission: int
    transition: int
    encoder: int
    batch: int
    time: int


SIZES = (
    Size("paper: JSB chorales, per epoch", 88, 100, 100, 200, 600, 20, 0),
    Size("sensor, long: per step", 6, 4, 16, 16, 16, 16, 300),
    Size("sensor, wide: per step", 6, 8, 32, 32, 32, 32, 100),
)


def pyro_example(size: Size) -> Step:
    """Return one training step of Pyro's own model, as its script configures it."""
    loader: Any = ModuleType("polyphonic_data_loader")
    loader.pad_and_reverse = _unpack
    # The script imports its loader, which needs torchvision and downloads pickles.
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
        steps = observed_steps(y)
        lengths, order = steps.sum(-1).sort(descending=True)
        y, mask = torch.nan_to_num(y[order]), steps[order].float()
        packed = nn.utils.rnn.pack_padded_sequence(_turn(y, lengths), lengths, batch_first=True)
        return svi.step(y, packed, mask, lengths, 1.0)

    return step


def _turn(rows: Tensor, lengths: Tensor) -> Tensor:
    order = reversal(lengths - 1, rows.shape[1])[..., None]
    return rows.gather(1, order.expand_as(rows))


def _unpack(packed: Any, lengths: Tensor) -> Tensor:  # noqa: ANN401
    return _turn(nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)[0], lengths)


def own_model(size: Size) -> DeepMarkov:
    """Return our model."""
    return DeepMarkov(
        size.obs,
        size.state,
        transition=GatedTransition(size.state, hidden=size.transition),
        emission=BernoulliEmission(size.state, size.obs, hidden=size.emission),
    )


def own(model: DeepMarkov, guide: nn.Module) -> Step:
    """Return one training step of ours with a guide."""
    loss = negative_elbo(model, guide)
    parameters = [*model.parameters(), *guide.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=3e-4, fused=True)

    def step(y: Tensor) -> object:
        optimizer.zero_grad(set_to_none=True)
        loss(y).backward()
        nn.utils.clip_grad_norm_(parameters, 10.0)
        return optimizer.step()

    return step


def own_guides(size: Size) -> dict[str, nn.Module]:
    """Return the guides compared; the first has the recursion of Pyro's example."""
    reader = Reader(size.obs, changes=False, gaps=False)
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


def batches(size: Size, *, bucketed: bool, device: str = "cpu") -> Callable[[], Iterator[Tensor]]:
    """Return a function that gives what is timed: an epoch of the chorales, or one batch."""
    if size.time:
        y = (torch.rand(size.batch, size.time, size.obs) < 0.1).float().to(device)
        return lambda: iter([y])
    series = Series(pad(polyphonic("JSB_Chorales").train).y.to(device))
    source = Minibatches(series, size.batch, None, bucketed=bucketed)
    count = -(-len(series.y) // size.batch)
    return lambda: (next(source).y for _ in range(count))


def seconds(step: Step, epoch: Callable[[], Iterator[Tensor]], repeats: int) -> float:
    """Return CPU seconds of an epoch or step, the fastest of some after one more."""
    times = []
    for _ in range(1 + repeats):
        start = time.process_time()
        for y in epoch():
            step(y)
        times.append(time.process_time() - start)
    return min(times[1:])


def bounds(device: str, *, compiled: bool = False) -> None:
    """Print where the time of our steps goes, and what bounds it, size by size."""
    for size in SIZES:
        for name, guide in own_guides(size).items():
            if name == "linearised":
                continue
            model, guide = own_model(size).to(device), guide.to(device)
            for way in (False, True) if compiled else (False,):
                print(f"{size.name}, {name}" + (", compiled" if way else ""))
                epoch = batches(size, bucketed=True, device=device)
                with compiled_parts(model, guide) if way else nullcontext():
                    print_bounds(own(model, guide), epoch, model, guide)


def main(repeats: int = 3, *, compiled: bool = False) -> None:
    """Print seconds and the ratio to Pyro's example."""
    print(f"torch {torch.__version__}, pyro {pyro.__version__}, {platform.processor()}, 1 thread")
    for size in SIZES:
        peer = None
        if "PYRO_DMM" in os.environ:
            peer = seconds(pyro_example(size), batches(size, bucketed=False), repeats)
        print(size)
        print(f"  {'Pyro example':18s} " + (f"{peer * 1e3:8.1f} ms" if peer else "not found"))
        for name, guide in own_guides(size).items():
            model, epoch = own_model(size), batches(size, bucketed=True)
            spent = seconds(own(model, guide), epoch, repeats)
            ratio = f"{peer / spent:6.1f} x" if peer else ""
            print(f"  {name:18s} {spent * 1e3:8.1f} ms {ratio}", flush=True)
            if compiled and name != "linearised":
                with compiled_parts(model, guide):
                    spent = seconds(own(model, guide), epoch, repeats)
                print(f"  {'  compiled':18s} {spent * 1e3:8.1f} ms", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repeats", type=int, nargs="?", default=3)
    parser.add_argument("--device", help="say what bounds our steps there: cpu or cuda")
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if given.device is None:
        main(given.repeats, compiled=given.compile)
    else:
        bounds(given.device, compiled=given.compile)
