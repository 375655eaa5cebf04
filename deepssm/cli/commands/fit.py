"""`deepssm fit`: learn a model from a CSV table and write a run folder."""

from __future__ import annotations

import argparse
import shlex
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...api.fit import Fit
from ...core.results import Forecast
from ...report.html import Page, write
from ..exit_codes import DataError, Outcome, StoppedError
from ..failures import surviving
from ..fit_model import first_rows, learn, with_table
from ..holdout import Study, evaluate
from ..model_specs import ModelSpec, complete, usual_period
from ..netcdf import write_results
from ..output import quoted
from ..reading import reading_of
from ..report_page import page_of, text_table
from ..resume import begin_training, end_training, removed_without_checkpoint
from ..run_folder import Log, RunFolder, finite, new_run, require_new
from ..saved_runs import write_fits
from ..sizes import require_room
from ..table import Table, check_observations, read_table
from ..table_files import STANDARD_INPUT

# Their values may begin with a dash, as -999 does.
_DASHED = ("--missing", "--thousands", "--sep")


def run(args: argparse.Namespace) -> Outcome:
    """Learn a model from a table and write a run folder."""
    require_new(args.out, overwrite=args.overwrite)
    asked = ModelSpec(
        args.model,
        (),
        tuple(args.u),
        period=args.period[0] if args.period else 0.0,
        period2=args.period[1] if args.period and len(args.period) > 1 else 0.0,
        harmonics=args.harmonics or 0,
        ar=args.ar or 0,
        state_dim=args.state_dim or 0,
        hidden=args.hidden or 0,
        steps=args.steps or 0,
    )
    table = read_table(
        args.data,
        time=args.time,
        y=args.y,
        u=args.u,
        resample=args.resample,
        uneven=asked.uneven,
        reading=reading_of(vars(args)),
    )
    spec = complete(replace(asked, y=tuple(table.y.columns)), step=table.step)
    learnt_from = len(table.y) - args.holdout
    if learnt_from < 2:
        raise DataError(
            f"--holdout {args.holdout} leaves nothing of {len(table.y)} rows to learn."
        )
    check_observations(table.y.iloc[:learnt_from], args.data, spec.min_rows)
    require_room(spec, len(table.y))
    with new_run(args.out, overwrite=args.overwrite) as (folder, log):
        for note in table.notes:
            log.say(note)
        training = args.out.with_name(f"{args.out.name}.training") if spec.deep else None
        specs = _specs(spec, table)
        fits = learn_all(specs, table, learnt_from, log, args.seed, training, args.resume)
        study = write_run(folder, log, fits, _settings(args, spec, table))
    if training is not None:
        end_training(training)
    out = RunFolder(args.out)
    next_command = f"deepssm forecast {quoted(args.out)} --horizon 24"
    return Outcome(said(study), machine(study), out.report_file, next_command)


def _settings(args: argparse.Namespace, spec: ModelSpec, table: Table) -> dict[str, Any]:
    """Return what `config.toml` says about the run."""
    return {
        "seed": args.seed,
        "holdout": args.holdout,
        "command": _command(args, spec),
        "data": {
            **data_settings(table, *_called(args.data)),
            "time": args.time,
            "resample": args.resample,
            "sha256": table.sha256,
            "reading": reading_of(vars(args)).to_config(),
        },
    }


def _called(path: Path) -> tuple[str, str]:
    """Return the name of a table and the title of its report."""
    name = "standard input" if path == STANDARD_INPUT else path.name
    return name, name.removesuffix(".gz").rpartition(".")[0] or name


def _specs(spec: ModelSpec, table: Table) -> dict[str, ModelSpec]:
    """Return the model asked for and, beside a deep one of one column, a linear one."""
    specs = {spec.kind: spec}
    if spec.deep and len(spec.y) == 1 and not spec.u:
        period = spec.period or usual_period(table.step)
        kind = "structural" if 2 < period <= len(table.y) / 3 else "local-linear-trend"
        linear = ModelSpec(kind, spec.y, period=period if kind == "structural" else 0.0)
        specs[kind] = complete(linear, step=table.step)
    return specs


def learn_all(
    specs: dict[str, ModelSpec],
    table: Table,
    learnt_from: int,
    log: Log,
    seed: int,
    training: Path | None = None,
    resume: bool = False,
) -> dict[str, tuple[ModelSpec, Fit]]:
    """Learn each model from the first rows; the fits returned hold all rows.

    Args:
        specs: Settings by name.
        table: All rows.
        learnt_from: Number of rows to learn from.
        log: Where to say what is going on.
        seed: Of all randomness.
        training: Where a deep model's training leaves checkpoints.
        resume: Whether it goes on from the one that is there.

    Raises:
        StoppedError: the user stopped the training, which can be resumed.
        DataError: it is to be resumed with other data.
    """
    fits = {}
    past = first_rows(table, learnt_from)
    if training is not None:
        begin_training(training, past, resume=resume)
    with removed_without_checkpoint(training):
        for name, spec in specs.items():
            log.say(f"Learning {name}: {spec.words}, from {learnt_from} rows.")
            folder = training if spec.deep else None
            failures: list[str] = []
            # Once the model asked for is learnt, what stands beside it must not cost it.
            with surviving(f"The model {name}", failures) if fits else nullcontext():
                fit = learn(spec, past, seed=seed, folder=folder, resume=resume)
                if any("interrupted" in note for note in fit.learned.warnings):
                    raise StoppedError(
                        f"stopped; {training} is kept. Same command with --resume goes on."
                    )
                log.say(f"Learnt {name}: objective {fit.learned.objective:.3f} nats.")
                fits[name] = (spec, with_table(spec, fit, table))
            for line in failures:
                log.say(line)
    return fits


def data_settings(table: Table, source: str, title: str) -> dict[str, Any]:
    """Return what `config.toml` says about the data."""
    return {
        "source": source,
        "title": title,
        "rows": len(table.y),
        "missing": int(table.y.isna().to_numpy().sum()),
        "step": table.step,
        "usual": table.usual,
        "unit": table.unit,
    }


def write_run(
    folder: RunFolder, log: Log, fits: dict[str, tuple[ModelSpec, Fit]], settings: dict[str, Any]
) -> Study:
    """Write the fits, score them, and write all files of a run but the log.

    What was learnt is written first; whatever fails later becomes a warning.

    Args:
        folder: Under its temporary name.
        log: Where to say what is going on.
        fits: Specification and fit by name, the main one first.
        settings: `seed`, `holdout`, `command` and `data`.
    """
    main = next(iter(fits.values()))[1]
    config = {
        **settings,
        "seconds": round(log.seconds, 2),
        "device": str(main.model.device),
        "versions": _versions(),
    }
    write_fits(folder, config, fits)
    log.say("Forecasting with every method and scoring.")
    study = study_of(fits, settings)
    notes = write_results(folder, main, _forecasts(study))
    study = study._replace(failures=(*study.failures, *notes))
    config = {**config, "seconds": round(log.seconds, 2), "scores": finite(study.scores())}
    write_fits(folder, config, fits)
    log.say("Drawing the report.")
    study = _draw(study, config, folder)
    for line in study.failures:
        log.say(line)
    return study


def _draw(study: Study, config: dict[str, Any], folder: RunFolder) -> Study:
    """Write the report, or a page that says why there is none."""
    failures = list(study.failures)
    page = None
    with surviving("The report", failures):
        page = page_of(study, config)
    if page is None:
        page = Page("Report", "The model was learnt and kept.", [], None, failures, [])
    write(page, folder.report_file)
    return study._replace(failures=tuple(failures))


def study_of(fits: dict[str, tuple[ModelSpec, Fit]], config: dict[str, Any]) -> Study:
    """Forecast and score with every method, as `config` says."""
    return evaluate(
        fits, holdout=config["holdout"], seed=config["seed"], step=config["data"]["step"]
    )


def said(study: Study) -> str:
    """Return the table and the warnings as text."""
    return "\n".join([text_table(study), *(f"Note: {line}" for line in study.warnings())])


def machine(study: Study) -> dict[str, Any]:
    """Return scores and warnings for `--json`."""
    return {"scores": finite(study.scores()), "warnings": study.warnings()}


def _forecasts(study: Study) -> dict[str, Forecast]:
    """Return the last forecast of every method, which the report shows."""
    found = {}
    for name, result in study.backtests.items():
        origin, horizon = int(result.origins[-1]), result.y.shape[-2]
        index = study.main[1].index
        ahead = None if index is None else index[origin : origin + horizon]
        last = Forecast(result.forecast.mean[-1], result.forecast.cov[-1])
        found[name] = last.labelled(ahead, study.main[1].names)
    return found


def _versions() -> dict[str, str]:
    import importlib.metadata
    import platform

    names = ("torch", "pyro-ppl", "numpy", "arviz")
    return {
        "deepssm": _own_version(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in names},
    }


def _own_version() -> str:
    from ..._version import __version__

    return __version__


def _command(args: argparse.Namespace, spec: ModelSpec) -> str:
    """Return the command that does this again."""
    words = ["deepssm", "fit", str(args.data), "--y", ",".join(spec.y), "--model", spec.kind]
    options = {
        "--time": args.time,
        "--u": ",".join(args.u) or None,
        "--period": ",".join(f"{p:.10g}" for p in (spec.period, spec.period2) if p) or None,
        "--harmonics": spec.harmonics or None,
        "--ar": spec.ar or None,
        "--state-dim": spec.state_dim or None,
        "--hidden": spec.hidden or None,
        "--steps": spec.steps or None,
        "--holdout": args.holdout or None,
        "--resample": args.resample,
        "--id": args.series,
        "--sep": args.sep,
        "--decimal": args.decimal,
        "--thousands": args.thousands,
        "--missing": ",".join(args.missing) or None,
        "--fill-inputs": args.fill,
        "--seed": args.seed,
        "--out": args.out,
    }
    for option, value in options.items():
        words += [] if value is None else [f"{option}={value}" if option in _DASHED else option]
        words += [] if value is None or option in _DASHED else [str(value)]
    words += ["--percent"] if args.percent else []
    return shlex.join(words)
