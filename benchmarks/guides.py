"""How much each family of guides loses on a linear model whose likelihood is known.

The model is Krishnan, Shalit, Sontag's linear example, fixed at its true parameters:
`z_1 ~ N(0, 1)`, `z_t ~ N(z_{t-1} + 0.05, 10)`, `y_t ~ N(z_t / 2, 20)`, 25 steps. What a guide
misses is its divergence from the exact posterior and nothing else.

Run: python benchmarks/guides.py [steps]
"""

from __future__ import annotations

import sys
import time

import torch
from torch import nn

from deepssm.core.model import Series
from deepssm.inference import (
    SVI,
    ChainGuide,
    ConjugateGuide,
    IndependentCombiner,
    LinearizedGuide,
    RecurrentEncoder,
    SmoothingGuide,
    bound,
    importance_log_likelihood,
)
from deepssm.models import DeepMarkov, GaussianEmission, LinearTransition


def linear_example() -> DeepMarkov:
    """Return the model, frozen at its true parameters."""
    model = DeepMarkov(
        1,
        1,
        transition=LinearTransition(1, min_scale=0.0),
        emission=GaussianEmission(1, 1, hidden=0, min_scale=0.0),
    ).double()
    values = {
        "transition_net.linear.bias": 0.05,
        "transition_net.raw_scale": raw(10**0.5),
        "emission_net.linear.weight": 0.5,
        "emission_net.linear.bias": 0.0,
        "emission_net.raw_scale": raw(20**0.5),
        "initial_mean": 0.0,
        "initial_raw_scale": raw(1 - 1e-3),
    }
    with torch.no_grad():
        for name, value in values.items():
            model.get_parameter(name).fill_(value)
    model.initialized.fill_(True)
    return model.requires_grad_(False)


def raw(scale: float) -> float:
    return float(torch.log(torch.expm1(torch.tensor(scale, dtype=torch.float64))))


def guides() -> dict[str, nn.Module]:
    """Return the families, widest last; contexts of the recurrent ones are 40 wide."""
    table: dict[str, nn.Module] = {}
    both = RecurrentEncoder(3, 40, reads="both")
    table["mean field, MF-LR"] = SmoothingGuide(
        1, 1, encoder=both, combiner=IndependentCombiner(1, 1, 40)
    )
    for name, reads in (("past only, ST-L", "past"), ("future, ST-R", "future")):
        encoder = RecurrentEncoder(3, 40, reads=reads)  # type: ignore[arg-type]
        table[name] = SmoothingGuide(1, 1, hidden=40, encoder=encoder)
    table["both, ST-LR"] = SmoothingGuide(
        1, 1, hidden=40, encoder=RecurrentEncoder(3, 40, reads="both")
    )
    table["parallel chain"] = ChainGuide(1, 1, hidden=40)
    table["conjugate"] = ConjugateGuide(1, 1, hidden=40)
    table["linearised, untrained"] = LinearizedGuide()
    return table


def main(steps: int = 1500, count: int = 5000) -> dict[str, float]:
    """Train every guide and print its bound beside the exact likelihood, in nats per step."""
    torch.manual_seed(0)
    model = linear_example()
    y = model(time=25, batch_shape=(2 * count,))[1]
    train, test = Series(y[:count]), Series(y[count:])
    with torch.no_grad():
        exact = -float(importance_log_likelihood(model, LinearizedGuide(), test, 1).mean()) / 25
        smoothed = bound_and_state(model, LinearizedGuide(), test)[1]
    print(f"exact {exact:.4f} nats/step on these {count} series (3.0758 in expectation)")
    print(f"spread of the smoothed state {smoothed:.3f}")
    results = {"exact": exact}
    for name, guide in guides().items():
        torch.manual_seed(1)
        start = time.process_time()
        if any(True for _ in guide.parameters()):
            method = SVI(guide.double(), steps=steps, batch_size=100, report_every=100)
            method.fit(model, train, progress=False)
        level, _ = bound_and_state(model, guide, test)
        results[name] = level
        spent = time.process_time() - start
        print(f"{name:24s} {level:.4f}  gap {level - exact:+.4f}  {spent:.0f} CPU s", flush=True)
    return results


def bound_and_state(model: DeepMarkov, guide: nn.Module, test: Series) -> tuple[float, float]:
    """Return minus the bound per step over 4 paths, and the posterior's standard deviation."""
    with torch.no_grad():
        parts = bound(model, guide, test, 4)
        law = guide(model, test)
        spread = float(law.sample((50,)).var(0).mean().sqrt())
    return -float((parts.reconstruction - parts.divergence).mean()), spread


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
