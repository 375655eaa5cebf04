"""Appending the steps to be forecast: missing observations with known inputs and time steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..core.autoregressive import own_inputs
from ..core.methods import InferenceMethod
from ..core.model import Series, StateSpaceModel
from ..core.results import Forecast
from ..io.alignment import require_later
from ..io.calendars import next_labels
from ..io.frames import is_frame
from .arguments import require_draws, require_steps
from .result_checks import require_forecast
from .validation import Data, Labels, as_counts, as_rows, as_series, as_step_sizes, as_tensor

if TYPE_CHECKING:
    import pandas as pd


class Ahead(NamedTuple):
    """What is asked of a forecast.

    Attributes:
        horizon: Number of steps.
        u_future: Their inputs, `(*batch, horizon, input)`.
        dt_future: Their time steps, a number or `(*batch, horizon)`.
        num_samples: Joint futures to draw.
        generator: Source of randomness.
        labels: Labels of the past, which those of future inputs go on from.
    """

    horizon: int
    u_future: Data | None = None
    dt_future: Data | float | None = None
    num_samples: int | None = None
    generator: torch.Generator | None = None
    labels: Labels = Labels()

    def forecast(
        self,
        model: StateSpaceModel,
        method: InferenceMethod,
        past: Series,
        lengths: Data | None = None,
    ) -> Forecast:
        """Forecast the steps after `past`, or after the valid steps of each of its series.

        Args:
            model: The model.
            method: How to infer.
            past: The checked data.
            lengths: Valid steps of each series, `(*batch,)`; series of one length run together.

        Raises:
            ValueError: Future inputs do not fit, or series of several lengths have parameters of
                their own.
        """
        self._require_room(model, past)
        if is_frame(self.u_future) or is_frame(self.dt_future):
            return self.aligned(model, lengths).forecast(model, method, past, lengths)
        if lengths is not None and not past.batch_shape:
            length = int(as_counts(lengths, past.batch_shape))
            u, dt = past.u, past.dt
            u, dt = (x if x is None or not x.ndim else x[:length] for x in (u, dt))
            past = Series(past.y[:length], u, dt)
        if lengths is None or not past.batch_shape:
            whole = extend(model, past, self.horizon, self.u_future, self.dt_future)
            found = method.forecast(model, whole, self.horizon, self.num_samples, self.generator)
            require_forecast(found, method, model, whole, self.horizon)
            return found
        counts = as_counts(lengths, past.batch_shape).cpu().reshape(-1)
        parts, rows = [], []
        for length in counts.unique().tolist():
            rows.append((counts == length).nonzero()[:, 0].to(past.y.device))
            ahead = self._replace(
                u_future=_rows(model, "u_future", self.u_future, past, rows[-1], 2),
                dt_future=_rows(model, "dt_future", self.dt_future, past, rows[-1], 1),
            )
            part = ahead.forecast(model, method, _cut(past, rows[-1], length))
            if part.mean.shape[0] != len(rows[-1]):
                raise ValueError(
                    f"`lengths` differ, but every series has parameters of its own in this "
                    f"{type(model).__name__}: forecast the series one by one."
                )
            parts.append(part)
        return _in_order(parts, torch.cat(rows).argsort(), past.batch_shape)

    def aligned(self, model: StateSpaceModel, lengths: Data | None = None) -> Ahead:
        """Return this with the rows of frames at the labels of the steps ahead.

        Args:
            model: Says what its inputs are called.
            lengths: Valid steps of the past.

        Raises:
            ValueError: A label or a name is not there.
        """
        index, ahead, to = self.labels.index, None, "the steps ahead"
        if index is not None:
            rows = len(index) if lengths is None else int(as_counts(lengths, torch.Size()))
            ahead = next_labels(index, rows, self.horizon)
        if index is not None and ahead is None:
            # The past has no step to go on by: what comes after it can only be counted.
            for name, value in (("u_future", self.u_future), ("dt_future", self.dt_future)):
                require_later(value, index, name)
        known = self.labels.inputs
        u, _ = as_rows(model, "u_future", self.u_future, ahead, to=to, known=known)
        dt = as_step_sizes("dt_future", self.dt_future, ahead, to=to)
        return self._replace(u_future=u, dt_future=dt)

    def _require_room(self, model: StateSpaceModel, past: Series) -> None:
        """Refuse a horizon or draws that memory has no room for, before any is taken."""
        # What each step keeps at least: predicted and forecast moments of the state.
        paths = 2 * (1 + model.state_dim)
        require_draws(model, past, self.horizon, paths, f"horizon={self.horizon}")
        if self.num_samples is not None:
            what = f"num_samples={self.num_samples}"
            require_draws(model, past, self.horizon, self.num_samples, what)


def _cut(past: Series, rows: Tensor, length: int) -> Series:
    """Return the first steps of some series, batch axes made one."""
    y, u, dt = past
    axes = len(past.batch_shape)
    y = y.flatten(0, axes - 1)[rows, :length]
    if u is not None:
        u = u.expand(*past.batch_shape, *u.shape[-2:]).flatten(0, axes - 1)[rows, :length]
    if dt is not None and dt.ndim:
        dt = dt.expand(*past.batch_shape, -1).flatten(0, axes - 1)[rows, :length]
    return Series(y, u, dt)


def _rows(
    model: StateSpaceModel,
    name: str,
    value: Data | float | None,
    past: Series,
    rows: Tensor,
    event: int,
) -> Data | float | None:
    """Return what belongs to some series; what all share stays as it is."""
    if value is None:
        return None
    tensor = as_tensor(model, name, value)
    if tensor.ndim <= event:
        return tensor
    shape = tensor.shape[tensor.ndim - event :]
    return tensor.expand(*past.batch_shape, *shape).flatten(0, len(past.batch_shape) - 1)[rows]


def _in_order(parts: list[Forecast], order: Tensor, batch: torch.Size) -> Forecast:
    def joined(values: tuple[Tensor | None, ...], axis: int) -> Tensor | None:
        present = [value for value in values if value is not None]
        if len(present) < len(values):
            return None
        whole = torch.cat(present, axis).index_select(axis, order)
        return whole.reshape(*whole.shape[:axis], *batch, *whole.shape[axis + 1 :])

    axes = (0, 0, 1, 0, 0, 1)
    fields = [
        joined(values, axis) for values, axis in zip(zip(*parts, strict=True), axes, strict=True)
    ]
    result = Forecast(*fields)  # type: ignore[arg-type]
    result.gaussian = all(part.gaussian for part in parts)
    return result


def future_labels(labels: Labels, horizon: int, lengths: Data | None = None) -> pd.Index | None:
    """Continue the rows of the user's frame by `horizon` steps, if it had any.

    Args:
        labels: Of the past.
        horizon: Number of steps.
        lengths: Valid rows of the past, where it is padded.
    """
    from ..io.calendars import future_index

    if labels.index is None or lengths is None:
        return future_index(labels.index, horizon)
    later = next_labels(labels.index, int(as_counts(lengths, torch.Size())), horizon)
    return future_index(labels.index, horizon) if later is None else later


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
        if later.ndim == 1 and model.input_dim == 1:
            later = later[:, None]
        if later.ndim < 2 or later.shape[-2:] != (horizon, model.input_dim):
            raise ValueError(
                f"`u_future` must end in `(horizon, input) = {(horizon, model.input_dim)}`, got "
                f"{tuple(later.shape)}."
            )
        u = torch.cat((own, later.expand(*own.shape[:-2], *later.shape[-2:])), -2)
    elif u_future is not None:
        raise ValueError("`u_future` is given, but the model has no inputs. Leave it out.")
    steps = _future_steps(model, past, horizon, dt_future)
    return as_series(model, torch.cat((y, gap), -2), u, dt=steps)


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
    if later.ndim and later.shape[-1] != horizon:
        raise ValueError(
            f"`dt_future` must be a number or have shape `(*batch, {horizon})`, got "
            f"{tuple(later.shape)}."
        )
    require_steps("dt_future", later)
    return torch.cat((before, later.expand(*before.shape[:-1], horizon)), -1)
