"""The public door: everything a user passes becomes a checked `Series`, or an error that helps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core.abilities import ReadsNoiseVariances
from ..core.autoregressive import with_autoregressive_input
from ..core.gradients import plain_series
from ..core.methods import InferenceMethod, TakesEmptySeries
from ..core.model import Data, Series, StateSpaceModel
from ..io.arrays import read_numbers
from .arguments import require_model, require_steps

if TYPE_CHECKING:
    import pandas as pd


class Labels(NamedTuple):
    """Row labels and column names of the user's data, if it had any; names of its inputs, too."""

    index: pd.Index | None = None  # pyright: ignore[reportIncompatibleMethodOverride]
    names: tuple[str, ...] | None = None
    inputs: tuple[str, ...] | None = None


class Checked(NamedTuple):
    """What the user passed, taken apart once."""

    series: Series
    labels: Labels


def as_series(
    model: StateSpaceModel,
    y: Data,
    u: Data | None = None,
    dt: Data | float | None = None,
    lengths: Data | None = None,
) -> Series:
    """Check data against a model and bring them to its dtype and device.

    Args:
        model: Says how many observations and inputs a step has.
        y: `(*batch, time, obs)`, or `(time,)` for one component, or a frame; NaN is missing.
        u: Inputs, `(*batch, time, input)` or `(time, input)`, or `(time,)` for a single one;
            required iff the model has inputs.
        dt: Time steps, a number or `(*batch, time)`; entry 0 is ignored.
        lengths: Number of valid steps of each series, `(*batch,)`; later entries become missing.

    Returns:
        The data of one shape, dtype and device. Where the model reads its own last observation,
        `u` ends in it.

    Raises:
        ValueError: A rank, size, dtype or value does not fit; the message names the argument.
    """
    return as_labelled_series(model, y, u, dt=dt, lengths=lengths).series


def as_labelled_series(
    model: StateSpaceModel,
    y: Data,
    u: Data | None = None,
    *,
    dt: Data | float | None = None,
    lengths: Data | None = None,
) -> Checked:
    """Return `as_series(...)` with the labels of the user's frame, which is read once.

    Raises:
        ValueError: A rank, size, dtype or value does not fit; the message names the argument.
    """
    require_model(model)
    plain, labels = unlabelled(y, regular=dt is None, wanted=model.learnt_columns[0])
    values = _observations(model, plain)
    given, names = as_rows(model, "u", u, labels.index)
    labels = labels._replace(inputs=names)
    inputs = _inputs(model, given, values)
    if inputs is not None:
        batch = torch.broadcast_shapes(values.shape[:-2], inputs.shape[:-2])
        values = values.expand(*batch, *values.shape[-2:])
        inputs = inputs.expand(*batch, *inputs.shape[-2:])
    if lengths is not None:
        values = truncated(values, lengths)
    steps = _steps(model, as_step_sizes("dt", dt, labels.index), values)
    series = Series(values, with_autoregressive_input(model, values, inputs), steps)
    return Checked(plain_series(series), labels)


def as_steps(
    model: StateSpaceModel,
    method: InferenceMethod,
    y: Data,
    u: Data | None,
    dt: Data | float | None,
    lengths: Data | None,
) -> Checked:
    """Return `as_labelled_series(...)`, which has a step or more unless `method` takes none.

    Raises:
        ValueError: There is none, or something does not fit.
    """
    checked = as_labelled_series(model, y, u, dt=dt, lengths=lengths)
    if checked.series.time or (isinstance(method, TakesEmptySeries) and method.takes_empty_series):
        return checked
    raise ValueError(
        f"`y` has no time step, its shape is {tuple(checked.series.y.shape)}. Pass one "
        "observation or more; `forecast` and `simulate` alone start from nothing."
    )


def unlabelled(
    y: Data, *, regular: bool, wanted: tuple[str, ...] | None = None
) -> tuple[Data, Labels]:
    """Return the numbers of a frame with its labels; other data as they are, without labels.

    Args:
        y: What the user passed.
        regular: Demand equal steps of a frame's time index.
        wanted: Names of the columns in the order in which they were learnt, if any.
    """
    from ..io.frames import from_frame, is_frame

    if not is_frame(y):
        return y, Labels()
    from ..io.alignment import columns_by_name

    frame = columns_by_name(from_frame(y, regular=regular), wanted, "y", strict=False)
    return frame.y, Labels(frame.index, frame.names)


def as_rows(
    model: StateSpaceModel,
    name: str,
    value: Data | None,
    index: pd.Index | None,
    *,
    to: str = "y",
    known: tuple[str, ...] | None = None,
) -> tuple[Data | None, tuple[str, ...] | None]:
    """Return inputs with the rows of a frame in the order of labels, its columns by their names.

    Args:
        model: Says what its inputs are called, or were called in learning.
        name: What the user calls them.
        value: What the user passed.
        index: Labels of the steps that they belong to, if any.
        to: What has these labels.
        known: Names of the inputs that these go on from, if they had any.

    Returns:
        Numbers, and the names of a frame's columns, if they have any.

    Raises:
        ValueError: A label or a name is not there.
    """
    from ..io.frames import has_names, is_frame, read_frame

    if value is None or not is_frame(value):
        return value, None
    from ..io.alignment import columns_by_name, rows_by_label

    data, dialect = read_frame(value, name)
    if len(model.input_names) == model.input_dim:
        data = columns_by_name(data, model.input_names, name)
    elif known:
        data = columns_by_name(data, known, name)
    else:
        data = columns_by_name(data, model.learnt_columns[1], name, strict=False)
    return rows_by_label(data, dialect, index, name, to), data.names if has_names(data) else None


def as_step_sizes(
    name: str, value: Data | float | None, index: pd.Index | None, *, to: str = "y"
) -> Data | float | None:
    """Return time steps with the rows of a frame in the order of labels.

    Args:
        name: What the user calls them.
        value: What the user passed.
        index: Labels of the steps that they belong to, if any.
        to: What has these labels.

    Raises:
        ValueError: They are time stamps or durations, or a label is not there.
    """
    from ..io.frames import is_frame, read_frame

    if value is None or not is_frame(value):
        return value
    from ..io.alignment import steps_by_label

    data, dialect = read_frame(value, name)
    steps = steps_by_label(data, dialect, index, name, to)
    return steps[:, 0] if steps.shape[-1] == 1 else steps


def remember_columns(model: StateSpaceModel, labels: Labels) -> None:
    """Let a model remember the names of the columns that it learnt from, if they had any."""
    model.learnt_columns = (labels.names or (), labels.inputs or ())


def as_tensor(model: StateSpaceModel, name: str, value: Data) -> Tensor:
    """Turn an array or a frame into a tensor of the model's dtype on its device.

    Raises:
        ValueError: It does not hold numbers.
    """
    from ..io.frames import is_frame, read_frame

    if is_frame(value):
        return model.adopt(read_frame(value, name)[0].y)
    return model.adopt(read_numbers(name, value))


def _observations(model: StateSpaceModel, y: Data) -> Tensor:
    values, size = as_tensor(model, "y", y), model.obs_dim
    if values.ndim == 1 and size == 1:
        values = values[:, None]
    if values.ndim < 2 or values.shape[-1] != size:
        raise ValueError(
            f"`y` must end in `(time, {size})`, for the model observes {size} component(s), got "
            f"shape {tuple(values.shape)}. Time goes second to last: pass `y[..., None]` for "
            "scalar series."
        )
    # A finite sum has no infinite term, and costs a fraction of looking at each.
    if not math.isfinite(values.detach().sum()) and bool(values.isinf().any()):
        raise ValueError(
            "`y` must be finite or NaN (missing), but holds infinity, or a number beyond "
            f"{torch.finfo(values.dtype).max:.1e}, the largest of the model's {values.dtype}."
        )
    return values


def _inputs(model: StateSpaceModel, u: Data | None, y: Tensor) -> Tensor | None:
    size = model.input_dim
    if (u is None) != (size == 0):
        raise ValueError(
            f"`u` is {'missing' if u is None else 'given'}, but the model has {size} input(s). "
            + ("Pass `u` of shape `(*batch, time, input)`." if u is None else "Leave `u` out.")
        )
    if u is None:
        return None
    values = as_tensor(model, "u", u)
    if values.ndim == 1 and size == 1:
        values = values[:, None]
    if values.ndim < 2 or values.shape[-2:] != (y.shape[-2], size):
        raise ValueError(
            f"`u` must end in `(time, input) = {(y.shape[-2], size)}`, got {tuple(values.shape)}."
        )
    if isinstance(model, ReadsNoiseVariances):
        values = _noise_variances(values, y, model.noise_columns)
    if not bool(values.isfinite().all()):
        raise ValueError("`u` must be finite: inputs are known. Fill its NaN before the call.")
    return values


def _noise_variances(u: Tensor, y: Tensor, columns: slice) -> Tensor:
    """Return the inputs with noise variances of 0 where nothing was observed and none is given."""
    variance = u[..., columns]
    if bool((variance < 0).any()):
        raise ValueError(
            f"`u` must hold variances in its last {variance.shape[-1]} column(s), finite and not "
            f"negative, got {float(variance.min()):g}. Square standard deviations."
        )
    if bool((variance.isnan() & ~y.isnan()).any()):
        raise ValueError(
            f"`u` must hold the variance of every reading in its last {variance.shape[-1]} "
            "column(s): some component of `y` is there whose variance is NaN."
        )
    known = torch.where(variance.isnan(), torch.zeros_like(variance), variance)
    return torch.cat([u[..., : columns.start], known], -1)


def truncated(y: Tensor, lengths: Data) -> Tensor:
    """Return `y` with NaN in the steps that follow the valid ones of each series.

    Args:
        y: `(*batch, time, obs)`.
        lengths: Valid steps, `(*batch,)`.

    Raises:
        ValueError: They are no such counts.
    """
    counts = as_counts(lengths, y.shape[:-2]).to(y.device)
    if bool(((counts < 0) | (counts > y.shape[-2])).any()):
        raise ValueError(
            f"`lengths` must be whole numbers between 0 and time = {y.shape[-2]}, got {lengths}."
        )
    valid = torch.arange(y.shape[-2], device=y.device) < counts[..., None]
    return torch.where(valid[..., None], y, torch.full_like(y, torch.nan))


def as_counts(lengths: Data, batch: torch.Size) -> Tensor:
    """Return one whole number a series, `(*batch,)`; a single number counts for all.

    Raises:
        ValueError: They are none, or of another shape: one of two lengths is not both.
    """
    counts = lengths if isinstance(lengths, Tensor) else torch.as_tensor(np.array(lengths))
    if counts.is_floating_point() or counts.is_complex() or counts.dtype == torch.bool:
        raise ValueError(f"`lengths` must be whole numbers, got {lengths}.")
    if counts.ndim and counts.shape != batch:
        raise ValueError(
            f"`lengths` must have the batch shape {tuple(batch)} of `y`, got "
            f"{tuple(counts.shape)}. Give one length a series, or a single number for all."
        )
    return counts.expand(batch)


def _steps(model: StateSpaceModel, dt: Data | float | None, y: Tensor) -> Tensor | None:
    if dt is None:
        return None
    steps = as_tensor(model, "dt", dt)
    if steps.ndim and (steps.shape[-1] != y.shape[-2] or steps.ndim > y.ndim - 1):
        raise ValueError(
            f"`dt` must be a number or have shape `(*batch, time) = {tuple(y.shape[:-1])}`, got "
            f"{tuple(steps.shape)}."
        )
    require_steps("dt", steps)
    if steps.ndim:
        first = torch.arange(steps.shape[-1], device=steps.device) == 0
        steps = torch.where(first, torch.zeros_like(steps), steps)
    if not bool(steps.isfinite().all()) or bool((steps < 0).any()):
        raise ValueError(
            "`dt` must be finite and not negative. Sort the observations by time and drop those "
            "without a time stamp."
        )
    if steps.ndim and not model.reads_time and bool((steps[..., 1:] != steps[..., 1:2]).any()):
        raise ValueError(
            f"`dt` has steps of several lengths, but a step of {type(model).__name__} has none. "
            "Lay the observations on a regular grid with NaN where there is none, or take a model "
            "in continuous time, such as `ConstantVelocity`, `Matern` or `DeepMarkov`."
        )
    return steps
