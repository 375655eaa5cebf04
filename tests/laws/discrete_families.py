"""Random hidden Markov models, every emission, forbidden moves; and switching linear models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from deepssm.inference import Switching
from deepssm.models import (
    BernoulliStates,
    CategoricalStates,
    GaussianStates,
    HiddenMarkov,
    LinearGaussian,
    MixtureStates,
    PoissonStates,
    RegressionStates,
    SwitchingLinearGaussian,
)
from deepssm.models.discrete.emissions import StateEmission

from .linear_families import Draw
from .problems import Family, Problem, Sizes, with_gaps

States = Callable[[Draw, int, int, int], StateEmission]
Observations = Callable[[Draw, tuple[int, ...]], Tensor]


def chain(draw: Draw, size: int, *axes: int) -> Tensor:
    """Return transition matrices, a third of whose moves are forbidden; staying never is."""
    matrix = draw.uniform(0.05, 1.0, *axes, size, size)
    matrix = torch.where(draw.uniform(0, 1, size, size) < 1 / 3, 0.0, matrix)
    matrix = matrix + 0.3 * torch.eye(size, dtype=matrix.dtype)
    return matrix / matrix.sum(-1, keepdim=True)


def start(draw: Draw, size: int) -> Tensor:
    """Return probabilities of the first state; the last one may be impossible."""
    p = draw.uniform(0.1, 1.0, size)
    if size > 1 and draw.whole(0, 1):
        p[-1] = 0.0
    return p / p.sum()


def _jolt(family: StateEmission, draw: Draw) -> StateEmission:
    with torch.no_grad():
        for parameter in family.parameters():
            parameter.add_(0.7 * draw.normal(*parameter.shape))
    return family


def _rates(draw: Draw, states: int, obs: int, inputs: int) -> StateEmission:
    rates = draw.uniform(0.2, 5.0, states, obs)
    if states > 1 and draw.whole(0, 1):
        rates[0] = 0.0
    return PoissonStates(states, obs, rates=rates)


def _symbols(draw: Draw, states: int, obs: int, inputs: int) -> StateEmission:
    probs = draw.uniform(0.1, 1.0, states, 3)
    if states > 1 and draw.whole(0, 1):
        probs[0, 0] = 0.0
    return CategoricalStates(states, 3, probs=probs / probs.sum(-1, keepdim=True))


def _family(name: str, states: States, data: Observations) -> Family:
    def draw_problem(sizes: Sizes, seed: int) -> Problem:
        draw = Draw(seed)
        family = states(draw, sizes.state, sizes.obs, sizes.inputs)
        driven = bool(sizes.inputs) and bool(draw.whole(0, 1))
        model = HiddenMarkov(
            family, initial=start(draw, sizes.state), transition=chain(draw, sizes.state),
            input_dim=sizes.inputs, driven=driven,
        )  # fmt: skip
        if model.transition_weight is not None:
            with torch.no_grad():
                model.transition_weight.add_(draw.normal(*model.transition_weight.shape))
        y = with_gaps(data(draw, (*sizes.batch, sizes.time, model.obs_dim)), sizes.gaps, draw.g)
        u = draw.normal(*sizes.batch, sizes.time, sizes.inputs) if sizes.inputs else None
        return Problem(model, y, u, seed=seed)

    return Family(name, draw_problem, longest=5)


def _real(draw: Draw, shape: tuple[int, ...]) -> Tensor:
    return 1.5 * draw.normal(*shape)


def _counts(draw: Draw, shape: tuple[int, ...]) -> Tensor:
    return torch.floor(draw.uniform(0, 5, *shape))


def _bits(draw: Draw, shape: tuple[int, ...]) -> Tensor:
    return draw.uniform(0, 1, *shape).round()


def _three(draw: Draw, shape: tuple[int, ...]) -> Tensor:
    return torch.floor(draw.uniform(0, 3, *shape))


FULL = _family("full", lambda g, k, p, m: _jolt(GaussianStates(k, p), g), _real)
DIAGONAL = _family(
    "diagonal", lambda g, k, p, m: _jolt(GaussianStates(k, p, covariance="diagonal"), g), _real
)
TIED = _family("tied", lambda g, k, p, m: _jolt(GaussianStates(k, p, covariance="tied"), g), _real)
MIXTURE = _family("mixture", lambda g, k, p, m: _jolt(MixtureStates(k, p, 2), g), _real)
REGRESSION = _family("regression", lambda g, k, p, m: _jolt(RegressionStates(k, p, m), g), _real)
LAGGED = _family("lagged", lambda g, k, p, m: _jolt(RegressionStates(k, p, m, lags=1), g), _real)
RATES = _family("rates", _rates, _counts)
BITS = _family("bits", lambda g, k, p, m: _jolt(BernoulliStates(k, p), g), _bits)
SYMBOLS = _family("symbols", _symbols, _three)

MARKOV = (FULL, DIAGONAL, TIED, MIXTURE, REGRESSION, LAGGED, RATES, BITS, SYMBOLS)


def _mode(draw: Draw, sizes: Sizes) -> LinearGaussian:
    n, p, m = sizes.state, sizes.obs, sizes.inputs
    return LinearGaussian(
        draw.stable(n), draw.covariance(n), draw.normal(p, n), draw.covariance(p),
        B=draw.normal(n, m) if m else None, b=draw.normal(n), d=draw.normal(p),
        m0=draw.normal(n), P0=draw.covariance(n),
    )  # fmt: skip


def _switching(order: Literal[1, 2], modes: int | None = None) -> Callable[[Sizes, int], Problem]:
    def draw_problem(sizes: Sizes, seed: int) -> Problem:
        draw = Draw(seed)
        count = modes or draw.whole(2, 3)
        model = SwitchingLinearGaussian(
            [_mode(draw, sizes) for _ in range(count)],
            transition=chain(draw, count),
            initial=start(draw, count),
        )
        y = with_gaps(2 * draw.normal(*sizes.batch, sizes.time, sizes.obs), sizes.gaps, draw.g)
        u = draw.normal(*sizes.batch, sizes.time, sizes.inputs) if sizes.inputs else None
        return Problem(model, y, u, None, Switching(order=order), seed)

    return draw_problem


IMM = Family("imm", _switching(1), longest=5)
GPB2 = Family("gpb2", _switching(2), longest=5)
ONE_MODE = Family("one_mode", _switching(1, 1), longest=5)

SWITCHING = (IMM, GPB2)
