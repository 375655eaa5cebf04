"""`deepssm backtest`: score forecasts from many origins of a run's data."""

from __future__ import annotations

import argparse

import torch

from ...api.backtest import backtest
from ..exit_codes import DataError, Outcome
from ..failures import surviving
from ..holdout import naive_name, season, usable_baseline
from ..output import STANDARD_OUTPUT, check_output, quoted
from ..run_folder import finite
from ..saved_runs import open_run
from ..state_tables import write_table


def run(args: argparse.Namespace) -> Outcome:
    """Forecast from origin after origin, with the past alone, and score what came next."""
    check_output(args)
    chosen = open_run(args.folder, args.which)
    fit, spec = chosen.fit, chosen.spec
    rows = fit.series.time
    start = int(args.start * rows)
    if not 2 <= start <= rows - args.horizon:
        raise DataError(
            f"--start {args.start:g} and --horizon {args.horizon} do not fit into {rows} rows: "
            "start earlier or forecast less far."
        )
    where = {"start": start, "horizon": args.horizon, "stride": args.stride}
    y, u, dt = fit.series
    found = backtest(
        fit.model, y, u, dt=dt, refit=args.refit, **where,
        method=None if args.refit else fit.method,
        generator=torch.Generator(fit.model.device).manual_seed(args.seed),
    ).labelled(fit.index, fit.names)  # fmt: skip
    step = chosen.config.get("data", {}).get("step", "")
    period = season(spec, step, start)
    failures: list[str] = []
    scores = {chosen.name: found.scores().iloc[0]}
    with surviving("Scores of the naive forecast", failures):
        period, naive = usable_baseline(fit, period, where)
        scores[naive_name(period)] = naive.scores().iloc[0]
    write_table(found.scores(by="horizon"), args.out)
    lines = [f"{'method':20}{'CRPS':>12}{'90 % coverage':>16}{'90 % width':>14}"]
    for name, score in scores.items():
        cov = f"{100 * score['cov90']:.1f} %"
        lines.append(f"{name:20}{score['crps']:>12.4g}{cov:>16}{score['width90']:>14.4g}")
    lines.append(f"{len(found.origins)} origins, {args.horizon} steps ahead each.")
    lines += [f"Note: {line}" for line in failures]
    if not args.refit:
        lines.append(_flattery(int(chosen.config.get("holdout", 0)), rows, start))
    data = {"scores": {name: score.to_dict() for name, score in scores.items()}}
    text = "\n".join(line for line in lines if line)
    next_command = f"deepssm report {quoted(args.folder)}"
    return Outcome(text, finite(data), args.out, next_command, args.out == STANDARD_OUTPUT)


def _flattery(holdout: int, rows: int, start: int) -> str:
    if start >= rows - holdout:
        return ""
    return (
        "Note: the parameters were learnt also from rows that are scored here, which flatters "
        "them; pass --refit to learn again at each origin."
    )
