"""Updates that doubt their observations: gating, Student-t and Huber noise.

Each is a value that conditions a linearised emission and says how far it trusted
each observation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ...core.arguments import checked
from .linearized import Linearized
from .steps import Conditioned, condition


@runtime_checkable
class Robust(Protocol):
    """Conditions on observations of which some may be wrong.

    With `weigh` it serves `Kalman(robust=...)` too.
    """

    def condition(
        self, step: Linearized, residual: Tensor, observed: Tensor
    ) -> tuple[Conditioned, Tensor]:
        """Condition, and return the trust in each observation, `(*batch, obs)`, 0 to 1."""
        ...


@checked
@dataclass(frozen=True)
class Gate:
    r"""Reject observations of a step whose normalised innovation squared is too large to believe.

    The state is moved as if what is rejected were missing, but its score is that of a density:
    Gaussian inside the gate, beyond it a tail that holds the remaining probability,

    .. math:: p(y) = N(y; \hat y, S) \text{ where } d^2 \le \gamma, \quad
        \frac{e^{-\gamma / 2}}{\sqrt{|2 \pi S|}} \left( \frac{\gamma}{d^2} \right)^{\alpha / 2}
        \text{ beyond}, \quad d^2 = (y - \hat y)' S^{-1} (y - \hat y)

    with :math:`\alpha = k + 2 \gamma f_k(\gamma) / (1 - p)`, `f_k` the chi-square density of `k`
    degrees of freedom and `gamma` its `p`-quantile. So rejecting never pays, likelihoods compare
    with those of other methods, and parameters can be learnt through a gate. Components judged
    by themselves are scored by themselves.

    Args:
        probability: Share of good observations to let pass, by the chi-square distribution of
            the innovation.
        separately: Judge every component by itself instead of a step's observation as a whole.

    Source: Bar-Shalom, Li & Kirubarajan (2001), Estimation with Applications to Tracking, 2.3.2.
    """

    probability: float = 0.999
    separately: bool = False

    def __post_init__(self) -> None:
        """Check `probability`."""
        if not 0 < self.probability < 1:
            raise ValueError(f"`probability` must lie in (0, 1), got {self.probability}.")

    def condition(
        self, step: Linearized, residual: Tensor, observed: Tensor
    ) -> tuple[Conditioned, Tensor]:
        """Condition on what passes the gate; trust is 1 or 0."""
        joint = torch.cat((step.slope, step.spread.expand(*step.slope.shape[:-1], -1)), -1)
        cov = joint @ joint.mT
        if self.separately:
            variance = cov.diagonal(dim1=-2, dim2=-1)
            distance, size = residual.square() / variance, variance.log()
            count = torch.ones_like(distance)
        else:
            both = observed[..., :, None] & observed[..., None, :]
            eye = torch.eye(cov.shape[-1], dtype=cov.dtype, device=cov.device)
            known, seen = torch.where(observed, residual, 0.0), torch.where(both, cov, eye)
            solved = torch.linalg.solve(seen, known[..., None])[..., 0]
            distance = (known * solved).sum(-1, keepdim=True)
            size = torch.linalg.slogdet(seen).logabsdet[..., None]
            count = observed.sum(-1, keepdim=True).to(distance.dtype)
        inside = torch.special.gammainc(count.clamp_min(1) / 2, distance.detach() / 2)
        accepted = observed & (inside <= self.probability)
        score = self._beyond(distance, size, count)
        score = torch.where(observed & ~accepted if self.separately else ~accepted, score, 0.0)
        if not self.separately:
            score = torch.where((observed & ~accepted).any(-1, keepdim=True), score[..., :1], 0.0)
        found = condition(step, residual, accepted)
        scored = found.log_likelihood + score.sum(-1)
        return found._replace(log_likelihood=scored), accepted.to(residual.dtype)

    def weigh(
        self, slope: Tensor, spread: Tensor, residual: Tensor, observed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return 1 for what passes the gate, 0 for what does not, and the score of the latter."""
        step = _whitened(slope, spread)
        found, accepted = self.condition(step, residual, observed)
        plain = condition(step, residual, observed & (accepted > 0))
        return accepted, found.log_likelihood - plain.log_likelihood

    def _beyond(self, distance: Tensor, size: Tensor, count: Tensor) -> Tensor:
        """Return the log-density beyond the gate, given `d^2`, `log |S|` and the dimension."""
        table = torch.tensor(_tails(self.probability, max(int(count.max()), 1))).to(distance)
        edge, power = table[count.long()].unbind(-1)
        # What lies inside is not scored here; its distance must not spoil a gradient.
        far = torch.maximum(distance, edge)
        beyond = power * (far / edge.clamp_min(torch.finfo(edge.dtype).tiny)).log()
        return -0.5 * (count * math.log(2 * math.pi) + size + edge + beyond)


@cache
def _tails(probability: float, most: int) -> list[tuple[float, float]]:
    """Return edge `gamma` and power `alpha` of the tail for each dimension up to `most`."""
    from scipy.stats import chi2

    rows = [(1.0, 1.0)]
    for k in range(1, most + 1):
        edge = float(chi2.ppf(probability, k))
        rows.append((edge, k + 2 * edge * float(chi2.pdf(edge, k)) / (1 - probability)))
    return rows


@checked
@dataclass(frozen=True)
class StudentT:
    """Give the noise Student-t tails: a step's covariance is inflated as its residual demands.

    The weight `w = (dof + k) / (dof + E[r' R^-1 r])` of the noise precision is iterated with the
    state, which is mean-field variational inference. The log-likelihood is its bound, at most that
    of the model with Student-t noise: the Gaussian one under the inflated noise, less the
    divergence of the weight from its prior.

    Args:
        dof: Degrees of freedom; fewer mean heavier tails.
        iterations: Fixed-point iterations.

    Source: Piché, Särkkä & Hartikainen (2012), IEEE MLSP, algorithm 2.
    """

    dof: float = 4.0
    iterations: int = 5

    def __post_init__(self) -> None:
        """Check `dof`."""
        if not self.dof > 0:
            raise ValueError(f"`dof` must be positive, got {self.dof}.")

    def condition(
        self, step: Linearized, residual: Tensor, observed: Tensor
    ) -> tuple[Conditioned, Tensor]:
        """Condition with noise inflated per step."""
        weight, count = self._weights(step, residual, observed), observed.sum(-1)
        found = condition(_inflated(step, weight), residual, observed)
        excess = weight[..., 0] - 1
        constant = torch.tensor(_bounds(self.dof, residual.shape[-1])).to(residual)
        bound = constant[count] + self.dof / 2 * (excess.log1p() - excess)
        scored = torch.where(count > 0, found.log_likelihood + bound, 0.0)
        return found._replace(log_likelihood=scored), weight.clamp_max(1.0)

    def weigh(
        self, slope: Tensor, spread: Tensor, residual: Tensor, observed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the mean precision of the noise, in units of that of the model; see `Gate`."""
        step = _whitened(slope, spread)
        weight = self._weights(step, residual, observed)
        found, _ = self.condition(step, residual, observed)
        plain = condition(_inflated(step, weight), residual, observed)
        return weight, found.log_likelihood - plain.log_likelihood

    def _weights(self, step: Linearized, residual: Tensor, observed: Tensor) -> Tensor:
        weight = torch.ones_like(residual)
        count = observed.sum(-1, keepdim=True)
        for _ in range(self.iterations):
            posterior = condition(_inflated(step, weight), residual, observed)
            left, scatter = _errors(step, residual, posterior)
            spread = _whiten(step, observed)
            error = torch.where(observed, left, left.new_zeros(()))[..., None]
            scatter = torch.where(observed[..., None], scatter, scatter.new_zeros(()))
            both = torch.linalg.solve_triangular(
                spread, torch.cat((error, scatter), -1), upper=False
            )
            square = both.square().sum((-2, -1))[..., None]
            weight = ((self.dof + count) / (self.dof + square)).expand_as(residual)
        return weight


@cache
def _bounds(dof: float, most: int) -> list[float]:
    """Return what the bound of each dimension up to `most` adds, whatever the weight is.

    `s(a) - s(b) - log(a / b) / 2` with `a = (dof + k) / 2`, `b = dof / 2` and `s` the remainder
    of Stirling's formula for `log Gamma`.
    """

    def remainder(x: float) -> float:
        if x > 1e4:
            return 1 / (12 * x)
        return math.lgamma(x) - ((x - 0.5) * math.log(x) - x + 0.5 * math.log(2 * math.pi))

    b = dof / 2
    return [
        remainder(b + k / 2) - remainder(b) - 0.5 * math.log1p(k / dof) for k in range(most + 1)
    ]


@checked
@dataclass(frozen=True)
class Huber:
    """Bound the pull of each component: beyond `threshold` sds it grows no further.

    Iteratively reweighted least squares for Huber's loss of the noise's standardised components.
    The log-likelihood is the Gaussian one under the reweighted noise, less
    `log(1 + erfc(c / sqrt(2)))` a component, `c` the threshold, which makes it a density where the
    state is known.

    Args:
        threshold: In standard deviations; 1.345 keeps 95 % efficiency for Gaussian noise.
        iterations: Reweightings.

    Source: Huber (1964); Karlgaard (2015), Journal of Guidance, Control and Dynamics 38(5).
    """

    threshold: float = 1.345
    iterations: int = 10

    def __post_init__(self) -> None:
        """Check `threshold`."""
        if not self.threshold > 0:
            raise ValueError(f"`threshold` must be positive, got {self.threshold}.")

    def condition(
        self, step: Linearized, residual: Tensor, observed: Tensor
    ) -> tuple[Conditioned, Tensor]:
        """Condition with noise inflated per component."""
        weight = torch.ones_like(residual)
        size = step.spread.norm(dim=-1)
        for _ in range(self.iterations):
            posterior = condition(_inflated(step, weight), residual, observed)
            left, _ = _errors(step, residual, posterior)
            far = left.abs() / size
            weight = torch.where(far > self.threshold, self.threshold / far.clamp_min(1e-30), 1.0)
        found = condition(_inflated(step, weight), residual, observed)
        excess = math.log1p(math.erfc(self.threshold / math.sqrt(2.0)))
        scored = found.log_likelihood - excess * observed.sum(-1)
        return found._replace(log_likelihood=scored), weight

    def weigh(
        self, slope: Tensor, spread: Tensor, residual: Tensor, observed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the weights of the last reweighting; see `Gate`."""
        step = _whitened(slope, spread)
        found, weight = self.condition(step, residual, observed)
        plain = condition(_inflated(step, weight), residual, observed)
        return weight, found.log_likelihood - plain.log_likelihood


def require_robust(robust: object) -> None:
    """Refuse what cannot condition robustly, such as a name or a class.

    Args:
        robust: What was passed, `None` for nothing.

    Raises:
        ValueError: It cannot.
    """
    if robust is None or (isinstance(robust, Robust) and not isinstance(robust, type)):
        return
    got = f"the class {robust.__name__}" if isinstance(robust, type) else repr(robust)
    raise ValueError(
        "`robust` must be `Gate()`, `StudentT()`, `Huber()`, a value with a method "
        f"`condition(step, residual, observed)`, or `None`, got {got}."
    )


def gaussian_update(
    robust: Robust | None, step: Linearized, residual: Tensor, observed: Tensor
) -> tuple[Conditioned, Tensor]:
    """Condition, robustly if asked to; the trust is NaN where nothing was observed."""
    if robust is None:
        posterior, trust = condition(step, residual, observed), torch.ones_like(residual)
    else:
        posterior, trust = robust.condition(step, residual, observed)
    return posterior, torch.where(observed, trust, math.nan)


def _whitened(slope: Tensor, spread: Tensor) -> Linearized:
    return Linearized(slope.new_zeros(slope.shape[:-1]), slope, spread)


def _inflated(step: Linearized, weight: Tensor) -> Linearized:
    return step._replace(spread=step.spread / weight.sqrt()[..., None])


def _errors(step: Linearized, residual: Tensor, posterior: Conditioned) -> tuple[Tensor, Tensor]:
    """Return mean and factor of `y - mean - slope e` given the observation."""
    left = residual - (step.slope @ posterior.shift[..., None])[..., 0]
    return left, step.slope @ posterior.gain


def _whiten(step: Linearized, observed: Tensor) -> Tensor:
    both = observed[..., :, None] & observed[..., None, :]
    cov = step.spread @ step.spread.mT
    eye = torch.eye(cov.shape[-1], dtype=cov.dtype, device=cov.device)
    return torch.linalg.cholesky(torch.where(both, cov, eye))
