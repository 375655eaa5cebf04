"""Variational expectation maximisation for switching linear models."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from ...core.abilities import SwitchingModel
from ...core.arguments import checked
from ...core.methods import InferenceMethod, Learned
from ...core.model import Series, StateSpaceModel
from ..discrete.hidden_markov import forward_backward
from ..discrete.required import switching_model
from ..discrete.switching import Switching
from ..discrete.switching_bound import parameters_of, score_modes, smooth_states, whiten_all
from ..discrete.switching_mixtures import log_sum
from ..discrete.switching_statistics import Posterior, expected_density
from .objective import Objective, Prior, replace_priors
from .required import require_positive


@checked
@dataclass(frozen=True)
class VariationalEM:
    r"""Learn a `SwitchingLinearGaussian` by climbing a lower bound of `log p(y)`.

    .. math::
        F(q, \theta) = E_q[\log p(y, z, s)] + H[q(z)] + H[q(s)] \le \log p(y),
        \quad q(z, s) = q(z_{1:T})\, q(s_{1:T})

    Both factors are whole chains: given one, the best other is an exact smoother, and the bound
    never falls. The step in the parameters climbs by L-BFGS, so that constraints, ties between
    modes, priors (the bound then includes their log-density), frozen parameters, inputs and
    gaps are those of the model itself.

    Args:
        max_iterations: Most steps of each start.
        tolerance: Stop when a step gains less than this many nats per observed value.
        starts: How many starts; the best bound is kept. The first guesses the modes by the
            `Switching()` filter of the model as it is, the others cut time at random.
        sweeps: Updates of both factors before each step in the parameters.
        climbs: Most L-BFGS iterations of each step in the parameters.
        inference: How to infer states from now on.

    Source: Ghahramani & Hinton (2000), Neural Computation 12(4), section 4; Pavlovic, Rehg &
        MacCormick (2000), NIPS 13, for one state that all modes share.
    """

    max_iterations: int = 200
    tolerance: float = 1e-7
    starts: int = 1
    sweeps: int = 2
    climbs: int = 10
    inference: InferenceMethod = field(default_factory=Switching)

    def fit(
        self,
        model: StateSpaceModel,
        series: Series,
        *,
        progress: bool = True,
        generator: torch.Generator | None = None,
    ) -> Learned:
        """Move the model's parameters to the best bound found.

        Raises:
            ValueError: the model does not switch, or a mode has a step without noise.
        """
        require_positive(self, "max_iterations", "starts", "sweeps", "climbs")
        _switching(model)
        generator = generator or torch.Generator().manual_seed(0)
        priors, origin = replace_priors(model), copy.deepcopy(model.state_dict())
        best: tuple[float, Any, list[float]] = (-torch.inf, origin, [])
        ends = []
        for start in range(self.starts):
            model.load_state_dict(origin)
            weight = _cuts(model, series, generator) if start else _guess(model, series)
            trace = self._climb(model, series, weight, priors, progress)
            ends.append(trace[-1])
            if trace[-1] > best[0]:
                best = trace[-1], copy.deepcopy(model.state_dict()), trace
        model.load_state_dict(best[1])
        history = [{"step": float(i), "objective": value} for i, value in enumerate(best[2])]
        return Learned(self.inference, best[0], history, {}, *self._report(model, series, ends))

    def posterior(self, model: StateSpaceModel, series: Series) -> Posterior:
        """Return the best `q(s) q(z)` that coordinate ascent finds for the model as it is."""
        _switching(model)
        weight, before = _guess(model, series), -torch.inf
        for _ in range(max(self.max_iterations, 1)):
            q = _sweep(model, series, weight)
            weight, bound = q.modes, q.bound.sum().item()
            if bound - before < self.tolerance * _count(series):
                break
            before = bound
        return q

    def _climb(
        self,
        model: StateSpaceModel,
        series: Series,
        weight: Tensor,
        priors: list[Prior],
        progress: bool,
    ) -> list[float]:
        from tqdm import tqdm

        q = _sweep(model, series, weight)
        # The guess of the modes, not what the untrained model makes of it, sets the first step.
        pairs = weight[..., :-1, :, None] * weight[..., 1:, None, :]
        pairs = torch.cat((torch.zeros_like(q.pairs[..., :1, :, :]), pairs), -3)
        q = q._replace(modes=weight, pairs=pairs)
        trace: list[float] = []
        with tqdm(range(self.max_iterations), desc="EM", disable=not progress) as bar:
            for _ in bar:
                prior = self._maximise(model, series, q, priors)
                for _ in range(self.sweeps):
                    q = _sweep(model, series, q.modes)
                trace.append(q.bound.sum().item() + prior)
                bar.set_postfix(bound=f"{trace[-1]:.4f}")
                if len(trace) > 1 and trace[-1] - trace[-2] < self.tolerance * _count(series):
                    break
        return trace

    def _maximise(
        self, model: StateSpaceModel, series: Series, q: Posterior, priors: list[Prior]
    ) -> float:
        """Raise the expected density in the parameters; return the log prior there."""
        from scipy.optimize import minimize

        with torch.no_grad():
            density = expected_density(parameters_of(model, series), series.y, q)
        objective = Objective(model, series, cast(InferenceMethod, density), priors)
        if len(objective.vector()):
            options = {"maxiter": self.climbs, "gtol": 1e-10, "ftol": 0.0}
            minimize(
                objective.guarded,
                objective.vector(),
                jac=True,
                method="L-BFGS-B",
                options=options,
            )
            objective.assign(objective.best[0])
        return objective.log_prior().item()

    def _report(
        self, model: StateSpaceModel, series: Series, ends: list[float]
    ) -> tuple[dict[str, float], list[str]]:
        size = sum(p.numel() for p in model.parameters() if p.requires_grad)
        near = sum(max(ends) - end < 0.5 for end in ends)
        with torch.no_grad():
            score = self.inference.log_likelihood(model, series).sum().item()
        diagnostics = {
            "log_likelihood": score,
            "num_parameters": float(size),
            "starts_at_best": float(near),
        }
        warnings = []
        if self.starts > 1 and near == 1:
            warnings.append(
                f"Only one of {self.starts} starts reached the best bound {max(ends):.6g}: there "
                "may be a better optimum; raise `starts`."
            )
        return diagnostics, warnings


def _sweep(model: StateSpaceModel, series: Series, weight: Tensor) -> Posterior:
    """Update `q(z)` given the modes, then `q(s)` given the states."""
    chain = _switching(model)
    with torch.no_grad():
        parameters = parameters_of(model, series)
        rows = whiten_all(parameters, ~torch.isnan(series.y))
        states, total = smooth_states(model, rows, parameters.initial, series, weight)
        scores = score_modes(rows, states, series.y)
        found = forward_backward(chain.log_initial(), chain.log_transition()[None], scores)
        bound = total - (weight * scores).sum((-2, -1)) + found.log_likelihood.sum(-1)
    return Posterior(found.smoothed, found.pairs, states, bound)


def _guess(model: StateSpaceModel, series: Series) -> Tensor:
    """Return the smoothed modes of the filter's merged mixtures, `(*batch, time, modes)`."""
    with torch.no_grad():
        chain = _switching(model)
        trace, A = Switching().run(model, series), chain.log_transition()
        filtered = [mixture.log_weight for mixture in trace.filtered]
        steps = [filtered[-1].exp()]
        for log_weight in filtered[-2::-1]:
            # In logarithms: an unlikely mode may be the only one that leads on.
            joint = log_weight[..., :, None] + A
            back = joint - log_sum(joint, -2)[..., None, :]
            back = torch.where(torch.isneginf(joint), 0.0, back.exp())
            steps.append((back @ steps[-1][..., None])[..., 0])
        found = torch.stack(steps[::-1], -2)
        return found / found.sum(-1, keepdim=True)


def _cuts(model: StateSpaceModel, series: Series, generator: torch.Generator) -> Tensor:
    """Draw modes from their chain without looking at the data, nearly certain of each."""
    chain = _switching(model)
    with torch.no_grad():
        A, p = chain.log_transition().exp().cpu(), chain.log_initial().exp().cpu()
    modes, count = [], series.batch_shape.numel()
    now = torch.multinomial(p.expand(count, -1), 1, generator=generator)[:, 0]
    for _ in range(series.time):
        modes.append(now)
        now = torch.multinomial(A[now], 1, generator=generator)[:, 0]
    hot = torch.nn.functional.one_hot(torch.stack(modes, -1), len(p)).to(series.y)
    return (0.9 * hot + 0.1 / len(p)).reshape(*series.batch_shape, series.time, len(p))


def _count(series: Series) -> int:
    return max(1, int((~torch.isnan(series.y)).sum()))


def _switching(model: StateSpaceModel) -> SwitchingModel:
    return switching_model(model, "VariationalEM()")
