"""`deepssm smooth`: the states given all observations; gaps are filled, with bands."""

from __future__ import annotations

import argparse

from ..exit_codes import Outcome
from ..observation_moments import from_moments
from ..output import check_output
from ..saved_runs import open_run
from ..state_tables import fit_with_data, outcome, table_of


def run(args: argparse.Namespace) -> Outcome:
    """Smooth the run's observations, or those of a new table, into a CSV table."""
    check_output(args, [args.data])
    chosen = open_run(args.folder, args.which)
    fit = fit_with_data(chosen, args.data)
    smoothed = fit.smooth()
    observations = from_moments(
        fit.model, smoothed.mean, smoothed.cov, fit.series, diffuse=smoothed.diffuse
    )
    frame = table_of(smoothed.to_frame(), observations, chosen.spec.y)
    return outcome(chosen, fit, frame, args.out, "Smoothed")
