"""Closed-form expectation maximization for linear-Gaussian models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import constraints

from ...core.methods import Learned
from ...core.model import Series, StateSpaceModel
from ...core.results import Smoothed
from ..kalman.method import Kalman
from .objective import Objective
from .sufficient_statistics import emission_moments, transition_moments

_REGRESSIONS = ("A", "B", "b", "C", "D", "d", "m0")
_COVARIANCES = ("Q", "R", "P0")


@dataclass(frozen=True)
class ExpectationMaximization:
    r"""Maximise `log p(y)` of a `LinearGaussian` by smoothing and regression, in turns.

    Every step raises the likelihood or leaves it. It moves exactly the learnable matrices:
    fixed ones, `requires_grad_(False)`, and columns of a regression whose matrix is fixed stay.
    It needs matrices that are constant in time and either unconstrained or any covariance, and
    refuses others by name, as it refuses priors and tied parameters; `MaximumLikelihood()` takes
    all of them.

    Attributes:
        max_iterations: Limit of iterations.
        tolerance: Stop when an iteration gains less than this many nats per observed value.
        diagonal: Covariances whose off-diagonal entries stay zero.

    Source: Shumway & Stoffer (1982), Journal of Time Series Analysis 3, 253-264; Ghahramani &
        Hinton (1996), University of Toronto CRG-TR-96-2.
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
        free = _learnable(model)
        history, ending = self._iterate(model, series, free, progress)
        objective = Objective(model, series, Kalman())
        value, slope = objective.gradient(objective.vector())
        total = -value * objective.count
        size = int(objective.active().sum())
        norm = float(abs(slope).max(initial=0.0))
        diagnostics = {
            "log_likelihood": total,
            "aic": 2 * size - 2 * total,
            "num_parameters": float(size),
            "gradient_norm": norm,
            "iterations": float(len(history)),
        }
        warnings = [ending] if ending else []
        return Learned(Kalman(), total, history, {}, diagnostics, warnings)

    def _iterate(
        self, model: StateSpaceModel, series: Series, free: set[str], progress: bool
    ) -> tuple[list[dict[str, float]], str]:
        """Return the history and what a user should know about how it ended."""
        from tqdm import tqdm

        history: list[dict[str, float]] = []
        count, before = max(1, int((~series.y.isnan()).sum())), -torch.inf
        with tqdm(range(self.max_iterations), desc="EM", disable=not progress) as bar:
            for step in bar:
                with torch.no_grad():
                    smoothed = Kalman().smooth(model, series)
                    value = smoothed.log_likelihood.sum().item()
                    history.append({"step": float(step), "objective": value})
                    if value - before < self.tolerance * count:
                        return history, ""
                    before = value
                    try:
                        self._maximise(model, series, smoothed, free)
                    except _SingularError as error:
                        return history, str(error)
                bar.set_postfix(log_likelihood=f"{value:.4f}")
        return history, (
            f"Not converged after {len(history)} iterations. Raise `max_iterations`, or finish "
            "with `MaximumLikelihood(initialize=False)`, which is faster near the optimum."
        )

    def _maximise(
        self,
        model: Any,  # noqa: ANN401
        series: Series,
        smoothed: Smoothed,
        free: set[str],
    ) -> None:
        emission = emission_moments(
            series.y,
            smoothed,
            series.u,
            model.C.detach(),
            _offset(model, series),
            model.R.detach(),
        )
        self._regress(model, free, ("C", "D", "d"), "R", emission)
        if series.time > 1 and free & {"A", "B", "b", "Q"}:
            moments = transition_moments(smoothed, series.u)
            self._regress(model, free, ("A", "B", "b"), "Q", moments)
        first = smoothed.mean[..., 0, :].reshape(-1, model.state_dim)
        if "m0" in free:
            _write(model, "m0", first.mean(0))
        if "P0" in free:
            gap = first - (0.0 if model.m0 is None else model.m0.detach())
            within = smoothed.cov[..., 0, :, :].reshape(-1, *smoothed.cov.shape[-2:]).mean(0)
            self._write_cov(model, "P0", within + gap.mT @ gap / len(gap))

    def _regress(
        self,
        model: Any,  # noqa: ANN401
        free: set[str],
        names: tuple[str, str, str],
        cov: str,
        moments: Any,  # noqa: ANN401
    ) -> None:
        """Update the matrices of one regression, then its noise."""
        rows, columns = moments.sx.shape
        state, inputs = model.state_dim, columns - model.state_dim - 1
        widths = dict(zip(names, (state, inputs, 1), strict=True))
        parts, moves = [], []
        for name, width in widths.items():
            value = getattr(model, name)
            value = moments.sx.new_zeros(rows, width) if value is None else value.detach()
            parts.append(value.reshape(rows, width))
            moves.append(torch.full((width,), name in free, device=value.device))
        solution = moments.solve(torch.cat(parts, -1), torch.cat(moves))
        for (name, _), block in zip(
            widths.items(), solution.split(list(widths.values()), -1), strict=True
        ):
            if name in free:
                _write(model, name, block.reshape(getattr(model, name).shape))
        if cov in free:
            self._write_cov(model, cov, moments.noise(solution))

    def _write_cov(self, model: Any, name: str, value: Tensor) -> None:  # noqa: ANN401
        mask = torch.eye(len(value)).to(value) if name in self.diagonal else torch.ones_like(value)
        value = value * mask
        if name in model._pyro_params and bool(torch.linalg.cholesky_ex(value).info):
            raise _SingularError(
                f"`{name}` has become singular: the data want no noise in some direction, and the "
                "likelihood has no maximum inside. Fix it, keep it diagonal, or drop a state."
            )
        _write(model, name, value)


class _SingularError(Exception):
    """A covariance left the inside of its constraint."""


def _offset(model: Any, series: Series) -> Tensor:  # noqa: ANN401
    """Return the present `D u + d`, broadcastable to `y`."""
    total = series.y.new_zeros(model.obs_dim)
    total = total if model.d is None else total + model.d.detach()
    if model.D is None or series.u is None:
        return total
    return total + series.u @ model.D.detach().mT


def _write(model: Any, name: str, value: Tensor) -> None:  # noqa: ANN401
    """Set a parameter; a covariance goes through its constraint."""
    if name in model._pyro_params:
        setattr(model, name, value)
    else:
        getattr(model, name).data.copy_(value)


def _learnable(model: StateSpaceModel) -> set[str]:
    """Return the names of the matrices to update, or refuse what has no closed form."""
    names = (*_REGRESSIONS, *_COVARIANCES)
    if not all(hasattr(model, name) for name in names):
        raise ValueError(
            f"`ExpectationMaximization` needs a `LinearGaussian`, got {type(model).__name__}. Use "
            "`MaximumLikelihood()`."
        )
    assert isinstance(model, PyroModule)
    if model._pyro_samples:
        raise ValueError(
            f"`{next(iter(model._pyro_samples))}` has a prior, which has no closed form here. Use "
            "`MaximumLikelihood()` for the posterior maximum, or `NUTS()`."
        )
    known = {id(p) for name in names if (p := _tensor(model, name)) is not None}
    free = {name for name in names if (p := _tensor(model, name)) is not None and p.requires_grad}
    total = [p for p in model.parameters() if p.requires_grad]
    if len(total) != len(free) or any(id(p) not in known for p in total):
        raise ValueError(
            f"{type(model).__name__} has tied or additional parameters, which have no closed form "
            "here. Use `MaximumLikelihood()`."
        )
    if "stationary" in getattr(model, "start", ()) and free & {"A", "b", "Q"}:
        raise ValueError(
            '`initial="stationary"` ties the start to `A`, `b` and `Q`, which leaves no closed '
            "form. Use `MaximumLikelihood()`, or learn `m0` and `P0`."
        )
    _require_constant(model)
    for name in free:
        _require_closed_form(model, name)
    return free


def _tensor(model: PyroModule, name: str) -> nn.Parameter | None:
    key = f"{name}_unconstrained" if name in model._pyro_params else name
    value = getattr(model, key)
    return value if isinstance(value, nn.Parameter) else None


def _require_closed_form(model: PyroModule, name: str) -> None:
    constraint, _ = model._pyro_params.get(name, (constraints.real, None))
    scalar = getattr(model, name).shape == (1, 1) and type(constraint) is constraints.greater_than
    kinds = (type(constraints.positive_definite), type(constraints.positive_semidefinite))
    if isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    fits = isinstance(constraint, kinds) or scalar or name not in model._pyro_params
    if name in _REGRESSIONS:
        fits = type(constraint) is type(constraints.real)
    if not fits:
        raise ValueError(
            f"`{name}` has the constraint {constraint}, for which there is no closed form. Use "
            "`MaximumLikelihood()`, or `constraints.positive_definite` for a covariance."
        )


def _require_constant(model: PyroModule) -> None:
    for name in ("A", "Q", "C", "R", "B", "D", "b", "d", "m0", "P0"):
        matrix = getattr(model, name)
        if matrix is not None and matrix.ndim > (1 if name in ("b", "d", "m0") else 2):
            raise ValueError(
                f"`{name}` varies in time or over series, for which there is no closed form. Use "
                "`MaximumLikelihood()`."
            )
