"""Tensors with the dimensions and labels that xarray and netCDF want."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

Pointwise = Literal["one_step", "leave_one_out"]
Kind = Literal["", "state", "obs", "input", "cov", "obs_cov"]
Variables = dict[str, tuple[Tensor, Kind]]

_TAILS: dict[Kind, tuple[str, ...]] = {
    "": (),
    "state": ("state",),
    "obs": ("obs",),
    "input": ("input",),
    "cov": ("state", "state_bis"),
    "obs_cov": ("obs", "obs_bis"),
}


def dataset(
    variables: Variables,
    index: pd.Index | None = None,
    *,
    names: Sequence[str] | None = None,
    states: Sequence[str] | None = None,
    lead: tuple[str, ...] = (),
    time: str = "time",
) -> xr.Dataset:
    """Give tensors the dimensions `(*lead, *batch, time, *kind)`; one batch axis is `series`.

    Args:
        variables: Tensor and kind: what a step holds, a number, a vector or a matrix.
        index: Labels of the steps.
        names: Labels of observed components.
        states: Labels of state components.
        lead: Dimensions in front.
        time: Name of the time dimension.
    """
    import xarray as xr

    arrays = {}
    for name, (value, kind) in variables.items():
        batch = _batch_dims(value.ndim - len(lead) - 1 - len(_TAILS[kind]))
        dims = (*lead, *batch, time, *_TAILS[kind])
        arrays[name] = (dims, value.detach().cpu().numpy())
    found = xr.Dataset(arrays)
    labels: dict[Any, Any] = {dim: range(size) for dim, size in found.sizes.items()}
    for dims, given in ((("state", "state_bis"), states), (("obs", "obs_bis"), names)):
        if given is not None:
            labels |= dict.fromkeys(dims, list(given))
    if index is not None:
        labels[time] = _storable(index)
    return found.assign_coords({dim: labels[dim] for dim in found.sizes})


def _batch_dims(count: int) -> tuple[str, ...]:
    return ("series",) if count == 1 else tuple(f"batch{i}" for i in range(count))


def _storable(index: pd.Index) -> pd.Index:
    """Turn labels that netCDF cannot keep into ones that it can."""
    import pandas as pd

    if isinstance(index, pd.PeriodIndex):
        index = index.to_timestamp()
    if isinstance(index, pd.DatetimeIndex) and index.tz is not None:
        index = index.tz_convert("UTC").tz_localize(None)
    return index.rename(None)
