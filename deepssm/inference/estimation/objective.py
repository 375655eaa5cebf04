"""The free parameters of a model as one vector, and the log-density to climb."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor
from torch.distributions import Distribution, constraints, transform_to

from ...core.abilities import HasReadableParameters
from ...core.arguments import checked
from ...core.methods import InferenceMethod
from ...core.model import Readable, Series, StateSpaceModel

# Where a module remembers `(prior, parameter)` of each prior that learning has replaced.
_REPLACED = "_replaced_priors"

Vector = np.ndarray[Any, np.dtype[np.float64]]


class Free(NamedTuple):
    """One tensor that is learnt.

    Attributes:
        name: Its constrained name, such as `level.level_variance`.
        tensor: What the optimiser moves, unconstrained.
        constraint: Where the constrained value lives.
    """

    name: str
    tensor: torch.nn.Parameter
    constraint: constraints.Constraint

    def constrained(self, value: Tensor) -> Tensor:
        """Map an unconstrained value to the constrained one."""
        return transform_to(self.constraint)(value)

    @property
    def positive(self) -> bool:
        """Whether it is the exponential of what the optimiser moves."""
        kind = self.constraint
        return type(kind) is constraints.greater_than and float(kind.lower_bound) == 0.0

    def active(self) -> Tensor:
        """Say which entries of the flat unconstrained tensor move the constrained one."""
        elementwise = transform_to(self.constraint).domain.event_dim == 0
        ones = torch.ones(self.tensor.numel(), dtype=torch.bool)
        return ones if elementwise else self.jacobian().any(0)

    def jacobian(self) -> Tensor:
        """Return the derivative of the constrained value, `(constrained, unconstrained)`, flat."""
        value = self.tensor.detach().double()
        jacobian = torch.autograd.functional.jacobian(self.constrained, value)
        assert isinstance(jacobian, Tensor)
        return jacobian.reshape(-1, value.numel())


class Prior(NamedTuple):
    """A prior that stood on a parameter."""

    module: PyroModule
    name: str
    density: TorchDistribution


def free_parameters(model: StateSpaceModel) -> list[Free]:
    """Return every parameter that requires a gradient, tied ones once."""
    known = {
        id(getattr(module, f"{name}_unconstrained")): constraint
        for module in model.modules()
        if isinstance(module, PyroModule)
        for name, (constraint, _) in module._pyro_params.items()
    }
    return [
        Free(name.removesuffix("_unconstrained"), p, known.get(id(p), constraints.real))
        for name, p in model.named_parameters()
        if p.requires_grad
    ]


def readable_parameters(model: StateSpaceModel) -> dict[str, Readable]:
    """Return what a model shows in the place of parameters, by the names of those."""
    return dict(model.readable()) if isinstance(model, HasReadableParameters) else {}


def free_count(model: StateSpaceModel) -> int:
    """Return how many numbers are learnt: not those that constraints or conventions tie down."""
    shown = readable_parameters(model)
    counts = [
        shown[free.name].count if free.name in shown else int(free.active().sum())
        for free in free_parameters(model)
    ]
    sizes = [free.tensor.numel() for free in free_parameters(model)]
    return sum(s if c is None else c for c, s in zip(counts, sizes, strict=True))


def priors_of(model: StateSpaceModel) -> list[Prior]:
    """Return every prior of the model, also of what an earlier learning has put in its place."""
    return [*_priors(model), *_replaced(model)]


def replace_priors(model: StateSpaceModel) -> list[Prior]:
    """Turn every `PyroSample` into a `PyroParam` that starts at the prior's centre.

    The module remembers the prior as long as that parameter stands, so that a model that is
    learnt again is learnt under the same priors.
    """
    kept, fresh = _replaced(model), list(_priors(model))
    for module, name, density in fresh:
        support: Any = density.support
        setattr(module, name, PyroParam(_centre(density), support, density.event_dim))
        parameter = module.get_parameter(f"{name}_unconstrained")
        _memory(module)[name] = (density, parameter)
    return [*fresh, *kept]


def restore_priors(model: StateSpaceModel) -> None:
    """Put the priors back that an earlier learning has replaced by what it found."""
    for module, name, density in _replaced(model):
        del _memory(module)[name]
        setattr(module, name, PyroSample(density))


@checked
@dataclass
class Objective:
    """`-(log p(y) + log prior) / count` as a function of one vector; remembers its best point.

    Attributes:
        count: Number of observed entries of `y`.
        best: Where the highest finite value was, and that value.
    """

    model: StateSpaceModel
    series: Series
    inference: InferenceMethod
    priors: list[Prior] = field(default_factory=list)
    evaluations: int = 0

    def __post_init__(self) -> None:
        self.free = free_parameters(self.model)
        self.count = max(1, int((~self.series.y.isnan()).sum()))
        self.best: tuple[Vector, float] = (self.vector(), np.inf)

    def vector(self) -> Vector:
        """Return the present parameters."""
        parts = [free.tensor.detach().reshape(-1) for free in self.free]
        return torch.cat(parts).double().cpu().numpy() if parts else np.zeros(0)

    def active(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Say which entries of the vector matter: not those above the diagonal of a factor."""
        columns = [free.active() for free in self.free]
        return torch.cat(columns).numpy() if columns else np.zeros(0, dtype=bool)

    def assign(self, vector: Vector) -> None:
        """Move the model to a vector."""
        start = 0
        with torch.no_grad():
            for free in self.free:
                stop = start + free.tensor.numel()
                values = torch.from_numpy(np.array(vector[start:stop]))
                free.tensor.copy_(values.reshape(free.tensor.shape))
                start = stop

    def log_likelihood(self) -> Tensor:
        """Return `log p(y)`, summed over everything, at the present parameters."""
        return self.inference.log_likelihood(self.model, self.series).sum()

    def steps(self, vector: Vector) -> Vector:
        """Return the log-likelihood of every step of every series at a vector, flat."""
        self.assign(vector)
        self.evaluations += 1
        with torch.no_grad():
            value = self.inference.log_likelihood(self.model, self.series)
        return value.double().reshape(-1).cpu().numpy()

    def value(self, vector: Vector) -> float:
        """Return the negative log-density at a vector, summed, infinite where it has none."""
        self.evaluations += 1
        try:
            self.assign(vector)
            with torch.no_grad():
                value = -float(self.log_likelihood() + self.log_prior())
        except (ValueError, ArithmeticError, RuntimeError):
            return np.inf
        return value if np.isfinite(value) else np.inf

    def log_prior(self) -> Tensor:
        """Return the log prior density of the constrained parameters that have a prior."""
        total = self.series.y.new_zeros(())
        for module, name, density in self.priors:
            total = total + density.log_prob(getattr(module, name)).sum()
        return total

    def gradient(self, vector: Vector) -> tuple[float, Vector]:
        """Return value and gradient, infinite and zero where the likelihood is not finite."""
        self.assign(vector)
        self.evaluations += 1
        tensors = [free.tensor for free in self.free]
        with torch.enable_grad():
            value = -(self.log_likelihood() + self.log_prior()) / self.count
        if not value.requires_grad:
            raise not_differentiable(self.inference, "the parameters")
        slopes = torch.autograd.grad(value, tensors, allow_unused=True)
        parts = [
            torch.zeros_like(p) if slope is None else slope
            for p, slope in zip(tensors, slopes, strict=True)
        ]
        flat = torch.cat([part.reshape(-1) for part in parts]).double().cpu().numpy()
        if not (np.isfinite(value.item()) and np.isfinite(flat).all()):
            return np.inf, np.zeros_like(flat)
        if value.item() < self.best[1]:
            self.best = (np.array(vector), value.item())
        return value.item(), flat

    def flatness(self) -> float:
        """Return the gradient per observation below which a search has converged.

        Parameters in float32 stand on a grid, between whose points the gradient jumps.
        """
        finest = max((torch.finfo(free.tensor.dtype).eps for free in self.free), default=0.0)
        return max(1e-4, 1e4 * finest)

    def guarded(self, vector: Vector) -> tuple[float, Vector]:
        """Return value and gradient, with a wall that leads back where either is not finite."""
        try:
            value, slope = self.gradient(vector)
        except (ValueError, ArithmeticError, RuntimeError):
            value, slope = np.inf, np.zeros_like(vector)
        if np.isfinite(value):
            return value, slope
        back = vector - self.best[0]
        return self.best[1] + 1.0 + 1e3 * float(back @ back), 2e3 * back


def require_reached(objective: Objective, at: Vector) -> None:
    """Raise if the likelihood depends on a parameter to which no gradient flows.

    Args:
        objective: What is to be climbed.
        at: Where it starts.

    Raises:
        ValueError: a central difference differs from a gradient that is exactly zero.
    """
    _, slope = objective.gradient(at)
    start, here = 0, objective.value(at)
    for free in objective.free:
        stop = start + free.tensor.numel()
        if not slope[start:stop].any() and here == objective.value(at):
            shift = np.zeros_like(at)
            shift[start:stop] = 1e-3
            above, below = objective.value(at + shift), objective.value(at - shift)
            if abs(above - below) > 1e-9 * (1.0 + abs(here)):
                objective.assign(at)
                raise not_differentiable(objective.inference, f"`{free.name}`")
        start = stop
    objective.assign(at)


def not_differentiable(inference: InferenceMethod, what: str) -> ValueError:
    """Return the error for a likelihood through which no gradient flows, with other ways."""
    name = type(inference).__name__
    others = [f"`{n}()`" for n in ("Kalman", "Unscented", "Extended") if n != name]
    return ValueError(
        f"`inference`: the log-likelihood of {name} does not depend differentiably on {what}. Use "
        f"{' or '.join(others)} where the model allows it, or learn with `SVI()` or "
        "`ParticleMetropolis()`. Is something detached, drawn by `sample()`, or computed outside "
        "of torch, in the model or the method?"
    )


def _memory(module: PyroModule) -> dict[str, tuple[TorchDistribution, torch.nn.Parameter]]:
    own: dict[str, Any] = module.__dict__  # type: ignore[assignment]
    return own.setdefault(_REPLACED, {})


def _replaced(model: StateSpaceModel) -> list[Prior]:
    """Return the priors that stood where parameters stand now, unless the user has set others."""
    found = []
    for module in model.modules():
        if not isinstance(module, PyroModule):
            continue
        for name, (density, parameter) in _memory(module).items():
            stands = module._parameters.get(f"{name}_unconstrained") is parameter
            if stands and parameter.requires_grad:
                found.append(Prior(module, name, density))
    return found


def _priors(model: StateSpaceModel) -> Iterator[Prior]:
    for module in model.modules():
        if isinstance(module, PyroModule):
            for name, prior in list(module.__dict__["_pyro_samples"].items()):
                if not isinstance(prior, Distribution):
                    raise ValueError(
                        f"The prior of `{name}` is a function, perhaps of other parameters, which "
                        "is not supported. Give it a distribution, or write a Pyro program with "
                        "`ObservationDistribution`."
                    )
                yield Prior(module, name, prior)


def _centre(density: TorchDistribution) -> Tensor:
    """Return the mean of a prior where it has one inside its support, else the median of draws."""
    try:
        centre = density.mean
    except NotImplementedError:
        centre = torch.full((), torch.nan)
    support: Any = density.support
    if bool(torch.isfinite(centre).all()) and bool(support.check(centre).all()):
        return centre.detach().clone()
    return density.sample(torch.Size([1001])).median(0).values
