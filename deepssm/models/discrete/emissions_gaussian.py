"""Gaussian emissions of hidden states: constant, regressed on inputs or on the past, mixed."""

from __future__ import annotations

import math
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
from .emissions import StateEmission, clusters, shares, weighted_mean

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
        seen = ~torch.isnan(y) & usable[..., None]
        value = torch.where(seen, y, 0.0)[..., None, :]
        mean = torch.einsum("kpf,...f->...kp", self.coefficients, features)
        residual = torch.where(seen[..., None, :], value - mean, 0.0)
        factor = self.scale_tril
        if bool((seen.any(-1) & ~seen.all(-1)).any()):
            factor = _masked_factor(factor, seen)
        white = torch.linalg.solve_triangular(factor, residual[..., None], upper=False)[..., 0]
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        terms = -0.5 * white.square().sum(-1) - log_det
        terms = terms - 0.5 * math.log(2 * math.pi) * seen.sum(-1, keepdim=True).to(y.dtype)
        return torch.where(seen.any(-1)[..., None], terms, 0.0)

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
        """Weighted least squares, missing components filled in by their expectation."""
        features, usable = self._features(y, u)
        seen = ~torch.isnan(y) & usable[..., None]
        rows = seen.any(-1).reshape(-1)
        w = weights.reshape(-1, self.num_states)[rows]
        phi = features.reshape(-1, features.shape[-1])[rows]
        seen = seen.reshape(-1, y.shape[-1])[rows]
        value = torch.where(seen, y.reshape(-1, y.shape[-1])[rows], 0.0)
        filled, extra = self._fill(value, phi, seen)
        if self.coefficients.requires_grad:
            moment = torch.einsum("tk,tf,tg->kfg", w, phi, phi)
            target = torch.einsum("tk,tkp,tf->kpf", w, filled, phi)
            solution = torch.linalg.lstsq(moment, target.mT, driver="gelsd").solution.mT
            self.coefficients.copy_(solution)
        if self.raw_scale.requires_grad:
            mean = torch.einsum("kpf,tf->tkp", self.coefficients, phi)
            left = filled - mean
            scatter = torch.einsum("tk,tkp,tkq->kpq", w, left, left)
            scatter = scatter + torch.einsum("tk,tkpq->kpq", w, extra)
            self._set_scale(scatter, w.sum(0), value, seen)

    def initialize(self, y: Tensor, u: Tensor | None, generator: torch.Generator) -> None:
        """Fit every state to a cluster; the spread starts at the data's."""
        with torch.no_grad():
            flat = y.reshape(-1, y.shape[-1])
            sd = (flat - flat.nanmean(0)).square().nanmean(0).sqrt().clamp_min(1e-12)
            diagonal = sd.log().expand(self.raw_scale.shape[0], -1)
            full = self.covariance != "diagonal"
            if self.raw_scale.requires_grad:
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
        return torch.cat(parts if past is None else [*parts, past], -1)

    def _distribution(self, z: Tensor, features: Tensor) -> Distribution:
        coefficients = torch.einsum("...k,kpf->...pf", z, self.coefficients)
        mean = (coefficients @ features[..., None])[..., 0]
        factor = torch.einsum("...k,kpq->...pq", z, self.scale_tril)
        if self.covariance == "diagonal":
            return Independent(Normal(mean, factor.diagonal(dim1=-2, dim2=-1)), 1)
        return MultivariateNormal(mean, scale_tril=factor, validate_args=False)

    def _fill(self, value: Tensor, phi: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return `E[y | seen]` and `Cov[y | seen]` per row and state."""
        n, p, k = *value.shape, self.num_states
        if bool(seen.all()):
            return value[:, None].expand(n, k, p), value.new_zeros(1, k, p, p).expand(n, k, p, p)
        factor = self.scale_tril
        cov = factor @ factor.mT
        mean = torch.einsum("kpf,tf->tkp", self.coefficients, phi)
        both = seen[:, None, :, None] & seen[:, None, None, :]
        eye = torch.eye(p, dtype=value.dtype, device=value.device)
        inverse = torch.where(both, torch.linalg.inv(torch.where(both, cov, eye)), 0.0)
        left = torch.where(seen[:, None], value[:, None] - mean, 0.0)
        filled = mean + (cov @ inverse @ left[..., None])[..., 0]
        return torch.where(seen[:, None], value[:, None], filled), cov - cov @ inverse @ cov

    def _set_scale(self, scatter: Tensor, total: Tensor, value: Tensor, seen: Tensor) -> None:
        if self.covariance == "tied":
            scatter, total = scatter.sum(0, keepdim=True), total.sum(0, keepdim=True)
        cov = scatter / total.clamp_min(1e-12)[:, None, None]
        mean = weighted_mean(torch.where(seen, value, torch.nan), seen.any(-1)[:, None].to(value))
        spread = torch.where(seen, (value - mean).square(), 0.0).sum(0) / seen.sum(0)
        least = self.floor**2 * torch.diag(spread)
        factor = psd_factor((cov + cov.mT) / 2 + least)
        diagonal = factor.diagonal(dim1=-2, dim2=-1).log()
        if self.covariance == "diagonal":
            variance = (cov + least).diagonal(dim1=-2, dim2=-1)
            self.raw_scale.copy_(variance.log() / 2)
        else:
            self.raw_scale.copy_(factor.tril(-1) + torch.diag_embed(diagonal))


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
            torch.isnan(y).all(-1)[..., None], 0.0, torch.logsumexp(self._terms(y), -1)
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
        weights = Categorical(logits=z @ torch.log_softmax(self.logits, -1))
        return MixtureSameFamily(weights, Independent(Normal(mean, sd), 1))

    def maximize(self, y: Tensor, u: Tensor | None, weights: Tensor) -> None:
        """One EM step of each state's mixture, under weighted data."""
        flat, rows = y.reshape(-1, y.shape[-1]), weights.reshape(-1, self.num_states)
        share = rows[..., None] * torch.softmax(self._terms(flat), -1)
        share = torch.where(torch.isnan(flat).all(-1)[:, None, None], 0.0, share)
        together = share.flatten(-2)
        mean = weighted_mean(flat, together)
        square = weighted_mean((flat[:, None] - mean).square().flatten(0, 1), _blocks(together))
        floor = self.floor**2 * (flat - flat.nanmean(0)).square().nanmean(0)
        if self.logits.requires_grad:
            self.logits.copy_(share.sum(0).clamp_min(1e-300).log())
        if self.mean.requires_grad:
            self.mean.copy_(mean.reshape(self.mean.shape))
        if self.log_sd.requires_grad:
            self.log_sd.copy_((square + floor).log().div(2).reshape(self.log_sd.shape))

    def initialize(self, y: Tensor, u: Tensor | None, generator: torch.Generator) -> None:
        """Give every component a cluster of its own."""
        with torch.no_grad():
            flat = y.reshape(-1, y.shape[-1])
            soft = clusters(flat, self.num_states * self.components, generator)
            if self.mean.requires_grad:
                self.mean.copy_(weighted_mean(flat, soft).reshape(self.mean.shape))
            sd = (flat - flat.nanmean(0)).square().nanmean(0).sqrt().clamp_min(1e-12)
            if self.log_sd.requires_grad:
                self.log_sd.copy_(sd.log().expand(self.log_sd.shape))

    def _terms(self, y: Tensor) -> Tensor:
        seen = ~torch.isnan(y)[..., None, None, :]
        value = torch.where(torch.isnan(y), 0.0, y)[..., None, None, :]
        terms = Normal(self.mean, self.log_sd.exp()).log_prob(value)
        return torch.where(seen, terms, 0.0).sum(-1) + torch.log_softmax(self.logits, -1)


def _masked_factor(factor: Tensor, seen: Tensor) -> Tensor:
    both = seen[..., None, :, None] & seen[..., None, None, :]
    eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    return torch.linalg.cholesky(torch.where(both, factor @ factor.mT, eye))


def _blocks(weights: Tensor) -> Tensor:
    """Lay `(n, m)` weights out as `(n m, m)`, row `(i, j)` holding `w_ij` in column `j`."""
    return torch.diag_embed(weights).flatten(0, 1)
