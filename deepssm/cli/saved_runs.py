"""A fit to a run folder and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..api.fit import Fit
from ..core.methods import InferenceMethod, Learned, remember_trained
from ..io import checkpoint
from .exit_codes import DataError, did_you_mean
from .model_specs import ModelSpec, build, build_guide, guide_of, method, spec_from_config
from .netcdf import read_data, series_of
from .run_folder import RunFolder
from .sizes import require_fit_to_rows, require_room, require_weights


class Run(NamedTuple):
    """One model of a run folder, ready to work with.

    Attributes:
        folder: Its files.
        config: What was run.
        name: Name of the model in the run.
        spec: How it was built.
        fit: The learnt model with the run's data.
    """

    folder: RunFolder
    config: dict[str, Any]
    name: str
    spec: ModelSpec
    fit: Fit


def load(path: str | Path, which: str | None = None) -> Fit:
    """Return a fit that a run folder holds, ready to filter, smooth and forecast.

    Args:
        path: A folder that `deepssm fit` or `deepssm demo` wrote.
        which: Name of the model, where the folder holds several; the first if `None`.

    Raises:
        ValueError: there is no such folder or model, or a file is damaged.
    """
    try:
        return open_run(path, which).fit
    except DataError as error:
        raise ValueError(str(error)) from None


def open_run(path: str | Path, which: str | None = None) -> Run:
    """Rebuild a model of a run folder from `config.toml`, `model.safetensors` and `results.nc`.

    Args:
        path: The run folder.
        which: Name of the model; the first if `None`.

    Raises:
        DataError: there is no such folder or model, or a file is damaged.
    """
    folder = RunFolder(Path(path))
    if not folder.path.is_dir():
        raise DataError(f"there is no run folder '{path}'. Make one: deepssm fit DATA.csv")
    config = folder.read_config()
    models = config["models"]
    name = which or next(iter(models))
    if name not in models:
        shown = ", ".join(list(models)[:20])
        raise DataError(
            f"{path} holds no model '{name}'.{did_you_mean(name, list(models))} It holds: {shown}"
        )
    spec = spec_from_config(models[name])
    stored = read_data(folder, spec, config["data"].get("time"))
    require_fit_to_rows(spec, len(stored.y))
    require_room(spec, len(stored.y))
    saved = checkpoint.load(folder.weights_file)
    require_weights(spec, folder.weights_file)
    model, guide = build(spec), build_guide(spec)
    modules = {"model": model} if guide is None else {"model": model, "guide": guide}
    saved.restore(**{f"{name}.{part}": module for part, module in modules.items()})
    series, labels = series_of(model, spec, stored)
    learned = _learned(folder, config, name, method(model, guide))
    remember_trained(model, learned.method)
    return Run(folder, config, name, spec, Fit(model, learned, series).labelled(labels))


def write_fits(
    folder: RunFolder, config: Mapping[str, Any], fits: Mapping[str, tuple[ModelSpec, Fit]]
) -> None:
    """Write configuration, weights and the course of learning of one or several models.

    Args:
        folder: A run folder, usually under its temporary name.
        config: What was run.
        fits: Specification and fit of each model by name, the main one first.
    """
    modules, models, learning, records = {}, {}, {}, []
    for name, (spec, fit) in fits.items():
        modules[f"{name}.model"] = fit.model
        guide = guide_of(fit.learned)
        if guide is not None:
            modules[f"{name}.guide"] = guide
        models[name] = spec.to_config()
        learning[name] = {
            "objective": fit.learned.objective,
            "diagnostics": fit.learned.diagnostics,
            "warnings": fit.learned.warnings,
        }
        records += [{"model": name, **record} for record in fit.learned.history]
    folder.write_config({**config, "models": models, "learning": learning})
    folder.write_weights({"models": models}, **modules)
    folder.write_metrics(records)


def _learned(
    folder: RunFolder, config: dict[str, Any], name: str, method: InferenceMethod
) -> Learned:
    entry = config.get("learning", {}).get(name, {})
    history = [
        {key: _number(value) for key, value in record.items() if key != "model"}
        for record in folder.read_metrics()
        if record.get("model") == name
    ]
    return Learned(
        method=method,
        objective=_number(entry.get("objective")),
        history=history,
        standard_errors={},
        diagnostics={key: _number(x) for key, x in entry.get("diagnostics", {}).items()},
        warnings=list(entry.get("warnings", [])),
    )


def _number(value: float | None) -> float:
    """Return a number; files have `null` where it was not finite."""
    return float("nan") if value is None else float(value)
