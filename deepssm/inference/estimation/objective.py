"""The free parameters of a model as one vector, and the log-density to climb."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import Distribution, constraints, transform_to

from ...core.abilities import HasReadableParameters
from ...core.arguments import checked
from ...core.methods import InferenceMethod
from ...core.model import Readable, Series, StateSpaceModel

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
    """Return every `PyroSample` of the model."""
    return list(_priors(model))


def replace_priors(model: StateSpaceModel) -> list[Prior]:
    """Turn every `PyroSample` into a `PyroParam` that starts at the prior's centre."""
    priors = priors_of(model)
    for module, name, density in priors:
        support: Any = density.support
        setattr(module, name, PyroParam(_centre(density), support, density.event_dim))
    return priors


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
        value = -(self.log_likelihood() + self.log_prior()) / self.count
        if not value.requires_grad:
            raise ValueError(
                f"`inference`: the log-likelihood of {type(self.inference).__name__} does not "
                "depend differentiably on the parameters. Use `Kalman()`, `Unscented()` or "
                "another Gaussian filter, or learn with `SVI()`."
            )
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
