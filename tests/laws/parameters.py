"""The matrices of a linear problem, one series of it, and whether its data fix its start."""

from __future__ import annotations

from deepssm.core.model import GaussianInitial, LinearConditional, LinearParameters

from .problems import Problem


def parameters_of(problem: Problem) -> LinearParameters:
    """The matrices of one series' steps, detached."""
    initial, transition, emission = problem.model.linear_parameters(problem.u, problem.dt)  # type: ignore[operator]
    return LinearParameters(
        GaussianInitial(*(None if x is None else x.detach() for x in initial)),  # type: ignore[arg-type]
        LinearConditional(*(x.detach() for x in transition)),
        LinearConditional(*(x.detach() for x in emission)),
    )


def first(problem: Problem) -> Problem:
    """The first series of the batch."""
    while problem.y.ndim > 2:
        problem = problem.series((0,))
    return problem


def determined(problem: Problem) -> bool:
    """Whether the data fix every direction of a diffuse start (else its scale is arbitrary)."""
    return bool(problem.filter().cov[..., -1, :, :].isfinite().all())
