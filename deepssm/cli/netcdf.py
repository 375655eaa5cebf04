"""`results.nc`: data, states and forecasts of a run as netCDF with ArviZ's groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..api.fit import Fit
from ..api.validation import Labels, as_series
from ..core.model import Series, StateSpaceModel
from ..core.results import Forecast
from ..interop.datatree import to_datatree
from ..io.atomic import replacing
from .exit_codes import DataError
from .fit_model import future_inputs
from .model_specs import ModelSpec
from .run_folder import RunFolder


def write_results(folder: RunFolder, fit: Fit, forecasts: Mapping[str, Forecast]) -> None:
    """Write data, states and likelihoods of the main fit, and the forecasts of all methods.

    Args:
        folder: A run folder, usually under its temporary name.
        fit: The main fit.
        forecasts: By method; `predictions` holds `y_mean` and `y_sd` with the dimension `method`.
    """
    import xarray as xr

    tree = to_datatree(fit)
    if forecasts:
        first = next(iter(forecasts.values()))
        sds = [f.cov.diagonal(dim1=-2, dim2=-1).sqrt() for f in forecasts.values()]
        means = [f.mean for f in forecasts.values()]
        dims = ("method", "time_forecast", "obs")
        index = first.index if first.index is not None else np.arange(1, len(first.mean) + 1)
        tree["predictions"] = xr.DataTree(
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
    with replacing(folder.results_file) as temporary:
        tree.to_netcdf(temporary, engine="h5netcdf")


def read_data(
    folder: RunFolder, model: StateSpaceModel, spec: ModelSpec, label: str | None
) -> tuple[Series, Labels]:
    """Read a run's data back.

    Args:
        folder: The run folder.
        model: Checks and takes the data.
        spec: Says which inputs the model takes.
        label: Name of the time index.

    Raises:
        DataError: `results.nc` is missing or damaged.
    """
    import xarray as xr

    path = folder.results_file
    if not path.is_file():
        raise DataError(f"{path} is missing: run `deepssm fit` again.")
    try:
        with xr.open_datatree(path, engine="h5netcdf") as tree:
            observed = tree["observed_data"].to_dataset().load()
            constant = tree["constant_data"].to_dataset().load() if "constant_data" in tree else {}
        y, u, dt = observed["y"].values, _values(constant, "u"), _values(constant, "dt")
        index = observed.indexes["time"].rename(label)
        names = tuple(str(name) for name in observed["obs"].values)
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}): run `deepssm fit` again.") from None
    return as_series(model, y, _inputs(spec, u, len(y)), dt=dt), Labels(
        index, names, spec.u or None
    )


def _inputs(spec: ModelSpec, stored: np.ndarray | None, rows: int) -> np.ndarray | None:
    """Return the model's inputs; those stored are of the main model, the given ones first."""
    if not spec.input_dim:
        return None
    given = np.empty((rows, 0)) if stored is None else stored[:, : len(spec.u)]
    return future_inputs(spec, given, start=0)


def _values(dataset: Mapping[Any, Any], name: str) -> np.ndarray | None:
    return dataset[name].values if name in dataset else None
