"""Maximum likelihood of many series with their own parameters, and what to say about it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ...core.methods import Learned
from .criteria import criteria_each
from .objective import Objective
from .objective_batch import (
    Climbed,
    SeriesObjective,
    bounds_each,
    climb_each,
    errors_each,
    information_each,
    inside_each,
    names_each,
    outer_products_each,
    polish_each,
)

# How often the search is begun anew after a look further inside the bounds.
_RELEASES = 5

Errors = Literal["hessian", "opg", "robust"]
Record = dict[str, float]


def fit_each(
    objective: Objective, limit: int, tolerance: float, errors: Errors, progress: bool
) -> Learned:
    """Learn every series of a batch by itself, all in one batch.

    Args:
        objective: One for which `separable` is true.
        limit: Of evaluations of the batch.
        tolerance: A series stops at this largest entry of its gradient per observed value.
        errors: Where standard errors come from.
        progress: Show a progress bar.
    """
    each = SeriesObjective(objective)
    now, history = _climb(each, limit, tolerance, progress)
    now, curvature = polish_each(each, now)
    stuck = bounds_each(each, now)
    outer = None if errors == "hessian" else outer_products_each(each, now.x)
    used = curvature
    if errors != "hessian":
        found = outer if errors == "opg" else information_each(each, now.x)
        used = curvature if found is None else found
    deviations = errors_each(each, now.x, used, stuck, outer if errors == "robust" else None)
    each.assign(now.x)
    norm = now.slope.abs().amax(-1)
    lost = ~stuck & torch.cat([d.reshape(each.size, -1) for d in deviations.values()], -1).isnan()
    warnings = _warnings(each, norm, stuck, lost.any(-1))
    diagnostics = _diagnostics(each, now, norm, len(history))
    value = diagnostics["log_likelihood"]
    return Learned(objective.inference, value, history, deviations, diagnostics, warnings)


def _climb(
    each: SeriesObjective, limit: int, tolerance: float, progress: bool
) -> tuple[Climbed, list[Record]]:
    from tqdm import tqdm

    history: list[Record] = []
    with tqdm(desc="maximum likelihood", unit="step", disable=not progress) as bar:

        def record(value: float) -> None:
            history.append({"step": float(len(history)), "objective": value})
            bar.update()
            bar.set_postfix(log_likelihood=f"{value:.4f}")

        now = climb_each(each, limit, tolerance, record)
        for _ in range(_RELEASES):
            start = inside_each(each, now) if len(history) < limit else None
            if start is None:
                break
            now = climb_each(each, limit - len(history), tolerance, record, start)
        return now, history


def _diagnostics(
    each: SeriesObjective, now: Climbed, norm: Tensor, iterations: int
) -> dict[str, float]:
    total = -float((now.value * each.counts).sum())
    size, count = now.x.numel(), each.objective.count
    model, series = each.objective.model, each.objective.series
    return {
        "log_likelihood": total,
        **criteria_each(model, series, total, now.x.shape[-1]),
        "num_parameters": float(size),
        "num_observations": float(count),
        "gradient_norm": float(norm.max()),
        "iterations": float(iterations),
        "evaluations": float(each.objective.evaluations),
    }


def _warnings(each: SeriesObjective, norm: Tensor, stuck: Tensor, lost: Tensor) -> list[str]:
    names, sentences, size = names_each(each), [], len(norm)
    if slow := int((norm >= each.objective.flatness()).sum()):
        sentences.append(
            f"Not converged in {slow} of {size} series: the largest gradient per observation is "
            f"still {float(norm.max()):.1e}. Raise `max_iterations`, or simplify the model."
        )
    for name in dict.fromkeys(names):
        columns = [i for i, other in enumerate(names) if other == name]
        if count := int(stuck[:, columns].any(-1).sum()):
            sentences.append(
                f"`{name}` sits at a bound in {count} of {size} series: their data fit as well "
                "there, so it has no standard error in them."
            )
    if count := int(lost.sum()):
        sentences.append(
            f"No standard errors in {count} of {size} series: the Hessian is not positive "
            "definite, so their data do not identify all parameters."
        )
    return sentences
