"""Stochastic volatility, and its filter by quadrature."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.nn import PyroParam
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, constraints

import deepssm as ds


class Volatility(ds.StateSpaceModel):
    """Stochastic volatility: `y_t ~ N(0, s^2 exp(z_t))`."""

    state_dim = obs_dim = 1
    a: Any
    q: Any

    def __init__(self, a: float = 0.9, q: float = 0.4, known: bool = False) -> None:
        super().__init__()
        self.a = PyroParam(torch.tensor(a).double(), constraints.interval(-1, 1))
        self.q = PyroParam(torch.tensor(q).double(), constraints.positive)
        self.start = 1e-9 if known else q / math.sqrt(1 - a * a)

    def initial(self) -> Distribution:
        zero = torch.zeros(1, dtype=torch.float64)
        return Independent(Normal(zero, zero + self.start), 1)

    def transition(
        self, z: Tensor, u: Tensor | None = None, dt: Tensor | None = None
    ) -> Distribution:
        return Independent(Normal(self.a * z, self.q.expand_as(z)), 1)

    def emission(self, z: Tensor, u: Tensor | None = None) -> Distribution:
        return Independent(Normal(torch.zeros_like(z), (z / 2).exp()), 1)


def on_a_grid(model: Volatility, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return filtered means and the log-likelihood by quadrature over 801 states."""
    x = torch.linspace(-8, 8, 801, dtype=torch.float64)[:, None]
    with torch.no_grad():
        move = model.transition(x[:, None]).log_prob(x[None])
        weight, means, total = model.initial().log_prob(x), [], []
        for row in y:
            prior = torch.log_softmax(weight, 0)
            joint = prior + model.emission(x).log_prob(row)
            total.append(joint.logsumexp(0))
            means.append(torch.softmax(joint, 0) @ x[:, 0])
            weight = (torch.log_softmax(joint, 0)[:, None] + move).logsumexp(0)
    return torch.stack(means), torch.stack(total).sum()
