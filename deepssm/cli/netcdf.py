"""`results.nc`: data, states and forecasts of a run as netCDF with ArviZ's groups."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..api.fit import Fit
from ..api.validation import Labels, as_series
from ..core.model import Series, StateSpaceModel
from ..core.results import Forecast
from ..interop.datatree import data_tree, to_datatree
from ..io.atomic import write_bytes
from ..io.results_file import check_results
from ..io.run_schema import damaged
from .exit_codes import DataError, short
from .failures import surviving
from .fit_model import future_inputs
from .model_specs import ModelSpec
from .run_folder import RunFolder

if TYPE_CHECKING:
    import pandas as pd


class Stored(NamedTuple):
    """The data of a run as `results.nc` holds them.

    Attributes:
        y: Observations, `(time, obs)`.
        u: Inputs of the main model, `(time, input)`, the given ones first.
        dt: Time steps, `(time,)`.
        index: Labels of the rows.
        names: Names of the columns.
    """

    y: np.ndarray
    u: np.ndarray | None
    dt: np.ndarray | None
    index: pd.Index
    names: tuple[str, ...]


def write_results(folder: RunFolder, fit: Fit, forecasts: Mapping[str, Forecast]) -> list[str]:
    """Write data, states and likelihoods of the main fit, and the forecasts of all methods.

    Args:
        folder: A run folder, usually under its temporary name.
        fit: The main fit.
        forecasts: By method; `predictions` holds `y_mean` and `y_sd` with the dimension `method`.

    Returns:
        What could not be written, in sentences: a smoother that fails costs no data.
    """
    notes: list[str] = []
    tree = None
    with surviving("The states in results.nc", notes):
        tree = to_datatree(fit)
    tree = data_tree(fit) if tree is None else tree
    with surviving("The forecasts in results.nc", notes):
        tree["predictions"] = _predictions(fit, forecasts)
    # By way of memory: HDF5 ends the whole process where a disk is full.
    stored = tree.to_netcdf(engine="h5netcdf")
    assert stored is not None
    write_bytes(folder.results_file, bytes(stored))
    return notes


def _predictions(fit: Fit, forecasts: Mapping[str, Forecast]) -> Any:  # noqa: ANN401
    """Return the forecasts of all methods as one group; without any, an empty one."""
    import xarray as xr

    if not forecasts:
        return xr.DataTree()
    first = next(iter(forecasts.values()))
    sds = [f.cov.diagonal(dim1=-2, dim2=-1).sqrt() for f in forecasts.values()]
    means = [f.mean for f in forecasts.values()]
    dims = ("method", "time_forecast", "obs")
    index = first.index if first.index is not None else np.arange(1, len(first.mean) + 1)
    return xr.DataTree(
        xr.Dataset(
            {
                "y_mean": (dims, np.stack([x.detach().double().numpy() for x in means])),
                "y_sd": (dims, np.stack([x.detach().double().numpy() for x in sds])),
            },
            {
                "method": list(forecasts),
                "time_forecast": np.asarray(index),
                "obs": list(fit.names or ["y"]),
            },
        )
    )


def read_data(folder: RunFolder, spec: ModelSpec, label: str | None) -> Stored:
    """Read a run's data back.

    Args:
        folder: The run folder.
        spec: Says which columns there are.
        label: Name of the time index.

    Raises:
        DataError: `results.nc` is missing or damaged.
    """
    path = folder.results_file
    if not path.is_file():
        raise DataError(f"{path} is missing: run `deepssm fit` again.")
    check_results(path)
    try:
        stored = _read(path, label)
        reason = _wrong(stored, spec)
    except Exception as error:  # Which one depends on the byte that is damaged.
        reason = short(error)
    else:
        if not reason:
            return stored
    raise DataError(f"{damaged(path, reason)} Run `deepssm fit` again.")


def series_of(model: StateSpaceModel, spec: ModelSpec, stored: Stored) -> tuple[Series, Labels]:
    """Return stored data as a model takes them.

    Args:
        model: Checks and takes the data.
        spec: Says which inputs the model takes.
        stored: Data of the run.
    """
    u = _inputs(spec, stored.u, len(stored.y))
    labels = Labels(stored.index, stored.names, spec.u or None)
    return as_series(model, stored.y, u, dt=stored.dt), labels


def _read(path: Path, label: str | None) -> Stored:
    import xarray as xr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of xarray, on what is about to be checked.
        observed = _group(path, "observed_data")
        try:
            constant: Mapping[Any, Any] = _group(path, "constant_data")
        except (OSError, KeyError):
            constant = {}
        assert isinstance(observed, xr.Dataset)
        index = observed.indexes["time"].rename(label)
        names = tuple(str(name) for name in observed["obs"].values)
        y = observed["y"].transpose("time", "obs").values
    return Stored(y, _values(constant, "u"), _values(constant, "dt"), index, names)


def _group(path: Path, name: str) -> Any:  # noqa: ANN401
    import xarray as xr

    with xr.open_dataset(path, group=name, engine="h5netcdf") as found:
        return found.load()


def _wrong(stored: Stored, spec: ModelSpec) -> str:
    """Return what is wrong with data, empty if nothing is."""
    y, u, dt, index, names = stored
    rows = len(y)
    if y.dtype.kind != "f" or not rows or bool(np.isinf(y).any()):
        return "'y' must be finite numbers or missing, of at least one row"
    if names != spec.y:
        return "its columns are not those of config.toml"
    if len(index) != rows or bool(index.isna().any()) or not index.is_monotonic_increasing:
        return "'time' is not one moment a row, in order"
    if u is not None and (
        u.dtype.kind != "f" or u.ndim != 2 or len(u) != rows or not np.isfinite(u).all()
    ):
        return "'u' must be finite numbers, a row for each of 'y'"
    if dt is not None and (dt.dtype.kind != "f" or dt.shape != (rows,) or not (dt >= 0).all()):
        return "'dt' must be a number of at least 0 for each row"
    if len(spec.u) and (u is None or u.shape[1] < len(spec.u)):
        return "it lacks inputs that config.toml names"
    return ""


def _inputs(spec: ModelSpec, stored: np.ndarray | None, rows: int) -> np.ndarray | None:
    """Return the model's inputs; those stored are of the main model, the given ones first."""
    if not spec.input_dim:
        return None
    given = np.empty((rows, 0)) if stored is None else stored[:, : len(spec.u)]
    return future_inputs(spec, given, start=0)


def _values(dataset: Mapping[Any, Any], name: str) -> np.ndarray | None:
    return dataset[name].values if name in dataset else None
