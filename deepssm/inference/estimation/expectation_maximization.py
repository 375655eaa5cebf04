"""Closed-form expectation maximization for linear-Gaussian models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ...core.abilities import MaximizesMoments
from ...core.arguments import checked
from ...core.methods import Learned
from ...core.model import Series, StateSpaceModel
from ...core.results import Smoothed
from ..kalman.method import Kalman
from .criteria import criteria
from .learnable_matrices import (
    learnable,
    noiseless,
    present,
    require_no_prior,
    write,
)
from .objective import Objective
from .offsets import OFFSETS, climb_offsets
from .release import inside
from .required import require_positive
from .sufficient_statistics import Moments, emission_moments, transition_moments

# Steps without a gain before it gives up, and looks further inside the bounds.
_PATIENCE, _RELEASES = 20, 5


@checked
@dataclass(frozen=True)
class ExpectationMaximization:
    r"""Maximise `log p(y)` of a `LinearGaussian` by smoothing and regression, in turns.

    Every step raises the likelihood or leaves it. It moves exactly the learnable matrices:
    fixed ones, `requires_grad_(False)`, and columns of a regression whose matrix is fixed stay.
    Where there is no noise that the smoother could explain an offset by (`m0` with `P0 = 0`, `b`,
    `B` with a singular `Q`, `d`, `D` with a singular `R`), the offset is set by generalised least
    squares on the likelihood itself, which is quadratic in it. It ends where the gradient does.
    It needs matrices that are constant in time and either unconstrained or any covariance, and
    refuses others by name, as it refuses priors and tied parameters; `MaximumLikelihood()` takes
    all of them. Other models say themselves how they maximise (`MaximizesMoments`), as
    `DynamicFactor` does.

    Attributes:
        max_iterations: Limit of iterations.
        tolerance: Look whether to stop when an iteration gains less than this many nats per
            observed value.
        diagonal: Covariances whose off-diagonal entries stay zero.

    Source: Shumway & Stoffer (1982), Journal of Time Series Analysis 3, 253-264; Ghahramani &
        Hinton (1996), University of Toronto CRG-TR-96-2; Liu & Rubin (1994), Biometrika 81,
        633-648, for steps on the likelihood itself.
    """

    max_iterations: int = 1000
    tolerance: float = 1e-9
    diagonal: tuple[Literal["Q", "R", "P0"], ...] = ()

    def fit(
        self,
        model: StateSpaceModel,
        series: Series,
        *,
        progress: bool = True,
        generator: torch.Generator | None = None,
    ) -> Learned:
        """Move the model's learnable matrices.

        Raises:
            ValueError: the model is not a constant `LinearGaussian`, or has a parameter with a
                prior, a tie or a constraint that has no closed form.
        """
        require_positive(self, "max_iterations")
        if isinstance(model, MaximizesMoments):
            require_no_prior(model)
            free: set[str] = set()
        else:
            free = learnable(model)
        objective = Objective(model, series, Kalman())
        history, ending = self._iterate(objective, free, progress)
        value, slope = objective.gradient(objective.vector())
        total = -value * objective.count
        size = int(objective.active().sum()) - self._tied(model, free)
        diagnostics = {
            "log_likelihood": total,
            **criteria(model, series, total, size),
            "num_parameters": float(size),
            "num_observations": float(objective.count),
            "gradient_norm": float(abs(slope).max(initial=0.0)),
            "iterations": float(len(history)),
        }
        return Learned(Kalman(), total, history, {}, diagnostics, [ending] if ending else [])

    def _iterate(
        self, objective: Objective, free: set[str], progress: bool
    ) -> tuple[list[dict[str, float]], str]:
        """Return the history and what a user should know about how it ended."""
        from tqdm import tqdm

        model, series = objective.model, objective.series
        history: list[dict[str, float]] = []
        before, idle, releases = -torch.inf, 0, 0
        with tqdm(range(self.max_iterations), desc="EM", disable=not progress) as bar:
            for step in bar:
                with torch.no_grad():
                    smoothed = Kalman().smooth(model, series)
                value = smoothed.log_likelihood.sum().item()
                history.append({"step": float(step), "objective": value})
                bar.set_postfix(log_likelihood=f"{value:.4f}")
                idle = idle + 1 if value - before < self.tolerance * objective.count else 0
                before = value
                if idle:
                    slope = objective.gradient(objective.vector())[1]
                    flat = float(np.abs(slope).max(initial=0.0)) < objective.flatness()
                    if flat or idle > _PATIENCE:
                        better = inside(objective) if releases < _RELEASES else None
                        if better is None:
                            return history, "" if flat else _stuck(objective, slope)
                        objective.assign(better)
                        before, idle, releases = -torch.inf, 0, releases + 1
                        continue
                try:
                    self._maximise(model, series, smoothed, free, idle > 0)
                except _SingularError as error:
                    return history, str(error)
        return history, (
            f"Not converged after {len(history)} iterations. Raise `max_iterations`, or finish "
            "with `MaximumLikelihood(initialize=False)`, which is faster near the optimum."
        )

    def _maximise(
        self,
        model: StateSpaceModel,
        series: Series,
        smoothed: Smoothed,
        free: set[str],
        stalled: bool,
    ) -> None:
        if isinstance(model, MaximizesMoments):
            with torch.no_grad():
                model.maximize_moments(series, smoothed)
            return
        exact = {x for x in OFFSETS & free if stalled or noiseless(x, free, present(model))}
        with torch.no_grad():
            self._maximise_expected(model, series, smoothed, free, exact)
        if exact:
            climb_offsets(model, series, exact)

    def _maximise_expected(
        self,
        model: StateSpaceModel,
        series: Series,
        smoothed: Smoothed,
        free: set[str],
        exact: set[str],
    ) -> None:
        """Maximise the expected joint density in all but what is set exactly."""
        moving, now = free - exact, present(model)
        C, R = now["C"], now["R"]
        assert C is not None and R is not None
        if moving & {"C", "D", "d", "R"}:
            offset = _offset(now["D"], now["d"], series)
            emission = emission_moments(series.y, smoothed, series.u, C, offset, R)
            self._regress(model, moving, ("C", "D", "d"), "R", emission)
        if series.time > 1 and moving & {"A", "B", "b", "Q"}:
            moments = transition_moments(smoothed, series.u)
            self._regress(model, moving, ("A", "B", "b"), "Q", moments)
        first = smoothed.mean[..., 0, :].reshape(-1, model.state_dim)
        if "m0" in moving:
            write(model, "m0", first.mean(0))
        if "P0" in moving:
            mean = present(model)["m0"]
            gap = first if mean is None else first - mean
            within = smoothed.cov[..., 0, :, :].reshape(-1, *smoothed.cov.shape[-2:]).mean(0)
            self._write_cov(model, "P0", within + gap.mT @ gap / len(gap))

    def _regress(
        self,
        model: StateSpaceModel,
        free: set[str],
        names: tuple[str, str, str],
        cov: str,
        moments: Moments,
    ) -> None:
        """Update the matrices of one regression, then its noise."""
        rows, columns = moments.sx.shape
        state, inputs = model.state_dim, columns - model.state_dim - 1
        widths = dict(zip(names, (state, inputs, 1), strict=True))
        parts, moves, now = [], [], present(model)
        for name, width in widths.items():
            value = now[name]
            value = moments.sx.new_zeros(rows, width) if value is None else value
            parts.append(value.reshape(rows, width))
            moves.append(torch.full((width,), name in free, device=value.device))
        solution = moments.solve(torch.cat(parts, -1), torch.cat(moves))
        for name, block in zip(names, solution.split(list(widths.values()), -1), strict=True):
            if name in free and (value := now[name]) is not None:
                write(model, name, block.reshape(value.shape))
        if cov in free:
            self._write_cov(model, cov, moments.noise(solution))

    def _tied(self, model: StateSpaceModel, free: set[str]) -> int:
        """Return how many entries of covariances stay zero."""
        if not free:
            return 0
        matrices = present(model)
        held = [matrices[name] for name in self.diagonal if name in free]
        return sum(len(x) * (len(x) - 1) // 2 for x in held if x is not None)

    def _write_cov(self, model: StateSpaceModel, name: str, value: Tensor) -> None:
        mask = torch.eye(len(value)).to(value) if name in self.diagonal else torch.ones_like(value)
        value = value * mask
        if name in model._pyro_params and bool(torch.linalg.cholesky_ex(value).info):
            raise _SingularError(
                f"`{name}` has become singular: the data want no noise in some direction, and the "
                "likelihood has no maximum inside. Fix it, keep it diagonal, or drop a state."
            )
        write(model, name, value)


class _SingularError(Exception):
    """A covariance left the inside of its constraint."""


def _offset(D: Tensor | None, d: Tensor | None, series: Series) -> Tensor:
    """Return the present `D u + d`, broadcastable to `y`."""
    total = series.y.new_zeros(series.y.shape[-1]) if d is None else d
    return total if D is None or series.u is None else total + series.u @ D.mT


def _stuck(objective: Objective, slope: np.ndarray) -> str:
    """Name the parameter with the largest gradient, which EM does not move."""
    start, steepest, name = 0, -1.0, ""
    for free in objective.free:
        stop = start + free.tensor.numel()
        height = float(np.abs(slope[start:stop]).max(initial=0.0))
        if height > steepest:
            steepest, name = height, free.name
        start = stop
    return (
        f"Not converged: EM gains nothing more where the gradient per observation of `{name}` is "
        f"still {steepest:.1e}. Finish with `MaximumLikelihood(initialize=False)`."
    )
