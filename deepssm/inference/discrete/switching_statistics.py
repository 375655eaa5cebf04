"""The expected joint density of a switching linear model, as a function of its parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.model import LinearConditional, LinearParameters, Series, StateSpaceModel
from ...core.results import Smoothed
from .required import switching_model
from .switching_bound import (
    Whitened,
    emission_moment,
    parameters_of,
    start_moment,
    transition_moment,
    whiten,
)


class Posterior(NamedTuple):
    """A structured posterior `q(s) q(z)` and the bound it gives.

    Attributes:
        modes: `q(s_t)`, `(*batch, time, modes)`.
        pairs: `q(s_{t-1}, s_t)`, `(*batch, time, modes, modes)`; entry 0 is zero.
        states: Moments of `q(z)`.
        bound: Lower bound of `log p(y)` in nats, `(*batch,)`.
    """

    modes: Tensor
    pairs: Tensor
    states: Smoothed
    bound: Tensor


class _Sum(NamedTuple):
    """Weighted moments of `x = (out, in, 1)`, summed over time where nothing changes."""

    moment: Tensor  # (*axes, modes, size, size)
    count: Tensor  # (*axes, modes)
    seen: Tensor | None  # which outputs count, (*axes, out)


@dataclass(frozen=True)
class ExpectedDensity:
    """`E_q log p(y, z, s)` in the place of a log-likelihood, for learners that climb one.

    Args:
        posterior: `q`.
        first: Weighted moments of the start.
        transition: Of the steps.
        emission: Of the observations.
    """

    posterior: Posterior
    first: _Sum
    transition: _Sum
    emission: _Sum

    def log_likelihood(self, model: StateSpaceModel, series: Series) -> Tensor:
        """Return the parts of the expectation, whose sum counts, `(parts,)`, in nats."""
        parameters, chain = parameters_of(model, series), switching_model(model)
        terms = [
            _expected(whiten(parameters.transition, "Q"), self.transition),
            _expected(whiten(parameters.emission, "R", self.emission.seen), self.emission),
        ]
        mean, cov, _ = parameters.initial
        if mean.requires_grad or cov.requires_grad:
            none = mean.new_zeros(*mean.shape, 0)
            terms.append(_expected(whiten(LinearConditional(none, mean, cov), "P0"), self.first))
        q = self.posterior
        pi, A = chain.log_initial(), chain.log_transition()
        terms.append(_product(q.modes[..., 0, :], pi).sum())
        terms.append(_product(q.pairs, A).sum())
        return torch.stack(terms)


def expected_density(parameters: LinearParameters, y: Tensor, q: Posterior) -> ExpectedDensity:
    """Sum the moments of a posterior as far as the model is constant in time.

    Args:
        parameters: Of the model, for their shapes alone.
        y: `(*batch, time, obs)`, NaN where missing.
        q: The posterior.
    """
    first = _Sum(
        torch.einsum("...k,...ij->...kij", q.modes[..., 0, :], start_moment(q.states)),
        q.modes[..., 0, :],
        None,
    )
    steps = q.modes.clone()
    steps[..., 0, :] = 0.0
    moves = _weighted(steps, transition_moment(q.states), None, parameters.transition)
    seen = ~torch.isnan(y)
    observations = _weighted(q.modes, emission_moment(q.states, y), seen, parameters.emission)
    return ExpectedDensity(q, first, moves, observations)


def _weighted(
    weight: Tensor, moment: Tensor, seen: Tensor | None, conditional: LinearConditional
) -> _Sum:
    if not all(
        x.ndim == rank + 2 and x.shape[0] == 1
        for x, rank in zip(conditional, (2, 1, 2), strict=True)
    ):
        return _Sum(weight[..., None, None] * moment[..., None, :, :], weight, seen)
    flat, rows = weight.reshape(-1, weight.shape[-1]), moment.reshape(-1, *moment.shape[-2:])
    if seen is None:
        group, patterns = torch.zeros(len(flat), dtype=torch.long, device=flat.device), None
    else:
        patterns, group = torch.unique(
            seen.reshape(-1, seen.shape[-1]), dim=0, return_inverse=True
        )
    count = 1 if patterns is None else len(patterns)
    shares = torch.nn.functional.one_hot(group, count).to(flat.dtype)
    total = torch.einsum("tg,tk,tij->gkij", shares, flat, rows)
    return _Sum(total, shares.mT @ flat, patterns)


def _expected(whitened: Whitened, total: _Sum) -> Tensor:
    value = total.count * whitened.charge - 0.5 * (
        whitened.rows @ total.moment * whitened.rows
    ).sum((-2, -1))
    return value.sum()


def _product(weight: Tensor, log: Tensor) -> Tensor:
    """Return `weight * log`, zero where nothing is expected, also of impossible steps."""
    return torch.where(weight > 0, weight * torch.where(weight > 0, log, 0.0), 0.0)
