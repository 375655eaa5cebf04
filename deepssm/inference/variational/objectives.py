"""Tighter or constrained bounds as values of `SVI(objective=...)`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...core.arguments import checked
from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import MarkovSequence, observed_log_prob
from ...core.undefined import undefined
from ..guides.asking import ask
from ..guides.particle_filter import guided_filter
from ..guides.posterior import StepwisePosterior, prior_of


@checked
class VariationalLoss(nn.Module):
    """What an objective makes of a model and a guide: a `Loss` that `SVI` minimises.

    A loss of your own derives from it and defines `objective`, out of `self.draw(series)` and
    `self.likelihood(z, series)`:

        class Tempered(VariationalLoss):
            def objective(self, series, kl_weight, scale):
                posterior, z, prior = self.draw(series)
                divergence = posterior.divergence(prior).sum()
                return -scale * (self.likelihood(z, series).sum() - 0.5 * divergence)

    The class itself is then an objective, `SVI(objective=Tempered)`, and a
    value with options a frozen dataclass that builds it, as `FreeBits` is.

    Args:
        model: The model.
        guide: The guide.
        num_particles: Paths a series.
    """

    def __init__(
        self, model: StateSpaceModel, guide: nn.Module, *, num_particles: int = 1
    ) -> None:
        super().__init__()
        self.model, self.guide, self.num_particles = model, guide, num_particles

    def forward(
        self,
        y: Tensor,
        u: Tensor | None = None,
        dt: Tensor | None = None,
        kl_weight: float = 1.0,
        scale: float = 1.0,
    ) -> Tensor:
        """Return what is to be minimised, summed over series and scaled."""
        return self.objective(Series(y, u, dt), kl_weight, scale)

    def objective(self, series: Series, kl_weight: float, scale: float) -> Tensor:
        """Return what is to be minimised; each loss defines it.

        Args:
            series: A batch, `(series, time, ...)`.
            kl_weight: Weight of the divergence, which grows to 1 while training warms up.
            scale: Factor on the whole.
        """
        raise undefined(
            self,
            "objective(self, series, kl_weight, scale)",
            "return the scalar to be minimised, with a gradient",
        )

    def draw(
        self, series: Series, num_samples: int = 1
    ) -> tuple[StepwisePosterior, Tensor, MarkovSequence]:
        """Return the guide's posterior of `num_samples` paths a series, its draw, and the prior.

        Args:
            series: A batch.
            num_samples: Paths a series, a leading axis of the draw.
        """
        posterior = ask(self.guide, self.model, series)
        posterior = posterior.expand(torch.Size((num_samples, *posterior.batch_shape)))
        z = posterior.rsample()
        return posterior, z, prior_of(posterior)

    def likelihood(self, z: Tensor, series: Series) -> Tensor:
        """Return `log p(y_t | z_t)`, `(*particles, *batch, time)`."""
        return observed_log_prob(self.model.emission(z, series.u), series.y)


@checked
@dataclass(frozen=True)
class ImportanceWeighted:
    """`E log 1/K sum_k p(y, z_k) / q(z_k)`: tighter than the evidence lower bound, for `K > 1`.

    With `doubly_reparameterized` the gradient of the guide keeps its signal as `K` grows: the
    density of the guide counts as a function of the path alone, and the gradient through path
    `k` is weighed by the square of its normalised weight.

    Args:
        num_samples: `K`.
        doubly_reparameterized: Whether to use that gradient for the guide.

    Source: Burda, Grosse, Salakhutdinov (2016), equation 8; Tucker et al. (2019), Doubly
    reparameterized gradient estimators, equation 8.
    """

    num_samples: int = 8
    doubly_reparameterized: bool = True

    def __call__(
        self, model: StateSpaceModel, guide: nn.Module, *, num_particles: int = 1
    ) -> ImportanceLoss:
        """Return the loss; `num_particles` is not used, `num_samples` is."""
        return ImportanceLoss(model, guide, self.num_samples, self.doubly_reparameterized)


@checked
class ImportanceLoss(VariationalLoss):
    """The loss of `ImportanceWeighted`."""

    def __init__(
        self, model: StateSpaceModel, guide: nn.Module, num_samples: int, double: bool
    ) -> None:
        super().__init__(model, guide)
        self.num_samples, self.twice = num_samples, double

    def bound(self, series: Series) -> Tensor:
        """Return the bound, `(*batch,)`, in nats."""
        return _log_mean(self.log_weights(series))

    def log_weights(self, series: Series, kl_weight: float = 1.0) -> Tensor:
        """Return `log p(y, z_k) - log q(z_k)`, `(samples, *batch)`, the prior part weighed."""
        posterior, z, prior = self.draw(series, self.num_samples)
        likelihood = self.likelihood(z, series).sum(-1)
        return likelihood + kl_weight * (prior.log_prob(z) - posterior.log_prob(z))

    def objective(self, series: Series, kl_weight: float, scale: float) -> Tensor:
        """Return minus the bound, summed over series and scaled."""
        if not self.twice or not torch.is_grad_enabled():
            return -scale * _log_mean(self.log_weights(series, kl_weight)).sum()
        _, z, prior = self.draw(series, self.num_samples)
        with _frozen(self):
            still = ask(self.guide, self.model, series).expand(torch.Size(z.shape[:-2]))
        likelihood = self.likelihood(z, series).sum(-1)
        with _frozen(self):
            log_q = still.log_prob(z)
        log_weights = likelihood + kl_weight * (prior.log_prob(z) - log_q)
        share = torch.softmax(log_weights, dim=0).detach()
        if z.requires_grad:
            z.register_hook(lambda grad: share[..., None, None] * grad)
        # The value is the bound's, the gradient that of the weighted sum.
        surrogate = (share * log_weights).sum(0)
        value = _log_mean(log_weights).detach() + surrogate - surrogate.detach()
        return -scale * value.sum()


@checked
@dataclass(frozen=True)
class ParticleBound:
    """`E log` of a particle filter's likelihood, its proposals the guide's steps.

    Resampling keeps it tight on long series, where importance weights of whole paths
    degenerate. By default the guide sees no future: where `p(y_t | z_{t-1})` does not depend on
    `z_{t-1}` and the guide's step is `p(z_t | z_{t-1}, y_t)`, the bound equals `log p(y)` for any
    number of particles. With `lookahead` the steps are those of the smoothing guide, and
    particles are resampled by what it expects of them; then it equals `log p(y)` whenever the
    guide is the exact posterior. The exponential of the estimate is unbiased always.

    Args:
        num_particles: Particles of each series.
        lookahead: Whether proposals and resampling know the future.

    Source: Maddison et al. (2017), Filtering variational objectives; Le et al. (2018);
    Naesseth et al. (2018). Lawson et al. (2022), SIXO, for the look-ahead. The gradient of the
    resampling itself is left out, as there.
    """

    num_particles: int = 8
    lookahead: bool = False

    def __call__(
        self, model: StateSpaceModel, guide: nn.Module, *, num_particles: int = 1
    ) -> ParticleLoss:
        """Return the loss; the number of particles is that of this value."""
        return ParticleLoss(model, guide, self.num_particles, self.lookahead)


@checked
class ParticleLoss(VariationalLoss):
    """The loss of `ParticleBound`."""

    def __init__(
        self, model: StateSpaceModel, guide: nn.Module, num_particles: int, lookahead: bool = False
    ) -> None:
        super().__init__(model, guide, num_particles=num_particles)
        self.lookahead = lookahead

    def bound(self, series: Series) -> Tensor:
        """Return the bound, `(*batch,)`, in nats."""
        found = guided_filter(
            self.model, self.guide, series, self.num_particles, lookahead=self.lookahead
        )
        return found.log_likelihood.sum(-1)

    def objective(self, series: Series, kl_weight: float, scale: float) -> Tensor:
        """Return minus the bound, summed over series and scaled; it has no divergence to weigh."""
        return -scale * self.bound(series).sum()


@checked
@dataclass(frozen=True)
class FreeBits:
    """The evidence lower bound, whose divergence costs nothing below `bits` nats a component.

    The floor holds for each state component's divergence per observed step, averaged over the
    batch, so that the components cannot all collapse to the prior.

    Args:
        bits: Nats per component and step.

    Source: Kingma et al. (2016), Improving variational inference with inverse autoregressive
    flow, appendix C.8.
    """

    bits: float = 0.05

    def __call__(
        self, model: StateSpaceModel, guide: nn.Module, *, num_particles: int = 1
    ) -> FreeBitsLoss:
        """Return the loss."""
        return FreeBitsLoss(model, guide, self.bits, num_particles)


@checked
class FreeBitsLoss(VariationalLoss):
    """The loss of `FreeBits`."""

    def __init__(
        self, model: StateSpaceModel, guide: nn.Module, bits: float, num_particles: int
    ) -> None:
        super().__init__(model, guide, num_particles=num_particles)
        self.bits = bits

    def objective(self, series: Series, kl_weight: float, scale: float) -> Tensor:
        """Return minus the bound with the floor, summed over series and scaled."""
        posterior, z, prior = self.draw(series, self.num_particles)
        shares = posterior.divergence_by_component(prior)
        steps = posterior.steps.sum().clamp_min(1) * self.num_particles
        paid = (shares.reshape(-1, shares.shape[-1]).sum(0) / steps).clamp_min(self.bits).sum()
        likelihood = self.likelihood(z, series).sum() / self.num_particles
        return -scale * (likelihood - kl_weight * paid * steps / self.num_particles)


def component_divergence(posterior: StepwisePosterior, prior: MarkovSequence) -> Tensor:
    """Return the divergence of each state component along the guide's path.

    Args:
        posterior: The guide's; its last draw is the path.
        prior: The model's distribution of the same states.

    Returns:
        `(*batch, time, state)`, in nats; 0 after the last observation.
    """
    return posterior.divergence_by_component(prior)


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Let what is computed in the block have no gradient in a module's parameters."""
    learnt = [p for p in module.parameters() if p.requires_grad]
    for parameter in learnt:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learnt:
            parameter.requires_grad_(True)


def _log_mean(log_weights: Tensor) -> Tensor:
    return log_weights.logsumexp(0) - torch.log(torch.tensor(float(len(log_weights))))
