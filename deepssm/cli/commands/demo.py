"""`deepssm demo`: the main job on an embedded sensor record, up to scored forecasts."""

from __future__ import annotations

import argparse
import shlex

from ...data import co2
from ..exit_codes import Outcome
from ..model_specs import ModelSpec
from ..output import quoted
from ..run_folder import RunFolder, new_run
from ..table import Table
from .fit import data_settings, learn_all, machine, said, write_run

HOLDOUT = 104
WEEK = 7 * 86400.0
YEAR = 365.25 / 7


def run(args: argparse.Namespace) -> Outcome:
    """Fit, smooth, forecast and score the Mauna Loa record with both kinds of model."""
    series = co2()
    table = Table(series.to_frame(), None, None, "7 days", WEEK, WEEK, [])
    with new_run(args.out, overwrite=True) as (folder, log):
        gaps = int(series.isna().sum())
        log.say(f"Mauna Loa CO2: {len(series)} weekly observations, {gaps} missing.")
        log.say(f"The last {HOLDOUT} weeks are held out: no model learns from them.")
        fits = learn_all(specs(), table, len(series) - HOLDOUT, log, args.seed)
        settings = {
            "seed": args.seed,
            "holdout": HOLDOUT,
            "command": shlex.join(
                ["deepssm", "demo", "--seed", str(args.seed), "--out", str(args.out)]
            ),
            "data": {
                **data_settings(table, "deepssm.data.co2()", "Carbon dioxide over Mauna Loa"),
                "time": "date",
            },
        }
        study = write_run(folder, log, fits, settings)
        log.say(f"Done in {log.seconds:.0f} s.")
    out = RunFolder(args.out)
    return Outcome(
        said(study),
        machine(study),
        out.report_file,
        f"deepssm forecast {quoted(args.out)} --horizon 52",
    )


def specs() -> dict[str, ModelSpec]:
    """Return the settings of both models, the exact linear one first."""
    return {
        # Harmonics and autoregression are those of the lowest AIC on the rows learnt from.
        "structural": ModelSpec("structural", ("co2",), period=YEAR, harmonics=4, ar=1),
        "deep-kalman": ModelSpec(
            "deep-kalman", ("co2",), period=YEAR, harmonics=3, state_dim=3, hidden=16, steps=300
        ),
    }
