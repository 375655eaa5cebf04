"""One token at a time through each sequence layer, beside bare torch steps and the authors' own.

Run: OMP_NUM_THREADS=1 python benchmarks/steppers.py [--peers FOLDER]

Processor time of a token, the median of twenty rounds of a hundred tokens, ours and the other by
turns. A bare step is the recurrence of the layer written down, its matrices discretized before:
what nothing in torch can undercut by much. `FOLDER` as in `linear_core_peers.py`, with mambapy's
`mamba.py`. The last column says how far steps are from the whole sequence, in float32, relative to
the largest output.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time as clock
from collections.abc import Callable
from pathlib import Path
from typing import Any

import linear_core_peers as peers
import torch
from torch import Tensor

from deepssm.models import LRU, LSSL, S4, S4D, S5, Mamba
from deepssm.models.layers.base import SequenceLayer, StructuredLayer

H, MODES, TOKENS, ROUNDS = 64, 32, 100, 20
Run = Callable[[Tensor], Any]


def ours(layer: SequenceLayer) -> Run:
    """Step a layer through all tokens."""
    step = layer.stepper()

    def run(tokens: Tensor) -> list[Tensor]:
        state, outputs = None, []
        for u in tokens.unbind(-2):
            y, state = step(u, state)
            outputs.append(y)
        return outputs

    return run


def bare(layer: StructuredLayer) -> Run:
    """The layer's recurrence `z = A z + B u`, `y = 2 Re(C z) + D u`, and nothing else."""
    found, D = layer.system().recurrence(), layer.D
    transition, B, C = found.transition, found.B, found.C
    A = transition.dense() if B.is_complex() is False else transition.dense().diagonal(0, -2, -1)

    def channels(tokens: Tensor) -> Tensor:
        z = torch.zeros(H, A.shape[-1], dtype=B.dtype)
        for u in tokens.unbind(-2):
            if B.is_complex():
                z = A * z + B[..., 0] * u[:, None]
                y = 2 * (C[..., 0, :] * z).sum(-1).real + D * u
            else:
                z = (A @ z[..., None])[..., 0] + B[..., 0] * u[:, None]
                y = (C[..., 0, :] * z).sum(-1) + D * u
        return y

    def together(tokens: Tensor) -> Tensor:
        z = torch.zeros(A.shape[-1], dtype=B.dtype)
        for u in tokens.unbind(-2):
            z = A * z + B @ u.to(B.dtype)
            y = 2 * (C @ z).real + D * u
        return y

    return channels if layer.channels else together


def authors_s4(found: dict[str, Any]) -> Run | None:
    """State-spaces' S4 block, its kernel's own recurrent mode."""
    if "s4" not in found:
        return None
    layer = found["s4"].FFTConv(H, l_max=1024, transposed=False, mode="s4", init="legs")
    layer.eval()
    layer.setup_step()

    def run(tokens: Tensor) -> Tensor:
        state = layer.default_state(1)
        for u in tokens.unbind(-2):
            y, state = layer.step(u[None], state)
        return y

    return run


def mambapy(found: dict[str, Any]) -> Run | None:
    """Mambapy's block, without the norm around it."""
    try:
        module = importlib.import_module("mambapy.mamba")
    except ImportError as error:
        print(f"# mambapy left out: {error}")
        return None
    config = module.MambaConfig(d_model=H, n_layers=1, d_state=16)
    block = module.MambaBlock(config).eval()

    def run(tokens: Tensor) -> Tensor:
        cache = (None, torch.zeros(1, config.d_inner, config.d_conv - 1))
        for u in tokens.unbind(-2):
            y, cache = block.step(u[None], cache)
        return y

    return run


def paired(first: Run, second: Run, tokens: Tensor) -> tuple[float, float]:
    """Return the median microseconds a token of both, taken by turns."""
    spent: tuple[list[float], list[float]] = ([], [])
    for turn in range(ROUNDS + 1):
        for run, times in zip((first, second), spent, strict=True):
            start = clock.process_time()
            run(tokens)
            if turn:
                times.append((clock.process_time() - start) / tokens.shape[-2] * 1e6)
    return statistics.median(spent[0]), statistics.median(spent[1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", type=Path, help="folder with the peers' code")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = peers.load(options.peers) if options.peers else {}
    layers: dict[str, SequenceLayer] = {
        "S4": S4(H, MODES), "S4D": S4D(H, MODES), "S5": S5(H, MODES), "LSSL": LSSL(H, 2 * MODES),
        "LRU": LRU(H, MODES), "Mamba": Mamba(H, 16),
    }  # fmt: skip
    tokens = torch.randn(TOKENS, H)
    print(f"torch {torch.__version__}, one CPU thread, {H} features, one series, float32")
    print(f"{'layer':8} {'beside':24} {'ours us':>8} {'other us':>9} {'ratio':>6} {'error':>8}")
    with torch.no_grad():
        for name, layer in layers.items():
            whole = layer(tokens[None])[0]
            error = float(
                (torch.stack(ours(layer)(tokens)) - whole).abs().max() / whole.abs().max()
            )
            others: dict[str, Run | None] = {}
            if isinstance(layer, StructuredLayer):
                others["bare torch step"] = bare(layer)
            if name == "S4":
                others["state-spaces s4.py"] = authors_s4(found)
            if name == "Mamba":
                others["mambapy"] = mambapy(found)
            for title, other in others.items():
                if other is not None:
                    mine, theirs = paired(ours(layer), other, tokens)
                    print(
                        f"{name:8} {title:24} {mine:8.1f} {theirs:9.1f} {theirs / mine:6.2f} "
                        f"{error:8.1e}"
                    )


if __name__ == "__main__":
    main()
