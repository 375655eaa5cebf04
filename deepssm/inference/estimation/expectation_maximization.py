"""Closed-form expectation maximization for linear-Gaussian models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from ...core.abilities import HasMatrices
from ...core.arguments import checked
from ...core.methods import Learned
from ...core.model import Series, StateSpaceModel
from ...core.results import Smoothed
from ..kalman.method import Kalman
from .objective import Objective
from .sufficient_statistics import Moments, emission_moments, transition_moments

_REGRESSIONS = ("A", "B", "b", "C", "D", "d", "m0")
_COVARIANCES = ("Q", "R", "P0")


@checked
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
        self, model: StateSpaceModel, series: Series, smoothed: Smoothed, free: set[str]
    ) -> None:
        now = _present(model)
        C, R = now["C"], now["R"]
        assert C is not None and R is not None
        offset = _offset(now["D"], now["d"], series)
        emission = emission_moments(series.y, smoothed, series.u, C, offset, R)
        self._regress(model, free, ("C", "D", "d"), "R", emission)
        if series.time > 1 and free & {"A", "B", "b", "Q"}:
            moments = transition_moments(smoothed, series.u)
            self._regress(model, free, ("A", "B", "b"), "Q", moments)
        first = smoothed.mean[..., 0, :].reshape(-1, model.state_dim)
        if "m0" in free:
            _write(model, "m0", first.mean(0))
        if "P0" in free:
            mean = _present(model)["m0"]
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
        parts, moves, present = [], [], _present(model)
        for name, width in widths.items():
            value = present[name]
            value = moments.sx.new_zeros(rows, width) if value is None else value
            parts.append(value.reshape(rows, width))
            moves.append(torch.full((width,), name in free, device=value.device))
        solution = moments.solve(torch.cat(parts, -1), torch.cat(moves))
        for name, block in zip(names, solution.split(list(widths.values()), -1), strict=True):
            if name in free and (value := present[name]) is not None:
                _write(model, name, block.reshape(value.shape))
        if cov in free:
            self._write_cov(model, cov, moments.noise(solution))

    def _write_cov(self, model: StateSpaceModel, name: str, value: Tensor) -> None:
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


def _offset(D: Tensor | None, d: Tensor | None, series: Series) -> Tensor:
    """Return the present `D u + d`, broadcastable to `y`."""
    total = series.y.new_zeros(series.y.shape[-1]) if d is None else d
    return total if D is None or series.u is None else total + series.u @ D.mT


def _present(model: StateSpaceModel) -> dict[str, Tensor | None]:
    """Return the matrices of a model that has them, without a gradient."""
    assert isinstance(model, HasMatrices)
    return {k: None if x is None else x.detach() for k, x in model.matrices().items()}


def _write(model: StateSpaceModel, name: str, value: Tensor) -> None:
    """Set a parameter; a covariance goes through its constraint."""
    if name in model._pyro_params:
        setattr(model, name, value)
    else:
        model.get_parameter(name).data.copy_(value)


def _learnable(model: StateSpaceModel) -> set[str]:
    """Return the names of the matrices to update, or refuse what has no closed form."""
    names = (*_REGRESSIONS, *_COVARIANCES)
    if not isinstance(model, HasMatrices):
        raise ValueError(
            f"`ExpectationMaximization` needs a `LinearGaussian`, got {type(model).__name__}. Use "
            "`MaximumLikelihood()`."
        )
    if model._pyro_samples:
        raise ValueError(
            f"`{next(iter(model._pyro_samples))}` has a prior, which has no closed form here. Use "
            "`MaximumLikelihood()` for the posterior maximum, or `NUTS()`."
        )
    tensors = {name: p for name in names if (p := _tensor(model, name)) is not None}
    known = {id(p) for p in tensors.values()}
    free = {name for name, p in tensors.items() if p.requires_grad}
    total = [p for p in model.parameters() if p.requires_grad]
    if len(total) != len(free) or any(id(p) not in known for p in total):
        raise ValueError(
            f"{type(model).__name__} has tied or additional parameters, which have no closed form "
            "here. Use `MaximumLikelihood()`."
        )
    if "stationary" in model.start and free & {"A", "b", "Q"}:
        raise ValueError(
            '`initial="stationary"` ties the start to `A`, `b` and `Q`, which leaves no closed '
            "form. Use `MaximumLikelihood()`, or learn `m0` and `P0`."
        )
    present = _present(model)
    _require_constant(present)
    for name in free:
        _require_closed_form(model, name, present[name])
    return free


def _tensor(model: StateSpaceModel, name: str) -> nn.Parameter | None:
    """Return what the optimiser of a matrix moves, if it is a parameter."""
    return model._parameters.get(f"{name}_unconstrained" if name in model._pyro_params else name)


def _require_closed_form(model: StateSpaceModel, name: str, matrix: Tensor | None) -> None:
    constraint, _ = model._pyro_params.get(name, (constraints.real, None))
    single = matrix is not None and matrix.shape == (1, 1)
    scalar = single and type(constraint) is constraints.greater_than
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


def _require_constant(present: dict[str, Tensor | None]) -> None:
    for name, matrix in present.items():
        if matrix is not None and matrix.ndim > (1 if name in ("b", "d", "m0") else 2):
            raise ValueError(
                f"`{name}` varies in time or over series, for which there is no closed form. Use "
                "`MaximumLikelihood()`."
            )
