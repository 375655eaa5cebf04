"""Forecasts of several models of the same future, pooled into one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.results import Forecast


def pool(forecasts: Sequence[Forecast]) -> Forecast:
    """Return the equal mixture `p(y) = 1/K sum_k p_k(y)` of forecasts of the same steps.

    Neural models learnt from different seeds agree where the data speak and differ elsewhere;
    their mixture is wider there, and seldom as overconfident as a single one.

    Args:
        forecasts: Each with joint draws `samples`, `(num_samples, *batch, horizon, obs)`; from
            each as many are kept as the shortest has. The states of different models mean
            different things, so the mixture has none.

    Raises:
        ValueError: no forecast, one without draws, or shapes that differ.

    Source: Lakshminarayanan, Pritzel & Blundell (2017), Simple and scalable predictive uncertainty
        estimation using deep ensembles.
    """
    draws = [_draws(forecast) for forecast in forecasts]
    if not draws:
        raise ValueError("`forecasts` must hold at least one forecast, got none.")
    shapes = {tuple(x.shape[1:]) for x in draws}
    if len(shapes) > 1:
        raise ValueError(
            f"`forecasts` must be of the same series and steps, got shapes {sorted(shapes)}."
        )
    count = min(x.shape[0] for x in draws)
    samples = torch.cat([x[:count] for x in draws])
    mean = samples.mean(0)
    centred = samples - mean
    cov = torch.einsum("s...i,s...j->...ij", centred, centred) / max(len(samples) - 1, 1)
    return Forecast(mean, cov, samples).labelled(forecasts[0].index, forecasts[0].names)


def _draws(forecast: Forecast) -> Tensor:
    if forecast.samples is None:
        raise ValueError(
            "`forecasts` must carry draws, got one without. Ask for `num_samples=500` in each "
            "`forecast(...)`."
        )
    return forecast.samples
