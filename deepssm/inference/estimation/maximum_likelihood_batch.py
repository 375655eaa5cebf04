"""Maximum likelihood of many series with their own parameters, and what to say about it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ...core.methods import Learned
from .objective import Objective
from .objective_batch import (
    Climbed,
    SeriesObjective,
    bounds_each,
    climb_each,
    errors_each,
    names_each,
    outer_products_each,
    polish_each,
)

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
    used = outer if errors == "opg" and outer is not None else curvature
    deviations = errors_each(each, now.x, used, stuck, outer if errors == "robust" else None)
    each.assign(now.x)
    norm = now.slope.abs().amax(-1)
    lost = ~stuck & torch.cat([d.reshape(each.size, -1) for d in deviations.values()], -1).isnan()
    warnings = _warnings(names_each(each), norm, stuck, lost.any(-1))
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

        return climb_each(each, limit, tolerance, record), history


def _diagnostics(
    each: SeriesObjective, now: Climbed, norm: Tensor, iterations: int
) -> dict[str, float]:
    total = -float((now.value * each.counts).sum())
    size, count = now.x.numel(), each.objective.count
    penalty = float(each.counts.log().sum()) * now.x.shape[-1]
    return {
        "log_likelihood": total,
        "aic": 2 * size - 2 * total,
        "bic": penalty - 2 * total,
        "num_parameters": float(size),
        "num_observations": float(count),
        "gradient_norm": float(norm.max()),
        "iterations": float(iterations),
        "evaluations": float(each.objective.evaluations),
    }


def _warnings(names: list[str], norm: Tensor, stuck: Tensor, lost: Tensor) -> list[str]:
    sentences, size = [], len(norm)
    if slow := int((norm >= 1e-4).sum()):
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
