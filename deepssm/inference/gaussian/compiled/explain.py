"""Says in a sentence which path a method takes for a model, and why."""

from __future__ import annotations

import torch

from ....core.model import Series, StateSpaceModel
from ....ops.tracing.program import Untraceable
from ..filter import GaussianFilter
from .run import prepare


def explain(model: StateSpaceModel, method: object, series: Series | None = None) -> str:
    """Return one sentence: `compiled: ...` or `torch: ...` with the reason.

    Args:
        model: Any model.
        method: A Gaussian filter; every other method has one path only.
        series: What is to be filtered, if inputs or time steps are of another kind than the
            model's own.
    """
    if not isinstance(method, GaussianFilter):
        return f"`{type(method).__name__}` has one path, whatever the model."
    data = _typical(model) if series is None else series
    try:
        prepared = prepare(method, model, data, at_once=True)
    except Untraceable as why:
        return f"torch: `{type(model).__name__}` runs as written with this method: {why}."
    count = sum(len(step.traced.program.operations) for step in prepared.steps.both)
    return (
        f"compiled: transition and emission of `{type(model).__name__}` are traced, {count} "
        "operations with their derivatives, and run in a compiled loop."
    )


def _typical(model: StateSpaceModel) -> Series:
    """Return two steps of nothing, with inputs if the model has some, and with time steps."""
    y = torch.full((2, model.obs_dim), torch.nan, dtype=model.dtype, device=model.device)
    u = y.new_zeros(2, model.input_dim) if model.input_dim else None
    return Series(y, u, y.new_ones(2))
