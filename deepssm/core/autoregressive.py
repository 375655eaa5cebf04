"""Models that read their own last observation: `y_{t-1}` and what was seen of it, behind `u_t`.

Given the data, the last observation is a known input, so every method takes such a model as it
is. Only where observations are drawn must each draw find its way into the next step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .model import StateSpaceModel


def with_autoregressive_input(
    model: StateSpaceModel, y: Tensor, u: Tensor | None
) -> Tensor | None:
    """Return the inputs, behind them the last observation where the model reads it.

    Args:
        model: Says so by `reads_past`.
        y: `(*batch, time, obs)`, NaN where missing.
        u: The model's own inputs, `(*batch, time, input)`, or `None`.

    Returns:
        `(*batch, time, input + 2 obs)`: `u_t`, then `y_{t-1}` with 0 where it is missing, then 1
        for each component that was seen. Nothing was seen before the first step. For other
        models `u` as it is.
    """
    if not model.reads_past:
        return u
    seen = ~torch.isnan(y)
    read = _marked(torch.where(seen, y, torch.zeros_like(y)), seen.to(y.dtype))[..., :-1, :]
    past = torch.cat([read.new_zeros(*read.shape[:-2], 1, read.shape[-1]), read], dim=-2)
    past = past[..., : y.shape[-2], :]
    return past if u is None else torch.cat([u.expand(*y.shape[:-1], -1), past], dim=-1)


def own_inputs(model: StateSpaceModel, u: Tensor | None) -> Tensor | None:
    """Return the inputs without what `with_autoregressive_input` put behind them."""
    if u is None or not model.reads_past:
        return u
    return u[..., : model.input_dim] if model.input_dim else None


def input_after(model: StateSpaceModel, u: Tensor | None, y: Tensor) -> Tensor | None:
    """Return the input of one step after an observation that is known in full.

    Args:
        model: Any model; one that does not read its past gets `u` as it is.
        u: Input of the step, `(*batch, input + 2 obs)`.
        y: The observation before it, `(*axes, obs)`, without NaN.

    Returns:
        `(*axes, input + 2 obs)`.
    """
    if u is None or not model.reads_past:
        return u
    own = u[..., : model.input_dim].expand(*y.shape[:-1], model.input_dim)
    return torch.cat([own, _marked(y, torch.ones_like(y))], dim=-1)


def refuse_autoregressive(model: StateSpaceModel, what: str) -> None:
    """Raise where a method cannot lead a model's draws back into it.

    Args:
        model: Any model.
        what: Name of what is asked for.

    Raises:
        ValueError: The model reads its own past.
    """
    if model.reads_past:
        raise ValueError(
            f"`model` reads its own last observation, and {what} cannot lead its draws back into "
            "it: use `Amortized(guide)`, `Extended()`, `Unscented()`, `Cubature()` or "
            "`Particle(...)`."
        )


def _marked(y: Tensor, seen: Tensor) -> Tensor:
    return torch.cat([y, seen], dim=-1)
