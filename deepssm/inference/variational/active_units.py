"""How much of its state a deep model uses."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.guides import Guide
from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import observed_steps, seeded
from ..guides.asking import ask
from ..guides.posterior import prior_of


def divergence_by_component(
    model: StateSpaceModel, guide: Guide, series: Series, num_samples: int = 10
) -> Tensor:
    """Return the divergence of each state component in nats per observed step, `(state,)`.

    A component near 0 follows the prior: the data say nothing about it. Where components depend
    on each other, each is taken given those before it (the chain rule).

    Args:
        model: The model.
        guide: Its guide.
        series: The data.
        num_samples: Paths that are averaged, drawn with a fixed seed.
    """
    with torch.no_grad(), seeded(torch.Generator(series.y.device).manual_seed(0)):
        posterior = ask(guide, model, series)
        posterior = posterior.expand(torch.Size((num_samples, *posterior.batch_shape)))
        posterior.rsample()
        parts = posterior.divergence_by_component(prior_of(posterior))
        steps = posterior.steps.sum().clamp_min(1)
        return parts.flatten(0, -2).sum(0) / (num_samples * steps)


def active_units(
    model: StateSpaceModel,
    guide: Guide,
    series: Series,
    threshold: float = 0.01,
    num_samples: int = 50,
) -> Tensor:
    """Mark the components whose posterior mean moves with the data, `(state,)`.

    A component is active if the variance of `E[z_t | y]` over the series of a step (over the
    steps, where there is but one), as a share of the whole variance, exceeds the threshold.

    Args:
        model: The model.
        guide: Its guide.
        series: The data; several series, or one long one.
        threshold: Smallest share.
        num_samples: Paths behind each mean, drawn with a fixed seed.

    Source: Burda, Grosse, Salakhutdinov (2016), section 5, with a share for their fixed 0.01.
    """
    with torch.no_grad(), seeded(torch.Generator(series.y.device).manual_seed(0)):
        z = ask(guide, model, series).sample((num_samples,))
        counted = observed_steps(series.y)
        noise = z.var(0)[counted].mean(0)
        mean = torch.where(counted[..., None], z.mean(0), torch.nan)
        mean = mean.reshape(-1, *mean.shape[-2:])
        # What all series share at a step is the model's own course, not news from the data.
        course = mean.nanmean(0) if len(mean) > 1 else mean.nanmean((0, 1))
        spread = (mean - course).square().nanmean((0, 1))
        # The mean of a few draws varies too; that part says nothing about the data either.
        signal = (spread - noise / num_samples).clamp_min(0.0)
        return signal / (signal + noise) > threshold
