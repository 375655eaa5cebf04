"""Learning by climbing the log-likelihood, or the log-posterior where there are priors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...core.arguments import checked
from ...core.methods import InferenceMethod, Learned
from ...core.model import Series, StateSpaceModel
from .delta_method import readable_errors, unknown
from .maximum_likelihood_batch import Errors, fit_each
from .objective import Objective, Vector, free_count, readable_parameters, replace_priors
from .objective_batch import separable
from .required import given
from .standard_errors import Matrix, at_bounds, newton_polish, outer_products, standard_errors


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
        errors: Where standard errors come from: the Hessian; the outer products of the scores of
            single steps (`"opg"`); or both (`"robust"`), right where the model is wrong.

    Source: Durbin & Koopman (2012), chapter 7; Nocedal & Wright (2006), section 7.2.
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
        inference = given(self.inference, "MaximumLikelihood")
        if self.initialize:
            model.initialize_from(series)
        objective = Objective(model, series, inference, replace_priors(model))
        if self.starts == 1 and separable(objective):
            return fit_each(objective, self.max_iterations, self.tolerance, self.errors, progress)
        history = self._climb(objective, progress, generator)
        at_limit = len(objective.best[0]) > self.curvature_limit
        curvature = None if at_limit else newton_polish(objective)
        stuck = [] if at_limit else at_bounds(objective)
        errors = {} if curvature is None else self._errors(objective, curvature, stuck)
        at, _ = objective.best
        _, slope = objective.gradient(at)
        norm = float(np.abs(slope).max(initial=0.0))
        diagnostics = _diagnostics(objective, norm, len(history))
        warnings = _warnings(norm, stuck, self.max_iterations, len(history))
        if at_limit:
            warnings.append(
                f"No standard errors: {len(at)} parameters exceed `curvature_limit` = "
                f"{self.curvature_limit}."
            )
        elif errors and not stuck and unknown(objective, errors):
            warnings.append(
                "No standard errors for some parameters: the Hessian is not positive definite "
                "there, so the data do not identify them. Fix or drop some."
            )
        value = diagnostics["log_likelihood"] + diagnostics.get("log_prior", 0.0)
        return Learned(inference, value, history, errors, diagnostics, warnings)

    def _errors(
        self, objective: Objective, curvature: Matrix, stuck: list[tuple[str, int, str]]
    ) -> dict[str, Tensor]:
        find = readable_errors if readable_parameters(objective.model) else standard_errors
        if self.errors == "hessian":
            return find(objective, curvature, stuck)
        scores = outer_products(objective, objective.best[0])
        if self.errors == "opg":
            return find(objective, scores, stuck)
        return find(objective, curvature, stuck, scores)

    def _climb(
        self, objective: Objective, progress: bool, generator: torch.Generator | None
    ) -> list[dict[str, float]]:
        """Run L-BFGS from every start and leave the model at the best point met."""
        from scipy.optimize import minimize
        from tqdm import tqdm

        first = objective.vector()
        _require_finite_start(objective, first)
        history: list[dict[str, float]] = []
        with tqdm(desc="maximum likelihood", unit="step", disable=not progress) as bar:

            def record(x: Vector) -> None:
                value = -objective.count * objective.best[1]
                history.append({"step": float(len(history)), "objective": value})
                bar.update()
                bar.set_postfix(log_likelihood=f"{value:.4f}")

            options = {"maxiter": self.max_iterations, "gtol": self.tolerance, "ftol": 0.0}
            for k in range(self.starts):
                x0 = first + (_noise(first, generator) if k else 0.0)
                options["maxfun"] = 20 * self.max_iterations
                minimize(
                    objective.guarded,
                    x0,
                    jac=True,
                    method="L-BFGS-B",
                    callback=record,
                    options=options,
                )
        objective.assign(objective.best[0])
        return history


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
    size, count = free_count(objective.model), objective.count
    diagnostics = {
        "log_likelihood": log_likelihood,
        "aic": 2 * size - 2 * log_likelihood,
        "bic": math.log(count) * size - 2 * log_likelihood,
        "num_parameters": float(size),
        "num_observations": float(count),
        "gradient_norm": norm,
        "iterations": float(iterations),
        "evaluations": float(objective.evaluations),
    }
    return diagnostics | ({"log_prior": log_prior} if objective.priors else {})


def _warnings(
    norm: float, stuck: list[tuple[str, int, str]], limit: int, iterations: int
) -> list[str]:
    sentences = []
    if not norm < 1e-4:
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
            "standard error. Consider fixing it."
        )
    return sentences
