"""Results as labelled arrays: one xarray DataTree with ArviZ's groups and dimensions."""

from __future__ import annotations

from datetime import UTC, datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..api.fit import Fit
from ..core.autoregressive import own_inputs
from ..core.model import Series, StateSpaceModel
from ..core.results import Filtered, Forecast, Smoothed
from .draws import Draws, left_out
from .labelled import Pointwise, Variables, dataset

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

Result = Fit | Draws | Filtered | Smoothed | Forecast | Tensor
Groups = dict[str, "xr.Dataset"]

_DRAWS = ("chain", "draw")
_ONE_STEP = "log p(y_t | y_1:t-1)"
_LEAVE_ONE_OUT = "log p(y_t | all y but y_t)"


def to_datatree(
    *results: Result,
    num_samples: int = 0,
    pointwise: Pointwise = "one_step",
    generator: torch.Generator | None = None,
) -> xr.DataTree:
    """Lay results out in ArviZ's groups, with dimensions `chain, draw, [series,] time, ...`.

    ======================  =====================================================================
    a `Fit` gives           `posterior` (the parameters as one draw; with `num_samples`, states
                            drawn given the data, beside the parameters repeated),
                            `posterior_predictive` (with `num_samples`), `log_likelihood`,
                            `sample_stats`, `smoothed`, `observed_data`, `constant_data`
    `Draws` give            `posterior` (parameters of each draw), `log_likelihood` under each,
                            `observed_data`, `constant_data`
    a `Filtered` gives      `filtered` (moments), `log_likelihood`, `sample_stats`
    a `Smoothed` gives      `smoothed` (moments), `log_likelihood`, `sample_stats`
    a `Forecast` gives      `predictions`: draws where it has them, else its moments; the time
                            dimension is `time_forecast`
    state draws give        `posterior`; a tensor from `sample_posterior`
    ======================  =====================================================================

    Weights of neural layers are left out; keep them with the run's `model.safetensors`.

    Args:
        results: Any of the above; a group may come from one of them only.
        num_samples: Draws of states and replicated observations for a `Fit`.
        pointwise: What a `Fit`'s `log_likelihood` holds. `"one_step"`, `log p(y_t | y_{1:t-1})`,
            adds up to the log-likelihood and is what leave-future-out scores;
            `"leave_one_out"`, `log p(y_t | y_{-t})`, is what `arviz.loo` and `arviz.compare` are
            about. They are different numbers, so a tree holds one kind, named in the attribute
            `pointwise`.
        generator: Source of randomness.

    Returns:
        The tree; `.to_netcdf(path, engine="h5netcdf")` keeps it.

    Raises:
        ValueError: two results give the same group, or `"leave_one_out"` is asked of a model
            that is not linear-Gaussian.
    """
    import xarray as xr

    groups: Groups = {}
    for result in results:
        found = _groups(result, num_samples, pointwise, generator)
        for name in sorted(found.keys() & groups.keys()):
            raise ValueError(
                f"Two of the `results` give the group {name}: a tree holds one of each. Pass the "
                "one to keep, or build two trees."
            )
        groups |= found
    tree = xr.DataTree.from_dict(groups)
    tree.attrs.update(_attributes())
    return tree


def data_tree(fit: Fit) -> xr.DataTree:
    """Lay out the data of a fit alone, in `observed_data` and `constant_data`.

    Args:
        fit: Whose data.
    """
    import xarray as xr

    tree = xr.DataTree.from_dict(_data_groups(fit.model, fit.series, fit.index, fit.names))
    tree.attrs.update(_attributes())
    return tree


def _groups(
    result: Result, num_samples: int, pointwise: Pointwise, generator: torch.Generator | None
) -> Groups:
    if isinstance(result, Fit):
        return _fit_groups(result, num_samples, pointwise, generator)
    if isinstance(result, Draws):
        return _draws_groups(result, pointwise)
    if isinstance(result, Filtered):
        return _filtered_groups(result)
    if isinstance(result, Smoothed):
        return _smoothed_groups(result)
    if isinstance(result, Forecast):
        return {"predictions": _predictions(result)}
    if isinstance(result, Tensor) and result.ndim > 2:
        return {"posterior": dataset({"z": (result[None], "state")}, lead=_DRAWS)}
    raise ValueError(
        "`results` must be fits, filtered, smoothed, forecasts or tensors of state draws "
        f"(num_samples, *batch, time, state), got {type(result).__name__}."
    )


def _fit_groups(
    fit: Fit, num_samples: int, pointwise: Pointwise, generator: torch.Generator | None
) -> Groups:
    model, series, index = fit.model, fit.series, fit.index
    states, names = model.state_names, fit.names
    smoothed = fit.smooth()
    groups = _smoothed_groups(smoothed)
    posterior = _parameters(model, max(num_samples, 1))
    if num_samples:
        with torch.no_grad():
            z = fit.sample_posterior(num_samples=num_samples, generator=generator)
            y = _replicate(model, z, series, generator)
        drawn = dataset({"z": (z[None], "state")}, index, states=states, lead=_DRAWS)
        posterior = drawn.merge(posterior)
        groups["posterior_predictive"] = dataset(
            {"y": (y[None], "obs")}, index, names=names, lead=_DRAWS
        )
    groups["posterior"] = posterior.assign_attrs(
        parameters="point estimate, the same in every draw: state draws leave out its error"
    )
    one_step = smoothed.log_likelihood
    value = one_step if pointwise == "one_step" else left_out(model, series)
    groups["log_likelihood"] = _pointwise(value[None, None], series, pointwise, index)
    groups["sample_stats"] = groups["sample_stats"].assign(
        objective=(("chain", "draw"), [[fit.learned.objective]])
    )
    return groups | _data_groups(model, series, index, names)


def _filtered_groups(result: Filtered) -> Groups:
    variables: Variables = {
        "z_mean": (result.mean, "state"),
        "z_cov": (result.cov, "cov"),
        "z_predicted_mean": (result.predicted_mean, "state"),
        "z_predicted_cov": (result.predicted_cov, "cov"),
    }
    return {
        "filtered": dataset(variables, result.index, states=result.names),
        **_likelihood_groups(result),
    }


def _smoothed_groups(result: Smoothed) -> Groups:
    variables: Variables = {
        "z_mean": (result.mean, "state"),
        "z_cov": (result.cov, "cov"),
        "z_cross_cov": (result.cross_cov, "cov"),
    }
    return {
        "smoothed": dataset(variables, result.index, states=result.names),
        **_likelihood_groups(result),
    }


def _likelihood_groups(result: Filtered | Smoothed) -> Groups:
    one_step = dataset({"y": (result.log_likelihood[None, None], "")}, result.index, lead=_DRAWS)
    ill = result.ill_conditioned.expand(result.mean.shape[:-2])[None, None, ..., None]
    stats = dataset({"ill_conditioned": (ill, "")}, lead=_DRAWS).isel(time=0, drop=True)
    return {
        "log_likelihood": one_step.assign_attrs(pointwise="one_step", meaning=_ONE_STEP),
        "sample_stats": stats,
    }


def _predictions(forecast: Forecast) -> xr.Dataset:
    time = "time_forecast"
    variables: Variables = {}
    lead: tuple[str, ...] = ()
    states = None if forecast.state_mean is None else forecast.state_mean.shape[-1]
    if forecast.samples is None:
        variables = {"y_mean": (forecast.mean, "obs"), "y_cov": (forecast.cov, "obs_cov")}
        if forecast.state_mean is not None and forecast.state_cov is not None:
            variables["z_mean"] = (forecast.state_mean, "state")
            variables["z_cov"] = (forecast.state_cov, "cov")
    else:
        lead = _DRAWS
        variables["y"] = (forecast.samples[None], "obs")
        if forecast.state_samples is not None:
            variables["z"] = (forecast.state_samples[None], "state")
    names = None if states is None else tuple(f"z{i}" for i in range(states))
    return dataset(
        variables, forecast.index, names=forecast.names, states=names, lead=lead, time=time
    )


def _draws_groups(draws: Draws, pointwise: Pointwise) -> Groups:
    density = _pointwise(draws.pointwise(pointwise), draws.series, pointwise, None)
    groups = {"posterior": draws.dataset(), "log_likelihood": density}
    return groups | _data_groups(draws.model, draws.series, None, None)


def _data_groups(
    model: StateSpaceModel,
    series: Series,
    index: pd.Index | None,
    names: tuple[str, ...] | None,
) -> Groups:
    groups = {"observed_data": dataset({"y": (series.y, "obs")}, index, names=names)}
    known = _constant(series._replace(u=own_inputs(model, series.u)))
    if known:
        groups["constant_data"] = dataset(known, index)
    return groups


def _pointwise(
    value: Tensor, series: Series, pointwise: Pointwise, index: pd.Index | None
) -> xr.Dataset:
    found = dataset({"y": (value, "")}, index, lead=_DRAWS)
    if pointwise == "one_step":
        return found.assign_attrs(pointwise=pointwise, meaning=_ONE_STEP)
    # A step without data has density 1 in every draw, whose tail ArviZ cannot fit.
    empty = series.y.isnan().movedim(-2, 0).flatten(1).all(-1)
    found = found.isel(time=(~empty).cpu().numpy())
    return found.assign_attrs(pointwise=pointwise, meaning=_LEAVE_ONE_OUT)


def _replicate(
    model: StateSpaceModel, z: Tensor, series: Series, generator: torch.Generator | None
) -> Tensor:
    from ..inference.simulation.simulate import draw

    return draw(model.emission(z, series.u), (), generator)


def _constant(series: Series) -> Variables:
    known: Variables = {}
    if series.u is not None:
        known["u"] = (series.u, "input")
    if series.dt is not None:
        known["dt"] = (series.dt.expand(series.y.shape[:-1]), "")
    return known


def _parameters(model: StateSpaceModel, draws: int) -> xr.Dataset:
    """Constrained values of all parameters that are not weights of a neural layer."""
    import numpy as np
    import xarray as xr

    variables: dict[str, Any] = {}
    for path, module in model.named_modules():
        if type(module).__module__.startswith("torch.nn"):
            continue
        for name, _ in module.named_parameters(recurse=False):
            plain = name.removesuffix("_unconstrained")
            label = f"{path}.{plain}" if path else plain
            value = attrgetter(plain)(module).detach().cpu().numpy()
            dims = ("chain", "draw", *(f"{label}_dim_{i}" for i in range(value.ndim)))
            shape = (1, draws, *value.shape)
            variables[label] = (dims, np.broadcast_to(value, shape).copy())
    return xr.Dataset(variables)


def _attributes() -> dict[str, str]:
    from .._version import __version__

    return {
        "created_at": datetime.now(UTC).isoformat(),
        "inference_library": "deepssm",
        "inference_library_version": __version__,
    }
