"""What each hidden state emits: families of distributions, one member a state.

Each family scores all states at once, learns from weighted data, and takes gaps per component.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Distribution,
    Independent,
    Poisson,
    constraints,
)
from torch.nn import functional

from ...core.arguments import checked
from ...core.deprecation import warn_renamed
from ...core.model import Readable
from .symbols import SymbolDistribution


class StateEmission(nn.Module):
    """The family of `p(y | z = k, u)`.

    Attributes:
        num_states: Number of states.
        obs_dim: Size of `y`.
        input_dim: Size of `u` that the emission itself reads; 0 when it reads none.
        lags: How many earlier observations it reads.
    """

    num_states: int
    obs_dim: int
    input_dim: int = 0
    lags: int = 0

    def log_prob(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        """Return `log p(y_t | z_t = k)`.

        Args:
            y: `(*batch, time, obs)`, NaN where missing.
            u: `(*batch, time, input)`.

        Returns:
            `(*batch, time, num_states)`, in nats.
        """
        raise NotImplementedError

    def distribution(self, z: Tensor, u: Tensor | None = None) -> Distribution:
        """Return `p(y | z)` for one-hot `z`, `(*axes, num_states)`."""
        if type(self).law is StateEmission.law:
            raise NotImplementedError
        warn_renamed(f"`{type(self).__name__}.law`", "`distribution`")
        return self.law(z, u)

    def distribution_after(self, z: Tensor, past: Tensor, u: Tensor | None = None) -> Distribution:
        """Return `p(y | z, past)`; `past` is `(*axes, lags, obs)`, oldest first."""
        return self.distribution(z, u)

    def law(self, z: Tensor, u: Tensor | None = None) -> Distribution:
        """Return `distribution(z, u)`; the old name."""
        warn_renamed("`StateEmission.law`", "`distribution`")
        return self.distribution(z, u)

    def law_after(self, z: Tensor, past: Tensor, u: Tensor | None = None) -> Distribution:
        """Return `distribution_after(z, past, u)`; the old name."""
        warn_renamed("`StateEmission.law_after`", "`distribution_after`")
        return self.distribution_after(z, past, u)

    def check(self, y: Tensor) -> None:
        """Refuse observations that no state can emit; `y` is `(*batch, time, obs)`.

        Raises:
            ValueError: An observation lies outside the support of the family.
        """

    def readable(self) -> dict[str, Readable]:
        """Return parameters in units of the data, with a name, by the name of what holds them."""
        return {}

    def initialize(self, y: Tensor, u: Tensor | None, generator: torch.Generator) -> None:
        """Spread the members over the data."""
        weights = clusters(y, self.num_states, generator)
        with torch.no_grad():
            self.maximize(y, u, weights)

    def maximize(self, y: Tensor, u: Tensor | None, weights: Tensor) -> None:
        """Maximise `sum weights * log_prob` over the free parameters.

        Args:
            y: `(*batch, time, obs)`.
            u: `(*batch, time, input)`.
            weights: Probabilities of the states, `(*batch, time, num_states)`.
        """
        raise NotImplementedError


@checked
class PoissonStates(StateEmission):
    """Independent counts with one rate per state and component.

    Args:
        num_states: Number of states.
        obs_dim: Number of counts.
        rates: `(num_states, obs)`, where learning starts; ones by default.
    """

    def __init__(self, num_states: int, obs_dim: int = 1, rates: Tensor | None = None) -> None:
        super().__init__()
        self.num_states, self.obs_dim = num_states, obs_dim
        start = torch.ones(num_states, obs_dim, dtype=torch.float64) if rates is None else rates
        self.log_rate = nn.Parameter(start.clone().log())

    def log_prob(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        """Return Poisson log-probabilities, `(*batch, time, num_states)`."""
        seen = ~torch.isnan(y)
        count = torch.where(seen, y, 0.0)[..., None, :]
        terms = count * self.log_rate - self.log_rate.exp() - torch.lgamma(count + 1)
        return torch.where(seen[..., None, :], terms, 0.0).sum(-1)

    def check(self, y: Tensor) -> None:
        """Refuse what is no count."""
        _require_whole(y, torch.inf, "counts 0, 1, 2 ... or NaN, as `PoissonStates` emits them")

    def readable(self) -> dict[str, Readable]:
        """Return the rates."""
        return {"log_rate": Readable("rate", self.log_rate.exp(), constraints.positive)}

    def distribution(self, z: Tensor, u: Tensor | None = None) -> Distribution:
        """Return independent Poisson counts."""
        return Independent(Poisson((z @ self.log_rate).exp(), validate_args=False), 1)

    def maximize(self, y: Tensor, u: Tensor | None, weights: Tensor) -> None:
        """Set rates to weighted means."""
        if self.log_rate.requires_grad:
            self.log_rate.copy_(weighted_mean(y, weights).clamp_min(1e-12).log())


@checked
class BernoulliStates(StateEmission):
    """Independent binary observations with one probability per state and component.

    Args:
        num_states: Number of states.
        obs_dim: Number of observations, each 0 or 1.
    """

    def __init__(self, num_states: int, obs_dim: int = 1) -> None:
        super().__init__()
        self.num_states, self.obs_dim = num_states, obs_dim
        self.logits = nn.Parameter(torch.zeros(num_states, obs_dim, dtype=torch.float64))

    def log_prob(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        """Return Bernoulli log-probabilities, `(*batch, time, num_states)`."""
        seen = ~torch.isnan(y)
        bit = torch.where(seen, y, 0.0)[..., None, :]
        terms = bit * self.logits - functional.softplus(self.logits)
        return torch.where(seen[..., None, :], terms, 0.0).sum(-1)

    def check(self, y: Tensor) -> None:
        """Refuse what is neither 0 nor 1."""
        _require_whole(y, 1, "0, 1 or NaN, as `BernoulliStates` emits them")

    def readable(self) -> dict[str, Readable]:
        """Return the probabilities of a one."""
        value = torch.sigmoid(self.logits)
        return {"logits": Readable("probability", value, constraints.unit_interval)}

    def distribution(self, z: Tensor, u: Tensor | None = None) -> Distribution:
        """Return independent binary observations."""
        return Independent(Bernoulli(logits=z @ self.logits, validate_args=False), 1)

    def maximize(self, y: Tensor, u: Tensor | None, weights: Tensor) -> None:
        """Set probabilities to weighted shares."""
        if self.logits.requires_grad:
            share = weighted_mean(y, weights).clamp(1e-12, 1 - 1e-12)
            self.logits.copy_(torch.logit(share))


@checked
class CategoricalStates(StateEmission):
    """One symbol out of `categories`, written as a number `0 ... categories - 1`.

    Args:
        num_states: Number of states.
        categories: Number of symbols.
        probs: `(num_states, categories)`, where learning starts; uniform by default.
    """

    obs_dim = 1

    def __init__(self, num_states: int, categories: int, probs: Tensor | None = None) -> None:
        super().__init__()
        self.num_states, self.categories = num_states, categories
        start = torch.full((num_states, categories), 1 / categories, dtype=torch.float64)
        self.logits = nn.Parameter((start if probs is None else probs).clone().log())

    def log_prob(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        """Return log-probabilities of the symbols, `(*batch, time, num_states)`."""
        seen = ~torch.isnan(y)
        symbol = torch.where(seen, y, 0.0).long()[..., 0]
        terms = torch.log_softmax(self.logits, -1).mT[symbol]
        return torch.where(seen, terms, 0.0)

    def check(self, y: Tensor) -> None:
        """Refuse what is no symbol."""
        last = self.categories - 1
        _require_whole(y, last, f"symbols 0 ... {last} or NaN: `CategoricalStates` has no other")

    def readable(self) -> dict[str, Readable]:
        """Return the probabilities of the symbols."""
        return {"logits": shares("probability", self.logits)}

    def distribution(self, z: Tensor, u: Tensor | None = None) -> Distribution:
        """Return a distribution of numbers `0 ... categories - 1`, event shape `(1,)`."""
        return SymbolDistribution(z @ torch.log_softmax(self.logits, -1))

    def initialize(self, y: Tensor, u: Tensor | None, generator: torch.Generator) -> None:
        """Start near the shares of the whole data, perturbed so that states can differ."""
        if not self.logits.requires_grad:
            return
        with torch.no_grad():
            self.maximize(y, u, y.new_ones(*y.shape[:-1], self.num_states))
            noise = torch.rand(self.logits.shape, generator=generator, dtype=self.logits.dtype)
            self.logits.add_(noise.to(self.logits.device))

    def maximize(self, y: Tensor, u: Tensor | None, weights: Tensor) -> None:
        """Set probabilities to weighted shares."""
        if self.logits.requires_grad:
            seen = ~torch.isnan(y[..., 0])
            hot = functional.one_hot(torch.where(seen, y[..., 0], 0.0).long(), self.categories)
            hot = torch.where(seen[..., None], hot.to(y.dtype), 0.0)
            counts = torch.einsum("...k,...c->...kc", weights, hot)
            counts = counts.reshape(-1, *self.logits.shape).sum(0)
            total = counts.sum(-1, keepdim=True)
            shares = (counts / torch.where(total > 0, total, 1.0)).clamp_min(1e-300)
            # A state that nothing was seen in keeps what it has.
            self.logits.copy_(torch.where(total > 0, shares.log(), self.logits))


def shares(name: str, logits: Tensor) -> Readable:
    """Return probabilities that sum to one over the last axis, as they are read."""
    rows = logits[..., 0].numel()
    probs = torch.softmax(logits, -1)
    return Readable(name, probs, constraints.unit_interval, logits.numel() - rows)


def weighted_mean(y: Tensor, weights: Tensor) -> Tensor:
    """Return means of `y` per state over what is observed, `(num_states, obs)`."""
    seen = ~torch.isnan(y)
    rows = weights.reshape(-1, weights.shape[-1])
    data = torch.where(seen, y, 0.0).reshape(-1, y.shape[-1])
    total = rows.mT @ seen.reshape(data.shape).to(y.dtype)
    return (rows.mT @ data) / total.clamp_min(math.ulp(0.0) ** 0.5)


def clusters(y: Tensor, count: int, generator: torch.Generator, rounds: int = 10) -> Tensor:
    """Return soft assignments of rows to `count` clusters, `(*batch, time, count)`, by k-means.

    Args:
        y: `(*batch, time, obs)`, NaN where missing.
        count: Number of clusters.
        generator: Chooses the first centres, each far from those before.
        rounds: Of k-means.

    Source: Arthur & Vassilvitskii (2007), k-means++.
    """
    flat = y.reshape(-1, y.shape[-1])
    mean, sd = flat.nanmean(0), _nan_sd(flat)
    data = torch.where(torch.isnan(flat), 0.0, (flat - mean) / sd)
    data = data.cpu()
    first = torch.randint(len(data), (1,), generator=generator)
    centres = data[first]
    for _ in range(count - 1):
        far = torch.cdist(data, centres).amin(-1).square() + 1e-12
        centres = torch.cat((centres, data[torch.multinomial(far, 1, generator=generator)]))
    for _ in range(rounds):
        nearest = torch.cdist(data, centres).argmin(-1)
        hot = functional.one_hot(nearest, count).to(data.dtype)
        size = hot.sum(0)[:, None]
        centres = torch.where(size > 0, (hot.mT @ data) / size.clamp_min(1), centres)
    soft = torch.softmax(-2 * torch.cdist(data, centres).square(), -1)
    return (0.9 * soft + 0.1 / count).to(y).reshape(*y.shape[:-1], count)


def _require_whole(y: Tensor, most: float, words: str) -> None:
    bad = (y < 0) | (y > most) | (y != y.floor()) & ~torch.isnan(y)
    if bool(bad.any()):
        raise ValueError(f"`y` must hold {words}, got {y[bad][0].item():g}.")


def _nan_sd(flat: Tensor) -> Tensor:
    sd = (flat - flat.nanmean(0)).square().nanmean(0).sqrt()
    return torch.where(sd > 0, sd, 1.0)
