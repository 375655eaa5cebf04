"""Random nonlinear models, one family a method."""

from __future__ import annotations

import torch
from torch import Tensor

import deepssm as ds
from deepssm.core.methods import InferenceMethod
from deepssm.inference import (
    Cubature,
    Extended,
    Gate,
    GaussHermite,
    Huber,
    Particle,
    PosteriorLinearization,
    Simplex,
    Unscented,
)

from .linear_families import Draw
from .problems import Family, Problem, Sizes, with_gaps


class Bent:
    """`x -> A x + B u + c + s sin(W x)`, smooth and mildly curved."""

    def __init__(self, draw: Draw, out: int, state: int, inputs: int, matrix: Tensor) -> None:
        self.A, self.c = matrix, draw.normal(out)
        self.B = draw.normal(out, inputs) if inputs else None
        self.s, self.W = 0.3 * draw.normal(out), draw.normal(out, state)

    def __call__(self, z: Tensor, u: Tensor | None, dt: Tensor | None = None) -> Tensor:
        """Return the value at states `(*axes, state)`."""
        value = z @ self.A.mT + self.c + self.s * torch.sin(z @ self.W.mT)
        return value if self.B is None or u is None else value + u @ self.B.mT


def bent(sizes: Sizes, seed: int, method: InferenceMethod | None = None) -> Problem:
    """Draw a nonlinear model with additive noises, and data."""
    draw, (time, n, p, m, batch, gaps) = Draw(seed), sizes
    model = ds.models.NonlinearGaussian(
        Bent(draw, n, n, m, draw.stable(n)),
        Bent(draw, p, n, m, draw.normal(p, n)),
        Q=draw.covariance(n), R=draw.covariance(p), m0=draw.normal(n), P0=draw.covariance(n),
        input_dim=m,
    )  # fmt: skip
    y = with_gaps(2 * draw.normal(*batch, time, p), gaps, draw.g)
    return Problem(model, y, draw.normal(*batch, time, m) if m else None, None, method, seed)


def _deep(sizes: Sizes, seed: int) -> Problem:
    """A neural model with the weights it starts from."""
    draw, (time, n, p, m, batch, gaps) = Draw(seed), sizes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ds.models.DeepMarkov(p, n, input_dim=m, hidden=4).double()
    y = with_gaps(draw.normal(*batch, time, p), gaps, draw.g)
    return Problem(model, y, draw.normal(*batch, time, m) if m else None, None, Unscented(), seed)


def _family(name: str, method: InferenceMethod) -> Family:
    return Family(name, lambda sizes, seed: bent(sizes, seed, method), longest=4)


EXTENDED = _family("extended", Extended())
ITERATED = _family("iterated", Extended(iterations=3))
UNSCENTED = _family("unscented", Unscented())
SIMPLEX = _family("simplex", Simplex())
CUBATURE = _family("cubature", Cubature())
HERMITE = _family("hermite", GaussHermite(3))
GATED = _family("gated", Unscented(robust=Gate()))
HUBER = _family("huber", Extended(robust=Huber()))
POSTERIOR = _family("posterior", PosteriorLinearization())
PARTICLES = _family("particles", Particle(30))

DEEP = Family("deep", _deep, longest=4)

POINTS = (EXTENDED, ITERATED, UNSCENTED, SIMPLEX, CUBATURE, HERMITE)
GAUSSIAN = (*POINTS, DEEP, GATED, HUBER)
