"""Learning by climbing the log-likelihood, or the log-posterior where there are priors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...core.arguments import checked
from ...core.methods import InferenceMethod, Learned
from ...core.model import Series, StateSpaceModel
from .criteria import criteria
from .delta_method import listed, readable_errors, unknown
from .information import information
from .maximum_likelihood_batch import Errors, fit_each
from .objective import Objective, Vector, free_count, replace_priors, require_reached
from .objective_batch import separable
from .release import inside
from .required import given, require_positive
from .standard_errors import Matrix, at_bounds, newton_polish, outer_products

# How often a search is begun anew after a failed line search, and after a look inside the bounds.
_RESTARTS, _RELEASES = 3, 5


@checked
@dataclass(frozen=True)
class MaximumLikelihood:
    r"""Maximise `log p(y)` over the free parameters with L-BFGS and a Newton polish.

    Parameters move in their unconstrained space. A `PyroSample` prior makes this the maximum of
    the posterior density of the constrained parameters (MAP): the prior is replaced by a
    `PyroParam` that holds the maximum. Frozen parameters stay; tied ones move together. Where
    every series of a batch has its own parameters (`series_shape`), each climbs at its own pace.

    Attributes:
        inference: A method with a differentiable log-likelihood. `deepssm.fit` takes the model's
            default method where it is `None`; called directly, `fit` needs one.
        max_iterations: Limit of L-BFGS iterations for each start.
        tolerance: Stop at this largest entry of the gradient per observation.
        starts: Number of starting points; all but the first are drawn around it.
        initialize: Let the model take starting values from the data.
        curvature_limit: Up to this many parameters, take standard errors from the curvature.
        errors: Where standard errors come from: the Hessian; the outer products `S` of the scores
            of single steps (`"opg"`); or `J^-1 S J^-1` (`"robust"`), right where means and
            variances of the steps are those of the model but not their form; `J` is the
            information in those means and variances where the method says them, else the Hessian.

    A search ends where the gradient does, and only after a look further inside at each parameter
    near a bound, where the slope vanishes though the likelihood may rise (`release.py`).

    Source: Bollerslev & Wooldridge (1992), Econometric Reviews 11, for robust errors;
        Durbin & Koopman (2012), chapter 7; Nocedal & Wright (2006), section 7.2.
    """

    inference: InferenceMethod | None = None
    max_iterations: int = 500
    tolerance: float = 1e-7
    starts: int = 1
    initialize: bool = True
    curvature_limit: int = 60
    errors: Errors = "hessian"

    def fit(
        self,
        model: StateSpaceModel,
        series: Series,
        *,
        progress: bool = True,
        generator: torch.Generator | None = None,
    ) -> Learned:
        """Move the model to the maximum; return errors, criteria and warnings.

        Raises:
            ValueError: `inference` is `None`, the log-likelihood cannot be differentiated, or it
                is not finite where learning starts.
        """
        require_positive(self, "max_iterations", "starts")
        inference = given(self.inference, "MaximumLikelihood")
        if self.initialize:
            model.initialize_from(series)
        objective = Objective(model, series, inference, replace_priors(model))
        if self.starts == 1 and separable(objective):
            return fit_each(objective, self.max_iterations, self.tolerance, self.errors, progress)
        history = self._climb(objective, progress, generator)
        at_limit = len(objective.best[0]) > self.curvature_limit
        stuck = [] if at_limit else at_bounds(objective)
        curvature = None if at_limit else newton_polish(objective, stuck)
        errors = {} if curvature is None else self._errors(objective, curvature, stuck)
        at, _ = objective.best
        _, slope = objective.gradient(at)
        norm = float(np.abs(slope).max(initial=0.0))
        diagnostics = _diagnostics(objective, norm, len(history))
        warnings = _warnings(objective, norm, stuck, self.max_iterations, len(history))
        if at_limit:
            warnings.append(
                f"No standard errors: {len(at)} parameters exceed `curvature_limit` = "
                f"{self.curvature_limit}."
            )
        elif names := unknown(objective, errors, stuck):
            warnings.append(
                f"No standard errors for {listed(names)}: the Hessian is not positive definite "
                "there, so the data do not identify them. Fix or drop some."
            )
        value = diagnostics["log_likelihood"] + diagnostics.get("log_prior", 0.0)
        return Learned(inference, value, history, errors, diagnostics, warnings)

    def _errors(
        self, objective: Objective, curvature: Matrix, stuck: list[tuple[str, int, str]]
    ) -> dict[str, Tensor]:
        if self.errors == "hessian":
            return readable_errors(objective, curvature, stuck)
        scores = outer_products(objective, objective.best[0])
        if self.errors == "opg":
            return readable_errors(objective, scores, stuck)
        found = information(objective, objective.best[0])
        return readable_errors(objective, curvature if found is None else found, stuck, scores)

    def _climb(
        self, objective: Objective, progress: bool, generator: torch.Generator | None
    ) -> list[dict[str, float]]:
        """Run L-BFGS from every start and leave the model at the best point met."""
        from tqdm import tqdm

        first = objective.vector()
        _require_finite_start(objective, first)
        require_reached(objective, first)
        history: list[dict[str, float]] = []
        with tqdm(desc="maximum likelihood", unit="step", disable=not progress) as bar:

            def record(x: Vector) -> None:
                value = -objective.count * objective.best[1]
                history.append({"step": float(len(history)), "objective": value})
                bar.update()
                bar.set_postfix(log_likelihood=f"{value:.4f}")

            left = 0
            for k in range(self.starts):
                x0 = first + (_noise(first, generator) if k else 0.0)
                left = self._search(objective, x0, self.max_iterations, record)
            for _ in range(_RELEASES):
                x0 = inside(objective) if left > 0 else None
                if x0 is None:
                    break
                left = self._search(objective, x0, left, record)
        objective.assign(objective.best[0])
        return history

    def _search(
        self, objective: Objective, x0: Vector, limit: int, record: Callable[[Vector], None]
    ) -> int:
        """Run L-BFGS until the gradient is small; return how many iterations are left.

        A line search that fails for round-off in the curvature is begun anew where it stands.
        """
        from scipy.optimize import minimize

        options = {"gtol": self.tolerance, "ftol": 0.0, "maxfun": 20 * self.max_iterations}
        for _ in range(_RESTARTS):
            options["maxiter"] = limit
            found = minimize(
                objective.guarded,
                x0,
                jac=True,
                method="L-BFGS-B",
                callback=record,
                options=options,
            )
            limit -= int(found.nit)
            if limit <= 0 or found.status == 0 or not found.fun < objective.guarded(x0)[0]:
                break
            x0 = found.x
        return max(limit, 0)


def _require_finite_start(objective: Objective, x: Vector) -> None:
    value, _ = objective.gradient(x)
    if not math.isfinite(value):
        raise ValueError(
            "The log-likelihood is not finite at the starting values. Set the model's parameters "
            "to plausible values and pass `MaximumLikelihood(initialize=False)`, or check `y` for "
            "values far outside what the model can produce."
        )


def _noise(like: Vector, generator: torch.Generator | None) -> Vector:
    return torch.randn(len(like), generator=generator, dtype=torch.float64).numpy()


def _diagnostics(objective: Objective, norm: float, iterations: int) -> dict[str, float]:
    with torch.no_grad():
        log_likelihood = objective.log_likelihood().item()
        log_prior = objective.log_prior().item()
    model, size, count = objective.model, free_count(objective.model), objective.count
    diagnostics = {
        "log_likelihood": log_likelihood,
        **criteria(model, objective.series, log_likelihood, size),
        "num_parameters": float(size),
        "num_observations": float(count),
        "gradient_norm": norm,
        "iterations": float(iterations),
        "evaluations": float(objective.evaluations),
    }
    return diagnostics | ({"log_prior": log_prior} if objective.priors else {})


def _warnings(
    objective: Objective,
    norm: float,
    stuck: list[tuple[str, int, str]],
    limit: int,
    iterations: int,
) -> list[str]:
    sentences = []
    if not norm < objective.flatness():
        reason = (
            f"stopped at its limit of {limit} iterations" if iterations >= limit else "stopped"
        )
        sentences.append(
            f"Not converged: the optimiser {reason} where the gradient per observation is still "
            f"{norm:.1e}. Raise `max_iterations`, try `starts=5`, or simplify the model."
        )
    for name, i, bound in stuck:
        entry = f"`{name}`" if i == 0 else f"`{name}` (entry {i})"
        sentences.append(
            f"{entry} sits at its bound {bound}: the data fit as well there, so it has no "
            "standard error, and those of the others hold it there. Consider fixing it."
        )
    return sentences
