"""`deepssm filter`: the states given the observations so far."""

from __future__ import annotations

import argparse

from ..exit_codes import Outcome
from ..observation_moments import from_moments
from ..output import check_output
from ..saved_runs import open_run
from ..state_tables import fit_with_data, outcome, table_of


def run(args: argparse.Namespace) -> Outcome:
    """Filter the run's observations, or those of a new table, into a CSV table."""
    check_output(args, [args.data])
    chosen = open_run(args.folder, args.which)
    fit = fit_with_data(chosen, args.data)
    filtered = fit.filter()
    observations = from_moments(
        fit.model, filtered.mean, filtered.cov, fit.series, diffuse=filtered.diffuse
    )
    frame = table_of(filtered.to_frame(), observations, chosen.spec.y)
    frame["log_likelihood"] = filtered.log_likelihood.cpu().numpy()
    return outcome(chosen, fit, frame, args.out, "Filtered")
