"""`deepssm filter`: the states given the readings so far."""

from __future__ import annotations

import argparse

from ..exit_codes import Outcome
from ..observations import from_moments
from ..saved_runs import open_run
from ..state_tables import fit_with_data, outcome, table_of


def run(args: argparse.Namespace) -> Outcome:
    """Filter the run's readings, or those of a new table, into a CSV table."""
    chosen = open_run(args.folder, args.which)
    fit = fit_with_data(chosen, args.data)
    filtered = fit.filter()
    readings = from_moments(fit.model, filtered.mean, filtered.cov, fit.series)
    frame = table_of(filtered.to_frame(), readings, chosen.spec.y)
    frame["log_likelihood"] = filtered.log_likelihood.cpu().numpy()
    return outcome(chosen, fit, frame, args.out, "Filtered")
