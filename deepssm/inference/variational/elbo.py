"""The evidence lower bound, as a Pyro program and as plain sums per step."""

from __future__ import annotations

from typing import NamedTuple

import pyro
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor, nn

from ...core.guides import Guide
from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import joint, observed_log_prob, series_plates
from ..guides.asking import ask
from ..guides.posterior import prior_of


class ModelProgram(nn.Module):
    """Any state space model as a Pyro program of a series, the two sites `z` and `y`.

    Args:
        model: The model.
    """

    def __init__(self, model: StateSpaceModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        y: Tensor,
        u: Tensor | None = None,
        dt: Tensor | None = None,
        kl_weight: float = 1.0,
        scale: float = 1.0,
    ) -> None:
        """Sample the sites; see `deepssm.core.pyro_sites.joint`."""
        joint(self.model, Series(y, u, dt), kl_weight=kl_weight, scale=scale)


class GuideProgram(nn.Module):
    """A guide as a Pyro program with the one site `z`, called like `DeepMarkov.forward`.

    Args:
        model: The model whose states are inferred.
        guide: The guide.
    """

    def __init__(self, model: StateSpaceModel, guide: Guide) -> None:
        super().__init__()
        self.model, self.guide = model, guide

    def forward(
        self,
        y: Tensor,
        u: Tensor | None = None,
        dt: Tensor | None = None,
        kl_weight: float = 1.0,
        scale: float = 1.0,
    ) -> None:
        """Sample the site `z`; arguments as in `ModelProgram`."""
        series = Series(y, u, dt)
        posterior = ask(self.guide, self.model, series)
        with series_plates(series.batch_shape), pyro.poutine.scale(scale=scale * kl_weight):
            pyro.sample("z", posterior)


def negative_elbo(model: StateSpaceModel, guide: Guide, *, num_particles: int = 1) -> nn.Module:
    """Return `loss(y, u, dt, kl_weight, scale)`: minus the bound, by Pyro with the analytic KL.

    Args:
        model: The model.
        guide: The guide.
        num_particles: Paths per series; more lower the variance of the gradient.
    """
    many = num_particles > 1
    elbo = TraceMeanField_ELBO(
        num_particles=num_particles,
        vectorize_particles=many,
        max_plate_nesting=1 if many else float("inf"),
    )
    return elbo(ModelProgram(model), GuideProgram(model, guide))


class Bound(NamedTuple):
    """The bound's two halves, in nats per step, `(*particles, *batch, time)`.

    Attributes:
        reconstruction: `log p(y_t | z_t)` along the guide's path.
        divergence: `KL(q(z_t | z_{t-1}) || p(z_t | z_{t-1}))` along it.
    """

    reconstruction: Tensor
    divergence: Tensor


def bound(model: StateSpaceModel, guide: Guide, series: Series, num_particles: int = 1) -> Bound:
    """Return the un-annealed bound term by term, without Pyro.

    Args:
        model: The model.
        guide: The guide.
        series: The data.
        num_particles: Paths per series, a leading axis of the result.
    """
    posterior = ask(guide, model, series)
    posterior = posterior.expand(torch.Size((num_particles, *posterior.batch_shape)))
    z = posterior.draw(beyond=False)
    prior = prior_of(posterior)
    likelihood = observed_log_prob(model.emission(z, series.u), series.y)
    return Bound(likelihood, posterior.divergence(prior))


def importance_log_likelihood(
    model: StateSpaceModel,
    guide: Guide,
    series: Series,
    num_samples: int = 100,
    chunk: int = 100,
) -> Tensor:
    """Return `log 1/S sum_s p(y, z_s) / q(z_s)`, a bound that tightens to `log p(y)` with `S`.

    Args:
        model: The model.
        guide: Its paths are the proposals.
        series: The data.
        num_samples: `S`.
        chunk: Paths evaluated at a time; memory grows with it, the result does not change.

    Returns:
        `(*batch,)`, in nats.

    Source: Burda, Grosse, Salakhutdinov (2016), Importance weighted autoencoders, equation 8.
    """
    posterior, weights = ask(guide, model, series), []
    for start in range(0, num_samples, chunk):
        size = min(chunk, num_samples - start)
        paths = posterior.expand(torch.Size((size, *posterior.batch_shape)))
        z = paths.draw(beyond=False)
        prior = prior_of(paths)
        likelihood = observed_log_prob(model.emission(z, series.u), series.y).sum(-1)
        weights.append(likelihood + prior.log_prob(z) - paths.log_prob(z))
    log_weights = torch.cat(weights)
    return log_weights.logsumexp(0) - torch.log(torch.tensor(float(num_samples)))
