"""The public door: everything a user passes becomes a checked `Series`, or an error that helps."""

from __future__ import annotations

import math
from numbers import Integral
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from pyro.nn import PyroModule
from torch import Tensor

from ..core.autoregressive import with_past
from ..core.methods import FixedLag, InferenceMethod, LearningMethod
from ..core.model import Data, Series, StateSpaceModel

if TYPE_CHECKING:
    import pandas as pd

    from ..core.results import Smoothed


class Labels(NamedTuple):
    """Row labels and column names of the user's data, if it had any."""

    index: pd.Index | None
    names: tuple[str, ...] | None


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
        The data of one shape, dtype and device. Where the model reads its own last reading, `u`
        ends in it.

    Raises:
        ValueError: A rank, size, dtype or value does not fit; the message names the argument.
    """
    if isinstance(model, type) or not hasattr(model, "obs_dim"):
        raise ValueError(
            f"`model` must be a model, got {_what(model)}. Build one: `ds.models.LocalLevel()`."
        )
    values = _observations(model, y, regular=dt is None)
    inputs = _inputs(model, u, values)
    if inputs is not None:
        batch = torch.broadcast_shapes(values.shape[:-2], inputs.shape[:-2])
        values = values.expand(*batch, *values.shape[-2:])
        inputs = inputs.expand(*batch, *inputs.shape[-2:])
    if lengths is not None:
        values = _truncate(values, lengths)
    return Series(values, with_past(model, values, inputs), _steps(model, dt, values))


def as_steps(
    model: StateSpaceModel,
    method: InferenceMethod | None,
    y: Data,
    u: Data | None,
    dt: Data | float | None,
    lengths: Data | None,
) -> Series:
    """Return `as_series(...)`, which has a step or more unless the exact filter takes it.

    Raises:
        ValueError: There is none, or something does not fit.
    """
    series = as_series(model, y, u, dt, lengths)
    if series.time or _takes_nothing(model, method):
        return series
    raise ValueError(
        f"`y` has no time step, its shape is {tuple(series.y.shape)}. Pass one reading or "
        "more; `forecast` and `simulate` alone start from nothing."
    )


def _takes_nothing(model: StateSpaceModel, method: InferenceMethod | None) -> bool:
    from ..inference import Kalman

    exact = method is None or isinstance(method, Kalman)
    return exact and hasattr(model, "linear_parameters")


def learnable(model: StateSpaceModel) -> bool:
    """Tell whether some parameter of a model requires a gradient or has a prior."""
    parts = (part for part in model.modules() if isinstance(part, PyroModule))
    return any(p.requires_grad for p in model.parameters()) or any(p._pyro_samples for p in parts)


def labels_of(y: Data) -> Labels:
    """Return the index and column names of a frame, or nothing for plain arrays."""
    from ..io.frames import from_frame, is_frame

    if not is_frame(y):
        return Labels(None, None)
    frame = from_frame(y, regular=False)
    return Labels(frame.index, frame.names)


def as_tensor(model: StateSpaceModel, name: str, value: Data, *, regular: bool = False) -> Tensor:
    """Turn an array or a frame into a tensor of the model's dtype on its device.

    Raises:
        ValueError: It does not hold numbers.
    """
    from ..io.frames import from_frame, is_frame

    if isinstance(value, Tensor):
        tensor = value
    elif is_frame(value):
        tensor = from_frame(value, regular=regular).y
    else:
        tensor = _from_array(name, value)
    if tensor.is_complex():
        raise ValueError(f"`{name}` must be real, got {tensor.dtype}. Pass its parts as columns.")
    return model.adopt(tensor)


def _from_array(name: str, value: ArrayLike) -> Tensor:
    try:
        if np.iscomplexobj(value):
            return torch.from_numpy(np.array(value))
        return torch.from_numpy(np.array(value, dtype=float))
    except (TypeError, ValueError) as error:
        hint = "."
        if "inhomogeneous" in str(error):
            hint = (
                ". Series of several lengths are padded with NaN to one, as by "
                "`torch.nn.utils.rnn.pad_sequence`, and told by `lengths`."
            )
        raise ValueError(
            f"`{name}` must hold numbers (NaN where missing), got {type(value).__name__}: "
            f"{str(error).rstrip('.')}{hint}"
        ) from error


def positive(name: str, value: int) -> int:
    """Return `value`, a count of at least 1.

    Raises:
        ValueError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"`{name}` must be a whole number of at least 1, got {value!r}.")
    return int(value)


def infers(method: InferenceMethod) -> InferenceMethod:
    """Return `method`, which can infer states.

    Raises:
        ValueError: It cannot.
    """
    if isinstance(method, type) or not callable(getattr(method, "filter", None)):
        raise ValueError(
            f"`method` must infer states, as `ds.inference.Kalman()` does, got {_what(method)}."
        )
    return method


def to_learn(model: StateSpaceModel, series: Series) -> Series:
    """Return `series`, from which `model` can learn.

    Raises:
        ValueError: Nothing was observed, a reading is too large to be squared and added up, or
            the model has nothing to learn.
    """
    if not bool((~series.y.isnan()).any()):
        raise ValueError("`y` holds no observation: every entry is missing. Check the columns.")
    size = series.y.detach().abs().nan_to_num(nan=0.0)
    if float(size.max()) > (torch.finfo(size.dtype).max / size.numel()) ** 0.5:
        at = int(size.reshape(-1, size.shape[-1]).amax(0).argmax())
        raise ValueError(
            f"`y` holds {float(size.max()):g} in component {at}, whose square overflows "
            f"{size.dtype}. Repair it, or give the readings in a larger unit."
        )
    if not learnable(model):
        raise ValueError(
            f"{type(model).__name__} has nothing to learn: no parameter requires a gradient. Pass "
            "`PyroParam(value, constraint)` for those that should be learnt, or a `PyroSample`."
        )
    return series


def learns(method: LearningMethod) -> LearningMethod:
    """Return `method`, which can learn parameters.

    Raises:
        ValueError: It cannot.
    """
    if isinstance(method, type) or not callable(getattr(method, "fit", None)):
        raise ValueError(
            "`method` must learn parameters, as `ds.inference.MaximumLikelihood(inference=...)` "
            f"does, got {_what(method)}."
        )
    return method


def smoothed(
    method: InferenceMethod, model: StateSpaceModel, series: Series, lag: int | None
) -> Smoothed:
    """Smooth with a fixed lag, or with all data if `lag` is `None`.

    Raises:
        ValueError: `lag` is no count, or the method has no fixed-lag smoother.
    """
    if lag is None:
        return method.smooth(model, series)
    if isinstance(lag, bool) or not isinstance(lag, int) or lag < 0:
        raise ValueError(f"`lag` must be a whole number of at least 0, got {lag!r}.")
    if not isinstance(method, FixedLag):
        raise ValueError(
            f"`lag` needs a method with `fixed_lag`, as `Kalman()` has; {type(method).__name__} "
            "has none. Leave `lag` out, or smooth the prefixes of the data one by one."
        )
    return method.fixed_lag(model, series, lag)


def _what(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _observations(model: StateSpaceModel, y: Data, *, regular: bool) -> Tensor:
    values, size = as_tensor(model, "y", y, regular=regular), model.obs_dim
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
    if not bool(values.isfinite().all()):
        raise ValueError("`u` must be finite: inputs are known. Fill its NaN before the call.")
    return values


def _truncate(y: Tensor, lengths: Data) -> Tensor:
    counts = torch.as_tensor(lengths, device=y.device)
    if counts.is_floating_point() or bool(((counts < 0) | (counts > y.shape[-2])).any()):
        raise ValueError(
            f"`lengths` must be whole numbers between 0 and time = {y.shape[-2]}, got {lengths}."
        )
    try:
        counts = counts.expand(y.shape[:-2])
    except RuntimeError as error:
        raise ValueError(
            f"`lengths` must have the batch shape {tuple(y.shape[:-2])} of `y`, got "
            f"{tuple(counts.shape)}."
        ) from error
    valid = torch.arange(y.shape[-2], device=y.device) < counts[..., None]
    return torch.where(valid[..., None], y, torch.full_like(y, torch.nan))


def _steps(model: StateSpaceModel, dt: Data | float | None, y: Tensor) -> Tensor | None:
    from ..io.frames import is_frame

    if dt is None:
        return None
    steps = as_tensor(model, "dt", dt)
    if is_frame(dt) and steps.ndim == 2 and steps.shape[-1] == 1:
        steps = steps[:, 0]
    if steps.ndim and (steps.shape[-1] != y.shape[-2] or steps.ndim > y.ndim - 1):
        raise ValueError(
            f"`dt` must be a number or have shape `(*batch, time) = {tuple(y.shape[:-1])}`, got "
            f"{tuple(steps.shape)}."
        )
    if steps.ndim:
        first = torch.arange(steps.shape[-1], device=steps.device) == 0
        steps = torch.where(first, torch.zeros_like(steps), steps)
    if not bool(steps.isfinite().all()) or bool((steps < 0).any()):
        raise ValueError(
            "`dt` must be finite and not negative. Sort the readings by time and drop those "
            "without a time stamp."
        )
    if steps.ndim and not model.reads_time and bool((steps[..., 1:] != steps[..., 1:2]).any()):
        raise ValueError(
            f"`dt` has steps of several lengths, but a step of {type(model).__name__} has none. "
            "Lay the readings on a regular grid with NaN where there is none, or take a model in "
            "continuous time, such as `ConstantVelocity`, `Matern` or `DeepMarkov`."
        )
    return steps
