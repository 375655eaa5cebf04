"""Expectation maximisation for hidden Markov models."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...core.abilities import ClosedFormEM
from ...core.arguments import checked
from ...core.deprecation import renamed_arguments
from ...core.methods import Learned
from ...core.model import Series, StateSpaceModel
from ..discrete.hidden_markov import ForwardBackward
from .delta_method import readable_errors
from .objective import Objective, free_count
from .required import require_positive
from .standard_errors import hessian


@checked
@dataclass(frozen=True)
class BaumWelch:
    """Maximum likelihood for hidden Markov models by EM, from several starts.

    The likelihood never falls. Frozen parameters stay; fixed zeros of transitions stay zeros.
    Transitions driven by inputs climb by L-BFGS within each step.

    Args:
        max_iterations: Most EM steps of each start.
        tolerance: Stop when the log-likelihood gains less than this share of itself.
        starts: How many different starts; the best result is kept. The first is the model's own
            if `keep_start`, the others draw new clusters.
        keep_start: Begin from the model's present parameters instead of its initialisation.
        inference: The expectation step.
        curvature_limit: Up to this many parameters, take standard errors from the Hessian.

    Source: Baum, Petrie, Soules & Weiss (1970); Rabiner (1989), section III.C; Bengio & Frasconi
        (1995) for inputs.
    """

    max_iterations: int = 200
    tolerance: float = 1e-9
    starts: int = 1
    keep_start: bool = False
    inference: ForwardBackward = ForwardBackward()
    curvature_limit: int = 60

    def fit(
        self,
        model: StateSpaceModel,
        series: Series,
        *,
        progress: bool = True,
        generator: torch.Generator | None = None,
    ) -> Learned:
        """Move the model's parameters to the best optimum found.

        Raises:
            ValueError: the model is no hidden Markov model, or no state can emit some observation.
        """
        require_positive(self, "max_iterations", "starts")
        if not isinstance(model, ClosedFormEM):
            raise ValueError(
                f"`BaumWelch()` needs a `HiddenMarkov` model, got {type(model).__name__}, "
                "which lacks members of `deepssm.models.ClosedFormEM`."
            )
        generator = generator or torch.Generator().manual_seed(0)
        best, best_state, history, totals = -torch.inf, None, [], []
        origin = copy.deepcopy(model.state_dict())
        for start in range(self.starts):
            model.load_state_dict(origin)
            if start or not self.keep_start:
                model.restart(series, generator)
            trace = self._climb(model, model, series)
            totals.append(trace[-1])
            if trace[-1] > best:
                best, best_state = trace[-1], copy.deepcopy(model.state_dict())
                history = [{"step": float(i), "objective": value} for i, value in enumerate(trace)]
        if best_state is None:
            model.load_state_dict(origin)
            raise ValueError(
                f"`y` is impossible: its log-likelihood is {totals[0]} from every start. Look for "
                "observations that no state emits, or states that fixed zeros never let follow."
            )
        model.load_state_dict(best_state)
        report, warnings = self._report(model, series, totals)
        errors = self._errors(model, series)
        return Learned(self.inference, best, history, errors, report, warnings)

    def _climb(self, model: StateSpaceModel, em: ClosedFormEM, series: Series) -> list[float]:
        trace: list[float] = []
        for _ in range(self.max_iterations):
            expected = self.inference.expect(model, series)
            trace.append(float(expected.log_likelihood.sum()))
            if len(trace) > 1 and trace[-1] - trace[-2] <= self.tolerance * abs(trace[-1]):
                break
            em.maximize(series, expected.first, expected.pairs, expected.smoothed)
        return trace

    def _errors(self, model: StateSpaceModel, series: Series) -> dict[str, Tensor]:
        objective = Objective(model, series, self.inference)
        at = objective.vector()
        # A rate of 0 has a logarithm of -inf, at which nothing can be differenced.
        if not 0 < len(at) <= self.curvature_limit or not bool(np.isfinite(at).all()):
            return {}
        objective.gradient(at)
        curvature = hessian(objective, at)
        objective.best = at, objective.best[1]
        return readable_errors(objective, curvature, [])

    def _report(
        self, model: StateSpaceModel, series: Series, totals: list[float]
    ) -> tuple[dict[str, float], list[str]]:
        size, seen = free_count(model), int((~series.y.isnan()).sum())
        best = max(totals)
        near = sum(best - total < 1e-6 * abs(best) for total in totals)
        warnings = []
        if self.starts > 1 and near == 1:
            warnings.append(
                f"Only one of {self.starts} starts reached the best log-likelihood {best:.6g}: "
                "there may be a better optimum; raise `starts`."
            )
        return {
            "log_likelihood": best,
            "aic": 2 * size - 2 * best,
            "bic": math.log(max(seen, 1)) * size - 2 * best,
            "num_parameters": float(size),
            "num_observations": float(seen),
            "starts_at_best": float(near),
        }, warnings


BaumWelch.__init__ = renamed_arguments(iterations="max_iterations", forward_backward="inference")(
    BaumWelch.__init__
)
