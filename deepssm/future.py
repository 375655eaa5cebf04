"""Appending the steps to be forecast: missing observations with known inputs and time steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .base import Series, StateSpaceModel
from .checks import Data, Labels, as_series, as_tensor
from .feedback import own_inputs

if TYPE_CHECKING:
    import pandas as pd


def future_labels(labels: Labels, horizon: int) -> pd.Index | None:
    """Continue the rows of the user's frame by `horizon` steps, if it had any."""
    from .interop.frames import future_index

    return future_index(labels.index, horizon)


def extend(
    model: StateSpaceModel,
    past: Series,
    horizon: int,
    u_future: Data | None,
    dt_future: Data | float | None,
) -> Series:
    """Append `horizon` missing steps, with their inputs and time steps.

    Args:
        model: Says whether there are inputs.
        past: The checked data.
        horizon: Number of steps to append.
        u_future: Their inputs, `(*batch, horizon, input)`.
        dt_future: Their time steps, a number or `(*batch, horizon)`.

    Returns:
        Past and future as one series.

    Raises:
        ValueError: Future inputs or time steps are missing, superfluous or of the wrong shape.
    """
    y = past.y
    gap = y.new_full((*y.shape[:-2], horizon, y.shape[-1]), torch.nan)
    u, own = None, own_inputs(model, past.u)
    if own is not None:
        if u_future is None:
            raise ValueError(
                f"`u_future` is missing: the model has {model.input_dim} input(s), so the "
                f"forecast needs theirs, `(*batch, {horizon}, {model.input_dim})`."
            )
        later = as_tensor(model, "u_future", u_future)
        if later.ndim < 2 or later.shape[-2:] != (horizon, model.input_dim):
            raise ValueError(
                f"`u_future` must end in `(horizon, input) = {(horizon, model.input_dim)}`, got "
                f"{tuple(later.shape)}."
            )
        u = torch.cat((own, later.expand(*own.shape[:-2], *later.shape[-2:])), -2)
    elif u_future is not None:
        raise ValueError("`u_future` is given, but the model has no inputs. Leave it out.")
    return as_series(
        model, torch.cat((y, gap), -2), u, _future_steps(model, past, horizon, dt_future)
    )


def _future_steps(
    model: StateSpaceModel, past: Series, horizon: int, dt_future: Data | float | None
) -> Tensor | None:
    if past.dt is None and dt_future is None:
        return None
    if past.dt is not None and past.dt.ndim == 0 and dt_future is None:
        return past.dt
    if past.dt is None or dt_future is None:
        raise ValueError(
            "`dt` and `dt_future` must be given together when time steps vary: the forecast needs "
            f"`dt_future`, a number or `(*batch, {horizon})`."
        )
    before = past.dt.expand(past.y.shape[:-1])
    later = as_tensor(model, "dt_future", dt_future)
    return torch.cat((before, later.expand(*before.shape[:-1], horizon)), -1)
