"""How strongly training pulls parameters towards zero, which is a normal prior on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ...core.abilities import HasWeightPrior
from ...core.model import Series
from . import distributed


def parameter_groups(
    loss: nn.Module,
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    data: Series,
    decay: float | None,
) -> list[dict[str, Any]]:
    """Return the parameters in groups for a `torch.optim` optimizer, each with its decay.

    The loss is minus a bound per observed step, so that `N(0, s^2)` on a parameter is a decay of
    `1 / (s^2 N)` for `N` steps with an observation, of all processes together. It matters for
    short series and fades as they grow.

    Args:
        loss: What is minimised; one that has a `prior_scale` overrules the model.
        model: A model with a `prior_scale`, that is `s`, has a prior; others have none.
        parameters: What is learnt, the model's before the others.
        data: What is learnt from.
        decay: Of every parameter, whatever the model says; `None` follows the model.

    Source: MacKay (1992), A practical Bayesian framework for backpropagation networks, section 2.
    """
    if decay is not None:
        return [{"params": list(parameters), "weight_decay": decay}]
    priors = [part.prior_scale for part in (loss, model) if isinstance(part, HasWeightPrior)]
    scale = priors[0] if priors else None
    steps = float((~torch.isnan(data.y)).any(-1).sum())
    steps = distributed.mean_record({"steps": steps})["steps"] * distributed.world_size()
    prior = 0.0 if scale is None else 1.0 / (scale**2 * max(steps, 1.0))
    own = {id(p) for p in model.parameters()}
    halves = [[p for p in parameters if (id(p) in own) is mine] for mine in (True, False)]
    decays = zip(halves, (prior, 0.0), strict=True)
    return [{"params": half, "weight_decay": value} for half, value in decays if half]
