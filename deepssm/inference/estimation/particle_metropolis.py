"""Posterior draws of parameters where only particles can score them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from operator import attrgetter

import torch
from torch import Tensor, nn

from ...core.arguments import checked
from ...core.deprecation import renamed_arguments
from ...core.methods import Learned
from ...core.model import Series, StateSpaceModel
from ..particles.filter import Particle


@checked
@dataclass(frozen=True)
class ParticleMetropolis:
    """Particle marginal Metropolis-Hastings: exact posterior draws with any number of particles.

    Random-walk proposals in the unconstrained space, whose covariance is adapted during the
    warm-up and then fixed. `fit` leaves the model at the posterior mean of that space; the draws
    are the records of `Learned.history`.

    Args:
        inference: The filter; enough particles for a log-likelihood of standard deviation about 1.
        num_samples: Draws kept.
        warmup: Steps before them.
        log_prior: Maps the model to the log prior density of its unconstrained parameters; flat
            if `None`.
        scale: Standard deviation of the first proposals.

    Source: Andrieu, Doucet & Holenstein (2010), JRSS B 72(3); Haario, Saksman & Tamminen (2001).
    """

    inference: Particle = field(default_factory=Particle)
    num_samples: int = 1_000
    warmup: int = 500
    log_prior: Callable[[StateSpaceModel], Tensor] | None = None
    scale: float = 0.1

    def fit(
        self,
        model: StateSpaceModel,
        series: Series,
        *,
        progress: bool = True,
        generator: torch.Generator | None = None,
    ) -> Learned:
        """Draw parameters; `standard_errors` are posterior standard deviations.

        Raises:
            ValueError: the model has no free parameter, or cannot produce the data as it starts.
        """
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        if not names:
            raise ValueError("The model has no free parameter: pass a `PyroParam` or `Parameter`.")
        generator = generator or torch.Generator().manual_seed(0)
        with torch.no_grad():
            walk = self._walk(model, series, names, generator)
            return self._report(model, series, names, walk[self.warmup :])

    def _report(
        self,
        model: StateSpaceModel,
        series: Series,
        names: list[str],
        kept: list[tuple[Tensor, float, bool]],
    ) -> Learned:
        vectors = torch.stack([vector for vector, _, _ in kept])
        history, values = [], []
        for step, (vector, score, _) in enumerate(kept):
            values.append(self._values(model, names, vector))
            record = {"step": float(step), "objective": score}
            for name, value in values[-1].items():
                flat = value.reshape(-1).tolist()
                record |= {
                    f"{name}[{i}]" if len(flat) > 1 else name: x for i, x in enumerate(flat)
                }
            history.append(record)
        errors = {n: torch.stack([v[n] for v in values]).std(0) for n in values[0]}
        _write(model, names, vectors.mean(0))
        score = float(self._score(model, series, 0))
        accepted = sum(moved for _, _, moved in kept) / len(kept)
        diagnostics = {"acceptance": accepted, "num_parameters": float(vectors.shape[-1])}
        return Learned(self.inference, score, history, errors, diagnostics, _warnings(accepted))

    def _walk(
        self,
        model: StateSpaceModel,
        series: Series,
        names: list[str],
        generator: torch.Generator,
    ) -> list[tuple[Tensor, float, bool]]:
        now = _read(model, names)
        score = self._score(model, series, 0)
        if not math.isfinite(score):
            raise ValueError(
                "The log-likelihood is not finite where the walk starts: set the model's "
                "parameters to plausible values."
            )
        factor, walk = self.scale * torch.eye(len(now), dtype=now.dtype), []
        for step in range(self.warmup + self.num_samples):
            noise = torch.randn(len(now), generator=generator, dtype=now.dtype)
            proposed = now + factor @ noise
            _write(model, names, proposed)
            fresh = self._score(model, series, step + 1)
            chance = torch.rand((), generator=generator).log().item()
            moved = math.isfinite(fresh) and chance < fresh - score
            if moved:
                now, score = proposed, fresh
            walk.append((now, score, moved))
            if 50 <= step < self.warmup and step % 25 == 0:
                factor = _adapted(torch.stack([vector for vector, _, _ in walk[step // 2 :]]))
        return walk

    def _score(self, model: StateSpaceModel, series: Series, step: int) -> float:
        particle = replace(self.inference, seed=self.inference.seed + 7919 * step)
        total = particle.log_likelihood(model, series).sum()
        prior = 0.0 if self.log_prior is None else float(self.log_prior(model))
        return float(total) + prior

    def _values(
        self, model: StateSpaceModel, names: list[str], vector: Tensor
    ) -> dict[str, Tensor]:
        _write(model, names, vector)
        public = [name.removesuffix("_unconstrained") for name in names]
        return {name: attrgetter(name)(model).detach().clone() for name in public}


ParticleMetropolis.__init__ = renamed_arguments(particle="inference")(ParticleMetropolis.__init__)


def _adapted(vectors: Tensor) -> Tensor:
    """Return 2.38 / sqrt(d) times the factor of what the walk has covered so far."""
    size = vectors.shape[-1]
    cov = torch.cov(vectors.mT).reshape(size, size)
    floor = 1e-6 * torch.eye(size, dtype=cov.dtype)
    return 2.38 / math.sqrt(size) * torch.linalg.cholesky(cov + floor)


def _parameters(model: nn.Module, names: list[str]) -> list[nn.Parameter]:
    known = dict(model.named_parameters())
    return [known[name] for name in names]


def _read(model: nn.Module, names: list[str]) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in _parameters(model, names)]).clone()


def _write(model: nn.Module, names: list[str], vector: Tensor) -> None:
    with torch.no_grad():
        start = 0
        for parameter in _parameters(model, names):
            part = vector[start : start + parameter.numel()]
            parameter.copy_(part.reshape(parameter.shape))
            start += parameter.numel()


def _warnings(accepted: float) -> list[str]:
    if accepted >= 0.05:
        return []
    return [
        f"Only {accepted:.1%} of proposals were accepted, so draws repeat: use more particles, or "
        "a guided proposal."
    ]
