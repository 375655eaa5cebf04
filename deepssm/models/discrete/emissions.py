"""What each hidden state emits: families of distributions, one member a state.

Each family scores all states at once, learns from weighted data, and takes gaps per component.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, constraints
from torch.nn import functional

from ...core.arguments import checked
from ...core.deprecation import warn_renamed
from ...core.model import Readable
from ...core.undefined import undefined
from .counts import BinaryDistribution, CountDistribution
from .symbols import SymbolDistribution
from .weighted import chosen, clusters, weighted_logs, weighted_mean


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
        raise undefined(
            self,
            "log_prob(self, y, u)",
            "return `log p(y_t | z_t = k)`, `(*batch, time, num_states)`",
        )

    def distribution(self, z: Tensor, u: Tensor | None = None) -> Distribution:
        """Return `p(y | z)` for one-hot `z`, `(*axes, num_states)`."""
        if type(self).law is StateEmission.law:
            raise undefined(
                self, "distribution(self, z, u)", "return `p(y | z)` for one-hot states `z`"
            )
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
        raise undefined(
            self,
            "maximize(self, y, u, weights)",
            "set the free parameters to the maximum of `sum weights * log_prob`",
        )


@checked
class PoissonStates(StateEmission):
    """Independent counts with one rate per state and component.

    Args:
        num_states: Number of states.
        obs_dim: Number of counts.
        rates: `(num_states, obs)`, where learning starts; ones by default. A rate of 0 is a state
            that emits nothing.

    Raises:
        ValueError: `rates` are negative, infinite, or of another shape.
    """

    def __init__(self, num_states: int, obs_dim: int = 1, rates: Tensor | None = None) -> None:
        super().__init__()
        self.num_states, self.obs_dim = num_states, obs_dim
        shape = (num_states, obs_dim)
        start = torch.ones(shape, dtype=torch.float64) if rates is None else rates
        start = _within(start, shape, torch.finfo(torch.float64).max, "rates")
        self.log_rate = nn.Parameter(start.log())

    def log_prob(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        """Return Poisson log-probabilities, `(*batch, time, num_states)`."""
        seen = ~torch.isnan(y)
        count = torch.where(seen, y, 0.0)
        mass = seen.to(count.dtype) @ self.log_rate.exp().mT
        scale = torch.lgamma(count + 1).sum(-1, keepdim=True)
        return weighted_logs(count, self.log_rate) - mass - scale

    def check(self, y: Tensor) -> None:
        """Refuse what is no count."""
        _require_whole(y, torch.inf, "counts 0, 1, 2 ... or NaN, as `PoissonStates` emits them")

    def readable(self) -> dict[str, Readable]:
        """Return the rates."""
        return {"log_rate": Readable("rate", self.log_rate.exp(), constraints.positive)}

    def distribution(self, z: Tensor, u: Tensor | None = None) -> Distribution:
        """Return independent Poisson counts."""
        return Independent(CountDistribution(chosen(z, self.log_rate)), 1)

    def maximize(self, y: Tensor, u: Tensor | None, weights: Tensor) -> None:
        """Set rates to weighted means; a rate of exactly 0 stays if nothing speaks against it."""
        if self.log_rate.requires_grad:
            rate = weighted_mean(y, weights)
            never = torch.isneginf(self.log_rate) & (rate == 0)
            self.log_rate.copy_(torch.where(never, 0.0, rate.clamp_min(1e-12)).log())


@checked
class BernoulliStates(StateEmission):
    """Independent binary observations with one probability per state and component.

    Args:
        num_states: Number of states.
        obs_dim: Number of observations, each 0 or 1.
        probs: Probabilities of a one, `(num_states, obs)`, where learning starts; halves by
            default. They may be 0 or 1.

    Raises:
        ValueError: `probs` lie outside 0 and 1, or have another shape.
    """

    def __init__(self, num_states: int, obs_dim: int = 1, probs: Tensor | None = None) -> None:
        super().__init__()
        self.num_states, self.obs_dim = num_states, obs_dim
        shape = (num_states, obs_dim)
        start = torch.full(shape, 0.5, dtype=torch.float64) if probs is None else probs
        self.logits = nn.Parameter(torch.logit(_within(start, shape, 1.0, "probs")))

    def log_prob(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        """Return Bernoulli log-probabilities, `(*batch, time, num_states)`."""
        seen = ~torch.isnan(y)
        ones, zeros = torch.where(seen, y, 0.0), torch.where(seen, 1 - y, 0.0)
        yes, no = functional.logsigmoid(self.logits), functional.logsigmoid(-self.logits)
        return weighted_logs(ones, yes) + weighted_logs(zeros, no)

    def check(self, y: Tensor) -> None:
        """Refuse what is neither 0 nor 1."""
        _require_whole(y, 1, "0, 1 or NaN, as `BernoulliStates` emits them")

    def readable(self) -> dict[str, Readable]:
        """Return the probabilities of a one."""
        value = torch.sigmoid(self.logits)
        return {"logits": Readable("probability", value, constraints.unit_interval)}

    def distribution(self, z: Tensor, u: Tensor | None = None) -> Distribution:
        """Return independent binary observations."""
        return Independent(BinaryDistribution(chosen(z, self.logits)), 1)

    def maximize(self, y: Tensor, u: Tensor | None, weights: Tensor) -> None:
        """Set probabilities to weighted shares; 0 and 1 stay if nothing speaks against them."""
        if self.logits.requires_grad:
            share, old = weighted_mean(y, weights), torch.sigmoid(self.logits)
            certain = torch.isinf(self.logits) & (share == old)
            share = torch.where(certain, old, share.clamp(1e-12, 1 - 1e-12))
            self.logits.copy_(torch.logit(share))


@checked
class CategoricalStates(StateEmission):
    """One symbol out of `categories`, written as a number `0 ... categories - 1`.

    Args:
        num_states: Number of states.
        categories: Number of symbols.
        probs: `(num_states, categories)`, where learning starts, zeros among them or not; uniform
            by default.

    Raises:
        ValueError: `probs` lie outside 0 and 1, have another shape, or do not sum to one.
    """

    obs_dim = 1

    def __init__(self, num_states: int, categories: int, probs: Tensor | None = None) -> None:
        super().__init__()
        self.num_states, self.categories = num_states, categories
        start = torch.full((num_states, categories), 1 / categories, dtype=torch.float64)
        start = start if probs is None else _within(probs, tuple(start.shape), 1.0, "probs")
        total = start.sum(-1)
        if not torch.allclose(total, torch.ones_like(total)):
            raise ValueError(f"`probs` must sum to one in each state, got {total.tolist()}.")
        self.logits = nn.Parameter(start.log())

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
        return SymbolDistribution(chosen(z, torch.log_softmax(self.logits, -1)))

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
            rows = weights.reshape(-1, self.num_states)
            counts = rows.mT @ hot.reshape(len(rows), self.categories)
            total = counts.sum(-1, keepdim=True)
            share = counts / torch.where(total > 0, total, 1.0)
            never = torch.isneginf(self.logits) & (share == 0)
            share = torch.where(never, 0.0, share.clamp_min(1e-300))
            # A state that nothing was seen in keeps what it has.
            self.logits.copy_(torch.where(total > 0, share.log(), self.logits))


def shares(name: str, logits: Tensor) -> Readable:
    """Return probabilities that sum to one over the last axis, as they are read."""
    rows = logits[..., 0].numel()
    probs = torch.softmax(logits, -1)
    return Readable(name, probs, constraints.unit_interval, logits.numel() - rows)


def _require_whole(y: Tensor, most: float, words: str) -> None:
    bad = (y < 0) | (y > most) | (y != y.floor()) & ~torch.isnan(y)
    if bool(bad.any()):
        raise ValueError(f"`y` must hold {words}, got {y[bad][0].item():g}.")


def _within(values: Tensor, shape: tuple[int, ...], most: float, name: str) -> Tensor:
    """Return starting values, checked."""
    values = torch.as_tensor(values)
    values = values.detach().clone() if values.is_floating_point() else values.double()
    if values.shape != shape or not bool(((values >= 0) & (values <= most)).all()):
        limit = "finite" if most > 1 else "at most 1"
        raise ValueError(
            f"`{name}` must be numbers of at least 0 and {limit}, of shape {tuple(shape)}, got "
            f"shape {tuple(values.shape)} and {values.min().item():g} to {values.max().item():g}."
        )
    return values
