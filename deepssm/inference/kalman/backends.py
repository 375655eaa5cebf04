"""Which engine runs a Kalman filter, and its results as the library's own."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ...core.diffuse import Diffuse
from ...core.model import LinearParameters
from ...core.results import Filtered, Smoothed
from .conditioning import DOUBTFUL, Answer, differ, nudged
from .cpu.problem import spread_along
from .cuda import backend as kalman_cuda
from .parallel.adjoint import Engine, Run, differentiable
from .parallel.diffuse_columns import Known, Moments, add_slopes, gather
from .parallel.layout import Columns, lay_out, restore
from .parallel.scan import lost_digits, scan_filter
from .parallel.scan_smoother import moments, scan_adjoint, scan_smoother
from .parallel.stationary import stationary_filter
from .parallel.stationary_smoother import stationary_adjoint, stationary_smoother

Backend = Literal["auto", "sequential", "stationary", "scan", "cuda", "autograd"]

# Posterior deviations; states in coordinates so skew that products of `A` cancel go to the loop.
_LOST = 1e-8


class Threads:
    """Stands for one CUDA thread a series, where a `Run` stands for batched tensor code."""


THREADS = Threads()
SCAN = Engine(scan_filter, scan_smoother, scan_adjoint)
STATIONARY = Engine(stationary_filter, stationary_smoother, stationary_adjoint)


def start(backend: Backend, parameters: LinearParameters, y: Tensor) -> Run | Threads | None:
    """Run the filter on the device of the data; `None` leaves the work to the compiled loop.

    Args:
        backend: See `Kalman`.
        parameters: The model.
        y: `(*batch, time, obs)`.

    Raises:
        ValueError: The backend is `"stationary"` and a matrix of the model varies in time, or
            `"cuda"` and something it needs is missing.
    """
    cuda = y.device.type == "cuda"
    if backend == "cuda":
        kalman_cuda.require(parameters, y)
    elif not engines(backend, cuda=cuda, varying=False):
        return None
    if y.shape[-2] == 0 or y.numel() == 0:
        return None
    if backend == "cuda":
        return THREADS
    columns = lay_out(_regular(parameters), y)
    once = columns.constant()
    if backend == "stationary" and once.varying:
        raise ValueError(
            '`backend="stationary"` needs a model whose `A, C, Q, R` are the same at all times, '
            'and steps `dt` that are equal; some matrix varies. Use `backend="scan"`, or "auto".'
        )
    for engine in engines(backend, cuda=cuda, varying=once.varying):
        laid_out = once if engine is STATIONARY else columns
        run = _run(engine, laid_out, parameters)
        if run is not None and lost_digits(run.columns, run.forward) < _LOST:
            return run
    return None


def engines(backend: Backend, *, cuda: bool, varying: bool) -> list[Engine]:
    """Return what to try, best first; after them comes the compiled loop.

    Args:
        backend: See `Kalman`.
        cuda: Whether the data are on a CUDA device.
        varying: Whether a matrix of the model varies in time.
    """
    if backend in ("sequential", "autograd", "cuda") or backend == "auto" and not cuda:
        return []
    if backend == "scan" or varying:
        return [SCAN]
    return [STATIONARY, SCAN] if cuda else [STATIONARY]


def filtered(run: Run | Threads, parameters: LinearParameters, y: Tensor) -> Filtered:
    """Return the filter's results with the axes, dtype and device of the data."""
    if isinstance(run, Threads):
        return kalman_cuda.filtered(parameters, y)
    answer = _answer(run)
    found = Filtered(
        *(restore(x, y) for x in answer),
        ill_conditioned=_ill_conditioned(run, answer, parameters, y),
    )
    if run.known is not None:
        now, before = _mixed_moments(run, run.known)
        found.diffuse = _restore_diffuse(now.diffuse, run.columns, y)
        found.predicted_diffuse = _restore_diffuse(before.diffuse, run.columns, y)
    return found


def smoothed(run: Run | Threads, parameters: LinearParameters, y: Tensor) -> Smoothed:
    """Run the smoother and return its results."""
    if isinstance(run, Threads):
        return kalman_cuda.smoothed(parameters, y)
    columns, found = run.columns, run.engine.smooth(run.columns, run.forward)
    (mean, cov, cross), diffuse = found, None
    if run.known is not None:
        (mean, cov, diffuse), cross = run.known.smoothed(*found)
    answer = Smoothed(
        mean=restore(columns.series(mean), y),
        cov=restore(columns.matrices(cov), y),
        cross_cov=restore(columns.matrices(cross), y),
        log_likelihood=restore(_log_likelihood(run), y),
        ill_conditioned=_ill_conditioned(run, _answer(run), parameters, y),
    )
    answer.diffuse = _restore_diffuse(diffuse, columns, y)
    return answer


def smoothed_mean(run: Run | Threads, parameters: LinearParameters, y: Tensor) -> Tensor:
    """Run the smoother for its means alone."""
    if isinstance(run, Threads):
        return kalman_cuda.smoothed(parameters, y).mean
    mean = run.engine.smooth(run.columns, run.forward).mean
    if run.known is not None:
        mean = run.known.mix(mean)[..., : -run.known.U.shape[-1]]
    return restore(run.columns.series(mean), y)


def log_likelihood(run: Run | Threads, parameters: LinearParameters, y: Tensor) -> Tensor:
    """Return the log-likelihood of each step, `(*batch, time)`, differentiable once."""
    if isinstance(run, Threads):
        return kalman_cuda.log_likelihood(parameters, y)
    return differentiable(run, parameters, y)


def _regular(parameters: LinearParameters) -> LinearParameters:
    """Spread a diffuse start by a finite covariance too, which changes no answer."""
    initial = parameters.initial
    if initial.diffuse is None:
        return parameters
    spread = spread_along(initial.diffuse.detach().double().cpu(), parameters)
    return parameters._replace(initial=initial._replace(cov=initial.cov + spread.to(initial.cov)))


def _run(engine: Engine, columns: Columns, parameters: LinearParameters) -> Run | None:
    directions = parameters.initial.diffuse
    columns = columns if directions is None else add_slopes(columns, directions)
    forward = engine.filter(columns)
    if forward is None or directions is None:
        return None if forward is None else Run(engine, columns, forward)
    known = gather(columns, forward, directions.shape[-1])
    return None if known is None else Run(engine, columns, forward, known)


def _answer(run: Run) -> Answer:
    columns, forward, known = run.columns, run.forward, run.known
    if known is None:
        cov, before = moments(forward)
        now, past = Moments(forward.m, cov, None), Moments(forward.a, before, None)
    else:
        now, past = _mixed_moments(run, known)
    (mean, cov), (predicted, before) = (
        (columns.series(m), columns.matrices(P)) for m, P, _ in (now, past)
    )
    return Answer(mean, cov, predicted, before, _log_likelihood(run))


def _mixed_moments(run: Run, known: Known) -> tuple[Moments, Moments]:
    cov, before = moments(run.forward)
    return known.filtered(run.forward.m, cov), known.predicted(run.forward.a, before)


def _restore_diffuse(found: Diffuse | None, columns: Columns, y: Tensor) -> Diffuse | None:
    return found and Diffuse(*(restore(columns.matrices(x), y) for x in found))


def _log_likelihood(run: Run) -> Tensor:
    return run.columns.series(run.log_likelihood[..., None, :])[..., 0]


def _ill_conditioned(run: Run, answer: Answer, parameters: LinearParameters, y: Tensor) -> Tensor:
    """Mark results that are not finite, or that the last digit of the inputs decides."""
    worst = run.forward.gains.worst
    bad = ~answer.log_likelihood.isfinite().all(-1)
    if run.known is not None:
        bad = bad | _per_series(run.known.hardly_determined[None], run)
    doubtful = _per_series(worst < DOUBTFUL, run)
    if bool(doubtful.any()):
        moved, data = nudged(parameters, y)
        columns = lay_out(_regular(moved), data)
        columns = columns if run.forward.plan is None else columns.constant()
        other = _run(run.engine, columns, moved)
        bad = bad | (doubtful if other is None else doubtful & differ(answer, _answer(other)))
    return bad


def _per_series(x: Tensor, run: Run) -> Tensor:
    batch = run.columns.batch
    return x.any(0).expand(batch.numel()).reshape(batch)
