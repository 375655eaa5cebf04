"""Gaussian emissions of hidden states: constant, regressed on inputs or on the past, mixed."""

from __future__ import annotations

from collections.abc import Sequence
from math import ulp
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    constraints,
)
from torch.nn import functional

from ...core.arguments import checked
from ...core.gaussian import psd_factor
from ...core.model import Readable
from .emissions import StateEmission, shares
from .gaussian_rows import FilledRows, all_log_densities, groups_of, require_spread
from .weighted import chosen, clusters, weighted_mean

Covariance = Literal["full", "diagonal", "tied"]


@checked
class RegressionStates(StateEmission):
    """`y = b_k + W_k u_t + sum_l A_kl y_{t-l} + v`, `v ~ N(0, R_k)`, in state `k`.

    With `lags`, observations are scored given the ones before them; those whose past is missing or
    lies before the data count as missing.

    Args:
        num_states: Number of states.
        obs_dim: Size of `y`.
        input_dim: Size of `u`.
        lags: Number of earlier observations.
        covariance: `"full"`, `"diagonal"` or `"tied"` (full and the same in all states).
        floor: Least standard deviation that EM may reach, as a share of the data's.

    Source: Hamilton (1989), Econometrica 57(2); Fridman (1994) for inputs.
    """

    def __init__(
        self,
        num_states: int,
        obs_dim: int,
        input_dim: int = 0,
        *,
        lags: int = 0,
        covariance: Covariance = "full",
        floor: float = 1e-3,
    ) -> None:
        super().__init__()
        self.num_states, self.obs_dim, self.input_dim = num_states, obs_dim, input_dim
        self.lags, self.covariance, self.floor = lags, covariance, floor
        features = 1 + input_dim + lags * obs_dim
        self.coefficients = nn.Parameter(
            torch.zeros(num_states, obs_dim, features, dtype=torch.float64)
        )
        count = 1 if covariance == "tied" else num_states
        shape = (count, obs_dim) if covariance == "diagonal" else (count, obs_dim, obs_dim)
        self.raw_scale = nn.Parameter(torch.zeros(shape, dtype=torch.float64))

    @property
    def scale_tril(self) -> Tensor:
        """Cholesky factors of `R_k`, `(num_states, obs, obs)`."""
        raw = self.raw_scale
        if self.covariance == "diagonal":
            return torch.diag_embed(raw.exp())
        diagonal = raw.diagonal(dim1=-2, dim2=-1).exp()
        return (raw.tril(-1) + torch.diag_embed(diagonal)).expand(self.num_states, -1, -1)

    def log_prob(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        """Return Gaussian log-densities, `(*batch, time, num_states)`."""
        features, usable = self._features(y, u)
        seen = (~torch.isnan(y) & usable[..., None]).reshape(-1, self.obs_dim)
        flat, phi = y.reshape(-1, self.obs_dim), features.reshape(-1, features.shape[-1])
        found = all_log_densities(flat, phi, seen, self.coefficients, self.scale_tril)
        return found.reshape(*y.shape[:-1], -1)

    def readable(self) -> dict[str, Readable]:
        """Return means (or coefficients) and standard deviations (or covariances)."""
        alone = self.coefficients.shape[-1] == 1
        centre = Readable("mean", self.coefficients[..., 0]) if alone else None
        factor = self.scale_tril[: len(self.raw_scale)]
        spread = Readable("sd", factor.diagonal(dim1=-2, dim2=-1), constraints.positive)
        if self.covariance != "diagonal":
            free = len(factor) * self.obs_dim * (self.obs_dim + 1) // 2
            spread = Readable("cov", factor @ factor.mT, count=free)
        return {
            "coefficients": centre or Readable("coefficient", self.coefficients),
            "raw_scale": spread,
        }

    def distribution(self, z: Tensor, u: Tensor | None = None) -> Distribution:
        """Return the Gaussian of state `z`.

        Raises:
            ValueError: the family reads earlier observations.
        """
        if self.lags:
            raise ValueError(
                "This emission reads earlier observations, which `emission(z, u)` does not get: "
                "use `emission_after(z, past, u)`, or `ForwardBackward()`, which does."
            )
        return self._distribution(z, self._join(z, u, None))

    def distribution_after(self, z: Tensor, past: Tensor, u: Tensor | None = None) -> Distribution:
        """Return the Gaussian of state `z` after `past`, `(*axes, lags, obs)`, oldest first."""
        newest_first = past.flip(-2).flatten(-2)
        return self._distribution(z, self._join(z, u, newest_first if self.lags else None))

    def maximize(self, y: Tensor, u: Tensor | None, weights: Tensor) -> None:
        """Weighted least squares, missing components filled in by their expectation.

        Raises:
            ValueError: Standard deviations are free, and a component of `y` does not vary.
        """
        features, usable = self._features(y, u)
        seen = (~torch.isnan(y) & usable[..., None]).reshape(-1, self.obs_dim)
        free = self.raw_scale.requires_grad
        spread = require_spread(y.reshape(-1, self.obs_dim), seen) if free else seen.new_zeros(())
        flat, w = y.reshape(-1, self.obs_dim), weights.reshape(-1, self.num_states)
        phi, blocks = features.reshape(-1, features.shape[-1]), []
        groups = groups_of(seen)
        for rows, pattern in groups if len(groups) > 1 else ():
            if bool(pattern.any()):
                for part in rows.split(_block(self.num_states * self.obs_dim)):
                    blocks.append(self._fill(flat[part], phi[part], w[part], pattern))
        if len(groups) == 1 and bool(groups[0][1].any()):
            blocks.append(self._fill(flat, phi, w, groups[0][1]))
        if self.coefficients.requires_grad and blocks:
            moment = sum((b.moment() for b in blocks), torch.zeros(()).to(w))
            target = sum((b.target() for b in blocks), torch.zeros(()).to(w))
            solution = torch.linalg.lstsq(moment, target.mT, driver="gelsd").solution.mT
            self.coefficients.copy_(solution)
        if free and blocks:
            scatter = sum((b.scatter(self.coefficients) for b in blocks), torch.zeros(()).to(w))
            total = sum((b.weight.sum(-1) for b in blocks), torch.zeros(()).to(w))
            self._set_scale(scatter, total, spread)

    def initialize(self, y: Tensor, u: Tensor | None, generator: torch.Generator) -> None:
        """Fit every state to a cluster; the spread starts at the data's."""
        with torch.no_grad():
            flat = y.reshape(-1, y.shape[-1])
            full = self.covariance != "diagonal"
            if self.raw_scale.requires_grad:
                sd = require_spread(flat, ~torch.isnan(flat)).sqrt()
                diagonal = sd.log().expand(self.raw_scale.shape[0], -1)
                self.raw_scale.copy_(torch.diag_embed(diagonal) if full else diagonal)
            self.maximize(y, u, clusters(y, self.num_states, generator))

    def _features(self, y: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return `[1, u_t, y_{t-1}, ...]` and where all of it is known."""
        known = torch.where(torch.isnan(y), 0.0, y)
        usable = torch.ones_like(y[..., 0], dtype=torch.bool)
        past = []
        for lag in range(1, self.lags + 1):
            past.append(functional.pad(known, (0, 0, lag, 0))[..., : y.shape[-2], :])
            there = functional.pad((~torch.isnan(y)).all(-1), (lag, 0))[..., : y.shape[-2]]
            usable = usable & there
        joined = torch.cat(past, -1) if past else None
        return self._join(y, u, joined), usable

    def _join(self, like: Tensor, u: Tensor | None, past: Tensor | None) -> Tensor:
        parts = [torch.ones_like(like[..., :1])]
        if self.input_dim:
            if u is None:
                raise ValueError(f"`u` is needed: this emission reads {self.input_dim} inputs.")
            parts.append(u.expand(*like.shape[:-1], self.input_dim))
        parts = parts if past is None else [*parts, past]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def _distribution(self, z: Tensor, features: Tensor) -> Distribution:
        coefficients = torch.einsum("...k,kpf->...pf", z, self.coefficients)
        mean = (coefficients @ features[..., None])[..., 0]
        factor = torch.einsum("...k,kpq->...pq", z, self.scale_tril)
        if self.covariance == "diagonal":
            return Independent(Normal(mean, factor.diagonal(dim1=-2, dim2=-1)), 1)
        return MultivariateNormal(mean, scale_tril=factor, validate_args=False)

    def _fill(self, value: Tensor, phi: Tensor, w: Tensor, pattern: Tensor) -> FilledRows:
        """Fill the gaps of rows with one pattern of them."""
        if bool(pattern.all()):
            return FilledRows(value.mT[None], None, phi, w.mT)
        factor = self.scale_tril
        cov = factor @ factor.mT
        part = cov[:, pattern][:, :, pattern]
        gain = torch.linalg.solve(part, cov[:, pattern]).mT
        mean = self.coefficients @ phi.mT
        filled = mean + gain @ (value[:, pattern].mT - mean[:, pattern])
        filled[:, pattern] = value[:, pattern].mT.expand(len(mean), -1, -1)
        return FilledRows(filled, cov - gain @ cov[:, pattern], phi, w.mT)

    def _set_scale(self, scatter: Tensor, total: Tensor, spread: Tensor) -> None:
        if self.covariance == "tied":
            scatter, total = scatter.sum(0, keepdim=True), total.sum(0, keepdim=True)
        cov = scatter / total.clamp_min(1e-12)[:, None, None]
        least = self.floor**2 * torch.diag(spread)
        factor = psd_factor((cov + cov.mT) / 2 + least)
        if self.covariance == "diagonal":
            self.raw_scale.copy_((cov + least).diagonal(dim1=-2, dim2=-1).log() / 2)
        else:
            logs = factor.diagonal(dim1=-2, dim2=-1).log()
            self.raw_scale.copy_(factor.tril(-1) + torch.diag_embed(logs))


@checked
class GaussianStates(RegressionStates):
    """`y ~ N(b_k, R_k)` in state `k`.

    Args:
        num_states: Number of states.
        obs_dim: Size of `y`.
        covariance: `"full"`, `"diagonal"` or `"tied"`.
        floor: Least standard deviation that EM may reach, as a share of the data's.
    """

    def __init__(
        self,
        num_states: int,
        obs_dim: int = 1,
        *,
        covariance: Covariance = "full",
        floor: float = 1e-3,
    ) -> None:
        super().__init__(num_states, obs_dim, covariance=covariance, floor=floor)


@checked
class MixtureStates(StateEmission):
    """A mixture of diagonal Gaussians in every state.

    Args:
        num_states: Number of states.
        obs_dim: Size of `y`.
        components: Gaussians per state.
        floor: Least standard deviation that EM may reach, as a share of the data's.

    Source: Juang, Levinson & Sondhi (1986), IEEE Transactions on Information Theory 32(2).
    """

    def __init__(
        self, num_states: int, obs_dim: int = 1, components: int = 2, floor: float = 1e-3
    ) -> None:
        super().__init__()
        self.num_states, self.obs_dim, self.components = num_states, obs_dim, components
        self.floor = floor
        shape = (num_states, components)
        self.logits = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
        self.mean = nn.Parameter(torch.zeros(*shape, obs_dim, dtype=torch.float64))
        self.log_sd = nn.Parameter(torch.zeros(*shape, obs_dim, dtype=torch.float64))

    def log_prob(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        """Return mixture log-densities, `(*batch, time, num_states)`."""
        return torch.where(
            torch.isnan(y).all(-1)[..., None], 0.0, torch.logsumexp(self.terms(y), -1)
        )

    def readable(self) -> dict[str, Readable]:
        """Return weights, means and standard deviations."""
        return {
            "logits": shares("weight", self.logits),
            "mean": Readable("mean", self.mean),
            "log_sd": Readable("sd", self.log_sd.exp(), constraints.positive),
        }

    def distribution(self, z: Tensor, u: Tensor | None = None) -> Distribution:
        """Return the mixture of state `z`."""
        mean = torch.einsum("...k,kcp->...cp", z, self.mean)
        sd = torch.einsum("...k,kcp->...cp", z, self.log_sd).exp()
        weights = Categorical(logits=chosen(z, torch.log_softmax(self.logits, -1)))
        return MixtureSameFamily(weights, Independent(Normal(mean, sd), 1))

    def maximize(self, y: Tensor, u: Tensor | None, weights: Tensor) -> None:
        """One EM step of each state's mixture, under weighted data."""
        flat, rows = y.reshape(-1, y.shape[-1]), weights.reshape(-1, self.num_states)
        free = self.log_sd.requires_grad
        spread = require_spread(flat, ~torch.isnan(flat)) if free else flat.new_zeros(())
        parts = torch.arange(len(flat), device=flat.device).split(_block(2 * self.mean.numel()))
        logits, mean, log_sd = (x.detach().clone() for x in self.parameters())
        sums = [_responsibilities(self, flat[part], rows[part]) for part in parts]
        total = torch.stack([s.sum(0) for s in sums]).sum(0)
        if self.logits.requires_grad:
            never = torch.isneginf(logits) & (total == 0)
            self.logits.copy_(torch.where(never, 0.0, total.clamp_min(1e-300)).log())
        together = torch.cat(sums).flatten(-2)
        if self.mean.requires_grad:
            mean = weighted_mean(flat, together).reshape(mean.shape)
        square = _mean_square(flat, together, mean.flatten(0, 1), parts)
        self.mean.copy_(mean)
        if free:
            log_sd = (square + self.floor**2 * spread).log().div(2).reshape(log_sd.shape)
        self.log_sd.copy_(log_sd)

    def initialize(self, y: Tensor, u: Tensor | None, generator: torch.Generator) -> None:
        """Give every component a cluster of its own."""
        with torch.no_grad():
            flat = y.reshape(-1, y.shape[-1])
            soft = clusters(flat, self.num_states * self.components, generator)
            if self.mean.requires_grad:
                self.mean.copy_(weighted_mean(flat, soft).reshape(self.mean.shape))
            if self.log_sd.requires_grad:
                spread = require_spread(flat, ~torch.isnan(flat))
                self.log_sd.copy_((spread.log() / 2).expand(self.log_sd.shape))

    def terms(self, y: Tensor) -> Tensor:
        """Return log-densities with weights, `(*axes, num_states, components)`."""
        flat = y.reshape(-1, y.shape[-1])
        centres, spread = self.mean.flatten(0, 1)[..., None], self.log_sd.flatten(0, 1).exp()
        phi = flat.new_ones(len(flat), 1)
        given = flat, phi, ~torch.isnan(flat), centres, torch.diag_embed(spread)
        terms = all_log_densities(*given).reshape(*y.shape[:-1], *self.logits.shape)
        return terms + torch.log_softmax(self.logits, -1)


def _responsibilities(family: MixtureStates, y: Tensor, weights: Tensor) -> Tensor:
    """Return the expected share of each component, `(rows, num_states, components)`."""
    share = weights[..., None] * torch.softmax(family.terms(y), -1)
    return torch.where(torch.isnan(y).all(-1)[:, None, None], 0.0, share)


def _mean_square(y: Tensor, weights: Tensor, mean: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """Return weighted mean squares about `mean`, `(m, obs)`, by blocks of rows.

    Args:
        y: `(rows, obs)`, NaN where missing.
        weights: `(rows, m)`.
        mean: `(m, obs)`.
        parts: Blocks of rows.
    """
    seen = ~torch.isnan(y)
    total = weights.mT @ seen.to(y.dtype)
    square = torch.zeros_like(mean)
    for part in parts:
        left = torch.where(seen[part, None], y[part, None] - mean, 0.0)
        square += torch.einsum("tm,tmp->mp", weights[part], left.square())
    return square / total.clamp_min(ulp(0.0) ** 0.5)


def _block(numbers: int) -> int:
    """Return how many rows to do at once, if each needs so many numbers: what a cache holds."""
    return max(64, 100_000 // max(numbers, 1))
