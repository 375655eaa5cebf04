"""`deepssm report`: write the report page of a run again."""

from __future__ import annotations

import argparse

from ...report.html import render
from ..exit_codes import Outcome
from ..output import STANDARD_OUTPUT, check_output, quoted, write_output
from ..report_page import page_of
from ..saved_runs import open_run
from .fit import machine, said, study_of


def run(args: argparse.Namespace) -> Outcome:
    """Forecast and score again with the models of a run, and write the page."""
    check_output(args, own="report.html")
    first = open_run(args.folder)
    runs = [open_run(args.folder, name) for name in first.config["models"]]
    study = study_of({run.name: (run.spec, run.fit) for run in runs}, first.config)
    path = args.out or first.folder.report_file
    write_output(render(page_of(study, first.config, args.frames)), path)
    next_command = f"deepssm forecast {quoted(args.folder)} --horizon 24"
    return Outcome(said(study), machine(study), path, next_command, path == STANDARD_OUTPUT)
