"""Objectives that change what is asked for: a reconstruction target, or blind last steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...core.arguments import checked
from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import observed_log_prob
from ..guides.asking import ask
from ..guides.posterior import prior_of
from .objectives import VariationalLoss


@checked
@dataclass(frozen=True)
class Constrained:
    """Least divergence subject to a reconstruction: `min KL` with `E log p(y_t | z_t) >= target`.

    A multiplier grows while the target is missed and shrinks once it is met, so that the balance
    of the two terms is found instead of set. The KL weight of `SVI` has no effect. The best
    weights are those of the largest `min(reconstruction, target) - divergence`.

    Args:
        target: Reconstruction in nats per observed step, all components together.
        rate: How fast the multiplier moves, per update and nat.
        smoothing: Share of earlier updates in the running mean of the constraint.

    Source: Rezende, Viola (2018), Taming VAEs, algorithm 1.
    """

    target: float
    rate: float = 0.05
    smoothing: float = 0.9

    def __call__(
        self, model: StateSpaceModel, guide: nn.Module, *, num_particles: int = 1
    ) -> ConstrainedLoss:
        """Return the loss."""
        return ConstrainedLoss(model, guide, self, num_particles)


@checked
class ConstrainedLoss(VariationalLoss):
    """The loss of `Constrained`; checkpoints hold its multiplier."""

    def __init__(
        self, model: StateSpaceModel, guide: nn.Module, options: Constrained, num_particles: int
    ) -> None:
        super().__init__(model, guide, num_particles=num_particles)
        self.options, self.multiplier = options, Multiplier()

    def training_state(self) -> Multiplier:
        """Return the multiplier, which checkpoints hold."""
        return self.multiplier

    def bound(self, series: Series) -> Tensor:
        """Return `min(reconstruction, target) - divergence`, `(*batch,)`, in nats."""
        posterior, z, prior = self.draw(series)
        steps = (~torch.isnan(series.y)).any(-1).sum(-1)
        met = self.likelihood(z, series).sum(-1)[0].minimum(self.options.target * steps)
        return met - posterior.divergence(prior).sum(-1)[0]

    def objective(self, series: Series, kl_weight: float, scale: float) -> Tensor:
        """Return the Lagrangian, summed over series and scaled, and move the multiplier."""
        posterior, z, prior = self.draw(series, self.num_particles)
        reconstruction = self.likelihood(z, series).sum() / self.num_particles
        divergence = posterior.divergence(prior).sum() / self.num_particles
        count = (~torch.isnan(series.y)).any(-1).sum()
        missed = (self.options.target - reconstruction / count).detach()
        if torch.is_grad_enabled():
            self.multiplier.move(missed, self.options.rate, self.options.smoothing)
        return scale * (divergence - self.multiplier.value * reconstruction)


class Multiplier(nn.Module):
    """A positive multiplier that follows the running mean of its constraint."""

    log_value: Tensor
    mean: Tensor
    moves: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("log_value", "mean", "moves"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    @property
    def value(self) -> float:
        """The multiplier, between 1e-3 and 1e3."""
        return float(self.log_value.exp())

    def move(self, missed: Tensor, rate: float, smoothing: float) -> None:
        """Take in how far the constraint is missed, in nats per step; negative if it is met."""
        if not bool(torch.isfinite(missed)):
            return
        self.moves += 1
        self.mean.mul_(smoothing).add_((1 - smoothing) * missed.double())
        corrected = self.mean / (1 - smoothing**self.moves)
        self.log_value.add_((rate * corrected).clamp(-0.1, 0.1)).clamp_(-6.9, 6.9)


@checked
@dataclass(frozen=True)
class MaskedSuffix:
    """The evidence lower bound with a guide that does not see the last steps of a window.

    A point of time is drawn anew for each batch; before it the guide reads the data, behind it
    the states follow the model, and all steps are scored. So the model learns to forecast from
    states that a filter can know. It is a lower bound of the same likelihood, a looser one. A
    autoregressive model goes on to read the last observations there; only the guide is blind.

    Args:
        longest: Most steps hidden; the number hidden is uniform between 0 and it.

    Source: Zhao, Linderman (2023), Revisiting structured variational autoencoders, section 4.
    """

    longest: int

    def __call__(
        self, model: StateSpaceModel, guide: nn.Module, *, num_particles: int = 1
    ) -> MaskedLoss:
        """Return the loss.

        Raises:
            ValueError: `longest` is not positive.
        """
        if self.longest < 1:
            raise ValueError(f"`longest` must be at least 1 step, got {self.longest}.")
        return MaskedLoss(model, guide, self.longest, num_particles)


@checked
class MaskedLoss(VariationalLoss):
    """The loss of `MaskedSuffix`."""

    def __init__(
        self, model: StateSpaceModel, guide: nn.Module, longest: int, num_particles: int
    ) -> None:
        super().__init__(model, guide, num_particles=num_particles)
        self.longest = longest

    def objective(self, series: Series, kl_weight: float, scale: float) -> Tensor:
        """Return minus the bound, summed over series and scaled."""
        most = min(self.longest, series.time - 1)
        hidden = int(torch.randint(most + 1, ()))
        return self.hiding(series, hidden, kl_weight, scale)

    def hiding(
        self, series: Series, hidden: int, kl_weight: float = 1.0, scale: float = 1.0
    ) -> Tensor:
        """Return minus the bound with a given number of hidden steps."""
        time = torch.arange(series.time, device=series.y.device)
        blind = (time >= series.time - hidden)[:, None]
        shown = series._replace(y=torch.where(blind, torch.nan, series.y))
        posterior = ask(self.guide, self.model, shown)
        posterior = posterior.expand(torch.Size((self.num_particles, *posterior.batch_shape)))
        z = posterior.draw(beyond=True)
        likelihood = observed_log_prob(self.model.emission(z, series.u), series.y)
        divergence = posterior.divergence(prior_of(posterior))
        total = likelihood.sum() - kl_weight * divergence.sum()
        return -scale * total / self.num_particles
