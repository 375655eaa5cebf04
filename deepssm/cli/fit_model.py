"""Learning one model from one table."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from ..api.fit import Fit
from ..api.fitting import fit
from ..api.validation import as_labelled_series
from .model_specs import ModelSpec, build, build_guide, learner, season_inputs
from .table import Table


def learn(
    spec: ModelSpec,
    table: Table,
    *,
    seed: int,
    quiet: bool = False,
    folder: Path | None = None,
    resume: bool = False,
) -> Fit:
    """Build a model, learn it from a table and return the fit.

    The same seed gives the same fit on the same machine.

    Args:
        spec: What to build.
        table: The observations.
        seed: Of the starting weights and of learning.
        quiet: Whether to show no bar.
        folder: Where the training of a deep model leaves checkpoints.
        resume: Whether to go on from the one that is there.
    """
    # Networks draw their starting weights from the global generator.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, guide = build(spec), build_guide(spec)
    return fit(
        model,
        table.y,
        inputs(spec, table),
        dt=table.dt,
        method=learner(spec, guide, folder, resume=resume and folder is not None),
        progress=not quiet and sys.stderr.isatty(),
        generator=torch.Generator().manual_seed(seed),
    )


def with_table(spec: ModelSpec, fitted: Fit, table: Table, *, start: int = 0) -> Fit:
    """Return a fit's model with the observations of a table, without learning again."""
    u = inputs(spec, table, start=start)
    series, labels = as_labelled_series(fitted.model, table.y, u, dt=table.dt)
    return Fit(fitted.model, fitted.learned, series).labelled(labels)


def inputs(spec: ModelSpec, table: Table, *, start: int = 0) -> np.ndarray | None:
    """Return the input columns followed by the waves of a deep model's season, or `None`.

    Args:
        spec: The model's settings.
        table: The rows.
        start: Row number of its first row, counted from the run's first.
    """
    if not spec.input_dim:
        return None
    given = np.empty((len(table.y), 0)) if table.u is None else table.u.to_numpy()
    return future_inputs(spec, given, start=start)


def future_inputs(spec: ModelSpec, given: np.ndarray, *, start: int) -> np.ndarray:
    """Return the given inputs, `(time, input)`, followed by the waves of the season."""
    waves = season_inputs(spec, start, len(given))
    return np.concatenate([given, waves], axis=1) if spec.deep else given


def first_rows(table: Table, count: int) -> Table:
    """Return the table cut after `count` rows."""
    return table._replace(
        y=table.y.iloc[:count],
        u=None if table.u is None else table.u.iloc[:count],
        dt=None if table.dt is None else table.dt[:count],
    )
