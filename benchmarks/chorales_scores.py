"""Scores of a deep Markov model on series that it was not trained on, in nats per step."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn

from deepssm.core.model import Series
from deepssm.core.pyro_sites import seeded
from deepssm.inference import ParticleBound, bound, importance_log_likelihood
from deepssm.inference.variational import refine
from deepssm.models import DeepMarkov

PATHS = 20


def refined(
    model: DeepMarkov, guide: nn.Module, data: list[Series], steps: int, rate: float
) -> list[nn.Module]:
    """Return a guide for each batch, its answer optimised on the un-annealed bound."""
    generator = torch.Generator().manual_seed(3)
    return [
        refine(model, guide, series, steps=steps, learning_rate=rate, generator=generator)
        for series in data
    ]


def minus_bound(
    model: DeepMarkov, guides: list[nn.Module], data: list[Series], samples: int
) -> float:
    """Return minus the bound in nats per step, with fixed noise."""

    def score(guide: nn.Module, series: Series) -> float:
        parts = bound(model, guide, series, samples)
        return float((parts.reconstruction - parts.divergence).sum()) / samples

    return minus_per_step(guides, data, 1, score)


def minus_likelihood(
    model: DeepMarkov, guides: list[nn.Module], data: list[Series], samples: int
) -> float:
    """Return minus the importance-sampled log-likelihood in nats per step, with fixed noise."""

    def score(guide: nn.Module, series: Series) -> float:
        return float(importance_log_likelihood(model, guide, series, samples, 10).sum())

    return minus_per_step(guides, data, 2, score)


def minus_particles(
    model: DeepMarkov, guides: list[nn.Module], data: list[Series], samples: int
) -> float:
    """Return minus a particle filter's log-likelihood in nats per step, with fixed noise."""

    def score(guide: nn.Module, series: Series) -> float:
        return float(ParticleBound(samples, lookahead=True)(model, guide).bound(series).sum())

    return minus_per_step(guides, data, 4, score)


def minus_per_step(
    guides: list[nn.Module],
    data: list[Series],
    seed: int,
    score: Callable[[nn.Module, Series], float],
) -> float:
    """Return minus the sum of a score over batches, per step."""
    total = 0.0
    with torch.no_grad(), seeded(torch.Generator().manual_seed(seed)):
        for guide, series in zip(guides, data, strict=True):
            total -= score(guide, series)
    return total / sum(int((~series.y.isnan()).any(-1).sum()) for series in data)


def report(
    name: str, model: DeepMarkov, guides: list[nn.Module], data: list[Series], samples: int
) -> None:
    """Print three scores of the same pieces, which are never to be compared with one another."""
    for title, score, count in (
        (f"minus the bound, {PATHS} paths", minus_bound, PATHS),
        (f"importance sampling, S = {samples}", minus_likelihood, samples),
        (f"particle filter, {samples} particles", minus_particles, samples),
    ):
        start = time.process_time()
        level = score(model, guides, data, count)
        spent = time.process_time() - start
        print(f"{f'{name}, {title}':60s} {level:8.3f}  CPU {spent:6.0f} s", flush=True)
