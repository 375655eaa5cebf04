"""Which matrices of a linear-Gaussian model EM can move, and what it must refuse by name."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from ...core.abilities import HasMatrices
from ...core.model import StateSpaceModel
from .objective import priors_of

REGRESSIONS = ("A", "B", "b", "C", "D", "d", "m0")
COVARIANCES = ("Q", "R", "P0")
# What each regression's noise is; the mean of `y` is linear in all but `A` and `C`.
NOISE_OF = {"m0": "P0", "A": "Q", "B": "Q", "b": "Q", "C": "R", "D": "R", "d": "R"}


def learnable(model: StateSpaceModel) -> set[str]:
    """Return the names of the matrices to update.

    Raises:
        ValueError: the model is not a constant `LinearGaussian`, or something has no closed form.
    """
    if not isinstance(model, HasMatrices):
        raise ValueError(
            "`ExpectationMaximization` needs a `LinearGaussian` or a `DynamicFactor`, got "
            f"{type(model).__name__}. Use `MaximumLikelihood()`."
        )
    require_no_prior(model)
    tensors = {n: p for n in (*REGRESSIONS, *COVARIANCES) if (p := _tensor(model, n)) is not None}
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
    matrices = present(model)
    _require_constant(matrices)
    for name in free:
        _require_closed_form(model, name, matrices[name])
    _require_noise(free, matrices)
    return free


def require_no_prior(model: StateSpaceModel) -> None:
    """Raise if a parameter has a prior.

    Raises:
        ValueError: one has.
    """
    if priors := priors_of(model):
        raise ValueError(
            f"`{priors[0].name}` has a prior, which has no closed form here. Use "
            "`MaximumLikelihood()` for the posterior maximum, or `NUTS()`."
        )


def present(model: StateSpaceModel) -> dict[str, Tensor | None]:
    """Return the matrices of a model that has them, without a gradient."""
    assert isinstance(model, HasMatrices)
    return {k: None if x is None else x.detach() for k, x in model.matrices().items()}


def write(model: StateSpaceModel, name: str, value: Tensor) -> None:
    """Set a parameter; a covariance goes through its constraint."""
    if name in model._pyro_params:
        setattr(model, name, value)
    else:
        model.get_parameter(name).data.copy_(value)


def noiseless(name: str, free: set[str], matrices: dict[str, Tensor | None]) -> bool:
    """Return whether a regression has, in some direction, no noise that EM could explain it by."""
    noise = NOISE_OF[name]
    cov = matrices[noise]
    if noise in free:
        return False
    if cov is None:
        return True
    values = torch.linalg.eigvalsh(cov.double())
    return bool(values[0] <= len(values) * torch.finfo(values.dtype).eps * values[-1].abs())


def _require_noise(free: set[str], matrices: dict[str, Tensor | None]) -> None:
    for name in ("A", "C"):
        if name in free and noiseless(name, free, matrices):
            raise ValueError(
                f"`{name}` is to be learnt where `{NOISE_OF[name]}` has no noise in some "
                "direction: every step of EM would leave it where it is. Use "
                f"`MaximumLikelihood()`, or learn `{NOISE_OF[name]}` too."
            )


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
    if name in REGRESSIONS:
        fits = type(constraint) is type(constraints.real)
    if not fits:
        raise ValueError(
            f"`{name}` has the constraint {constraint}, for which there is no closed form. Use "
            "`MaximumLikelihood()`, or `constraints.positive_definite` for a covariance."
        )


def _require_constant(matrices: dict[str, Tensor | None]) -> None:
    for name, matrix in matrices.items():
        if matrix is not None and matrix.ndim > (1 if name in ("b", "d", "m0") else 2):
            raise ValueError(
                f"`{name}` varies in time or over series, for which there is no closed form. Use "
                "`MaximumLikelihood()`."
            )
