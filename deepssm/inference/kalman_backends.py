"""Which engine runs a Kalman filter, and its results as the library's own."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ..base import LinearParameters
from ..results import Filtered, Smoothed
from .kalman_adjoint import Engine, Run, differentiable
from .kalman_columns import lay_out, restore
from .kalman_flag import DOUBTFUL, Answer, differ, nudged
from .kalman_scan import lost_digits, scan_filter
from .kalman_scan_smoother import moments, scan_adjoint, scan_smoother
from .kalman_stationary import stationary_filter
from .kalman_stationary_smoother import stationary_adjoint, stationary_smoother

Backend = Literal["auto", "sequential", "stationary", "scan", "autograd"]

# Posterior deviations; states in coordinates so skew that products of `A` cancel go to the loop.
_LOST = 1e-8

SCAN = Engine(scan_filter, scan_smoother, scan_adjoint)
STATIONARY = Engine(stationary_filter, stationary_smoother, stationary_adjoint)


def start(backend: Backend, parameters: LinearParameters, y: Tensor) -> Run | None:
    """Run the filter on the device of the data; `None` leaves the work to the compiled loop.

    Args:
        backend: See `Kalman`.
        parameters: The model.
        y: `(*batch, time, obs)`.

    Raises:
        ValueError: The backend is `"stationary"` and a matrix of the model varies in time.
    """
    cuda = y.device.type == "cuda"
    if not engines(backend, cuda=cuda, varying=False):
        return None
    if y.shape[-2] == 0 or y.numel() == 0:
        return None
    columns = lay_out(parameters, y)
    once = columns.settled()
    if backend == "stationary" and once.varying:
        raise ValueError(
            '`backend="stationary"` needs a model whose `A, C, Q, R` are the same at all times, '
            'and steps `dt` that are equal; some matrix varies. Use `backend="scan"`, or "auto".'
        )
    if parameters.initial.diffuse is not None:
        return None
    for engine in engines(backend, cuda=cuda, varying=once.varying):
        laid_out = once if engine is STATIONARY else columns
        forward = engine.filter(laid_out)
        if forward is not None and lost_digits(laid_out, forward) < _LOST:
            return Run(engine, laid_out, forward)
    return None


def engines(backend: Backend, *, cuda: bool, varying: bool) -> list[Engine]:
    """Return what to try, best first; after them comes the compiled loop.

    Args:
        backend: See `Kalman`.
        cuda: Whether the data are on a CUDA device.
        varying: Whether a matrix of the model varies in time.
    """
    if backend in ("sequential", "autograd") or backend == "auto" and not cuda:
        return []
    if backend == "scan" or varying:
        return [SCAN]
    return [STATIONARY, SCAN] if cuda else [STATIONARY]


def filtered(run: Run, parameters: LinearParameters, y: Tensor) -> Filtered:
    """Return the filter's results with the axes, dtype and device of the data."""
    answer = _answer(run)
    return Filtered(
        *(restore(x, y) for x in answer), ill_conditioned=_flag(run, answer, parameters, y)
    )


def smoothed(run: Run, parameters: LinearParameters, y: Tensor) -> Smoothed:
    """Run the smoother and return its results."""
    columns = run.columns
    mean, cov, cross = run.engine.smooth(columns, run.forward)
    return Smoothed(
        mean=restore(columns.series(mean), y),
        cov=restore(columns.matrices(cov), y),
        cross_cov=restore(columns.matrices(cross), y),
        log_likelihood=restore(_log_likelihood(run), y),
        ill_conditioned=_flag(run, _answer(run), parameters, y),
    )


def smoothed_mean(run: Run, y: Tensor) -> Tensor:
    """Run the smoother for its means alone."""
    return restore(run.columns.series(run.engine.smooth(run.columns, run.forward).mean), y)


def log_likelihood(run: Run, parameters: LinearParameters, y: Tensor) -> Tensor:
    """Return the log-likelihood of each step, `(*batch, time)`, differentiable once."""
    return differentiable(run, parameters, y)


def _answer(run: Run) -> Answer:
    columns, forward = run.columns, run.forward
    cov, predicted_cov = (columns.matrices(x) for x in moments(forward))
    mean, predicted_mean = columns.series(forward.m), columns.series(forward.a)
    return Answer(mean, cov, predicted_mean, predicted_cov, _log_likelihood(run))


def _log_likelihood(run: Run) -> Tensor:
    return run.columns.series(run.forward.log_likelihood[..., None, :])[..., 0]


def _flag(run: Run, answer: Answer, parameters: LinearParameters, y: Tensor) -> Tensor:
    """Mark results that are not finite, or that the last digit of the inputs decides."""
    worst = run.forward.gains.worst
    bad = ~answer.log_likelihood.isfinite().all(-1)
    doubtful = _per_series(worst < DOUBTFUL, run)
    if bool(doubtful.any()):
        columns = lay_out(*nudged(parameters, y))
        columns = columns if run.forward.plan is None else columns.settled()
        forward = run.engine.filter(columns)
        if forward is None:
            return bad | doubtful
        other = _answer(Run(run.engine, columns, forward))
        bad = bad | doubtful & differ(answer, other)
    return bad


def _per_series(x: Tensor, run: Run) -> Tensor:
    batch = run.columns.batch
    return x.any(0).expand(batch.numel()).reshape(batch)
