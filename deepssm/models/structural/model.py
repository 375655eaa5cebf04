"""Structural time series: a series as the sum of a trend, seasons, cycles and regressions."""

from __future__ import annotations

import copy

import torch
from pyro.nn import PyroParam
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional

from ...core.arguments import checked
from ...core.model import GaussianInitial, LinearConditional, LinearParameters, Series
from ...core.results import Smoothed
from ...core.undefined import undefined
from ..gaussian.linear_model import LinearModel, block_diagonal
from .decomposition import Decomposition

Value = float | Tensor | None


class Structural(LinearModel):
    r"""A scalar series as a sum of components and white noise; build one with `+`.

    .. math:: y_t = \sum_i c_{i,t}' z_{i,t} + v_t, \quad v_t \sim N(0, \sigma^2)

    A step is one row of `y`; a gap is a row of NaN, and `dt` is not used. Variances are in the
    unit of `y` squared, per step. `a + b` is a new model with copies of both, one noise variance
    and parameters under the components' names: `model.level.level_variance`. Series in a batch
    share the parameters, unless components were made with `series_shape`, one set a series.

    Attributes:
        noise_variance: `(*series)`, variance of `v`, learnt unless it was given.

    Source: Harvey (1989), Forecasting, Structural Time Series Models and the Kalman Filter;
        Durbin & Koopman (2012), chapter 3.
    """

    obs_dim = 1
    reads_time = False

    @property
    def parts(self) -> dict[str, Component]:
        """The components by name."""
        raise undefined(self, "parts(self)", "return the components by name, as a property")

    def __add__(self, other: Structural) -> Structural:
        """Return the model whose signal is the sum of both signals.

        Raises:
            ValueError: both sides fix the variance of the noise.
        """
        if not isinstance(other, Structural):
            return NotImplemented
        return Sum(self, other)

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names such as `level`, or `trend.slope` in a sum."""
        parts = self.parts
        return tuple(
            f"{name}.{state}" if len(parts) > 1 and state != name else state
            for name, part in parts.items()
            for state in part.names
        )

    def derived(self) -> dict[str, Tensor]:
        """Return what follows from the learnt parameters of the components, by name."""
        parts = self.parts
        return {
            f"{name}.{key}" if len(parts) > 1 else key: value
            for name, part in parts.items()
            for key, value in part.follows().items()
        }

    def linear_parameters(
        self, u: Tensor | None = None, dt: Tensor | None = None
    ) -> LinearParameters:
        """Return the matrices of all components, block by block."""
        parts = list(self.parts.values())
        matrices, covs = zip(*(part.dynamics() for part in parts), strict=True)
        noise = self.noise_variance[..., None, None, None]
        zeros = noise.new_zeros(1, self.state_dim)
        return LinearParameters(
            _stack_starts([part.start() for part in parts]),
            LinearConditional(block_diagonal([*matrices]), zeros, block_diagonal([*covs])),
            LinearConditional(self._design(u), zeros[:, :1], noise),
        )

    def components(self, smoothed: Smoothed, u: Tensor | None = None) -> Decomposition:
        """Split smoothed states into the components' contributions to `y`.

        Args:
            smoothed: What `ds.smooth` returned for this model.
            u: The inputs it was smoothed with, `(*batch, time, input)`, if there are regressions.
        """
        means, variances, start = [], [], 0
        open_ = not bool(smoothed.cov.isfinite().all())
        for part, inputs in self._with_inputs(u):
            rows = slice(start, start + part.state_dim)
            design = part.design(inputs)
            means.append((design * smoothed.mean[..., rows]).sum(-1))
            row = design[..., None, :]
            if open_:
                after = self.state_dim - start - part.state_dim
                found = smoothed.image_cov(functional.pad(row, (start, after)))
            else:
                found = row @ smoothed.cov[..., rows, rows] @ row.mT
            variances.append(found[..., 0, 0])
            start += part.state_dim
        names = tuple(self.parts)
        result = Decomposition(torch.stack(means, -1), torch.stack(variances, -1))
        return result.labelled(smoothed.index, names)

    def initialize_from(self, series: Series) -> None:
        """Start the learnt parameters at the scale of the data."""
        scale = _scale_of(series.y[..., 0], self.noise_variance.ndim)
        _start_at(self, "noise_variance", 0.4 * scale)
        for part in self.parts.values():
            for name, value in part.starting_values(scale).items():
                _start_at(part, name, value)

    def _start(self) -> GaussianInitial:
        return _stack_starts([part.start() for part in self.parts.values()])

    def _design(self, u: Tensor | None) -> Tensor:
        rows = [part.design(inputs) for part, inputs in self._with_inputs(u)]
        axes = torch.broadcast_shapes(*(row.shape[:-1] for row in rows))
        return torch.cat([row.expand(*axes, -1) for row in rows], -1)[..., None, :]

    def _with_inputs(self, u: Tensor | None) -> list[tuple[Component, Tensor | None]]:
        pairs, start = [], 0
        for part in self.parts.values():
            stop = start + part.input_dim
            pairs.append((part, u[..., start:stop] if u is not None else None))
            start = stop
        return pairs


class Sum(Structural):
    """Several components and one noise: what `+` returns."""

    def __init__(self, left: Structural, right: Structural) -> None:
        super().__init__()
        self._part_names: tuple[str, ...] = ()
        for part in (*left.parts.values(), *right.parts.values()):
            self._adopt(part)
        self.state_dim = sum(part.state_dim for part in self.parts.values())
        self.input_dim = sum(part.input_dim for part in self.parts.values())
        named = [name for part in self.parts.values() for name in part.input_names]
        self.input_names = tuple(named) if len(named) == self.input_dim else ()
        self._join_noise(left, right)

    @property
    def parts(self) -> dict[str, Component]:
        """The components by name, in the order of the states."""
        return {name: getattr(self, name) for name in self._part_names}

    def _adopt(self, part: Component) -> None:
        name, number = part.name, 2
        while name in self._part_names:
            name, number = f"{part.name}_{number}", number + 1
        own = copy.deepcopy(part)
        if "noise_variance" in own._buffers or "noise_variance" in own._pyro_params:
            del own.noise_variance
        setattr(self, name, own)
        self._part_names = (*self._part_names, name)

    def _join_noise(self, left: Structural, right: Structural) -> None:
        given = [side for side in (left, right) if "noise_variance" in side._buffers]
        if len(given) == 2:
            raise ValueError(
                "`noise_variance` is fixed on both sides of `+`, but a sum has one noise. Give it "
                "to one of them."
            )
        if given:
            self.register_buffer("noise_variance", given[0].noise_variance.clone())
            return
        start = torch.broadcast_tensors(left.noise_variance, right.noise_variance)[0]
        self.noise_variance = PyroParam(start.detach().clone(), constraints.positive)


@checked
class Component(Structural):
    """One component, which with its own noise is already a model; subclasses say what it is.

    Args:
        name: What the component is called in a sum, a valid Python name.
        names: Names of its states.
        row: How the states enter `y`, one number a state.
        noise_variance: Fixed variance of the observation noise, or `None` to learn it.
        series_shape: Batch shape of the learnt parameters, `()` to share them over all series.
    """

    def __init__(
        self,
        name: str,
        names: tuple[str, ...],
        row: list[float],
        noise_variance: Value,
        series_shape: tuple[int, ...],
    ) -> None:
        super().__init__()
        if not name.isidentifier():
            raise ValueError(
                f"`name` must be a Python name such as `weekly`, got {name!r}: it becomes an "
                "attribute of the sum."
            )
        self.name, self.names, self.state_dim = name, names, len(names)
        self.series_shape = series_shape
        self.register_buffer("row", torch.tensor(row, dtype=torch.float64), persistent=False)
        self.free("noise_variance", noise_variance, constraints.nonnegative)

    @property
    def parts(self) -> dict[str, Component]:
        """The component itself, under its name."""
        return {self.name: self}

    def dynamics(self) -> tuple[Tensor, Tensor]:
        """Return `A` and `Q`, `(*series, 1, state, state)`."""
        raise undefined(
            self, "dynamics(self)", "return `A` and `Q`, each `(*series, 1, state, state)`"
        )

    def design(self, u: Tensor | None) -> Tensor:
        """Return how the states enter `y`, `(*batch, time, state)`, `time` 1 when constant."""
        return self.row[None]

    def start(self) -> GaussianInitial:
        """Return the start of `z_1`: flat in every direction unless a subclass says otherwise."""
        zeros, n = self.row.new_zeros(()), self.state_dim
        eye = torch.eye(n, dtype=zeros.dtype, device=zeros.device)
        return GaussianInitial(zeros.expand(n), zeros.expand(n, n), eye)

    def follows(self) -> dict[str, Tensor]:
        """Return numbers that follow from learnt parameters, by name; none by default."""
        return {}

    def starting_values(self, scale: Tensor) -> dict[str, Tensor]:
        """Return where learning starts, `scale` being the variance of the series' changes."""
        raise undefined(
            self,
            "starting_values(self, scale)",
            "return where each free parameter starts, by name",
        )

    def free(
        self,
        name: str,
        value: Value,
        constraint: constraints.Constraint,
        *,
        start: Tensor | None = None,
    ) -> None:
        """Make a parameter learnt (`value=None`) or fixed at `value`.

        Raises:
            ValueError: `value` violates the constraint.
        """
        if value is None:
            initial = torch.ones((), dtype=torch.float64) if start is None else start
            initial = initial.expand((*self.series_shape, *initial.shape)).clone()
            learnt = constraints.positive if constraint is constraints.nonnegative else constraint
            setattr(self, name, PyroParam(initial, learnt))
            return
        fixed = torch.as_tensor(value, dtype=torch.float64)
        if not bool((constraint.check(fixed) & torch.isfinite(fixed)).all()):
            raise ValueError(
                f"`{name}` must be {_in_words(constraint)}, got {value}. Pass `None` to learn it."
            )
        self.register_buffer(name, fixed)


def _in_words(constraint: constraints.Constraint) -> str:
    if constraint is constraints.nonnegative:
        return "a variance: finite and not negative, in the unit of `y` squared"
    low, high = getattr(constraint, "lower_bound", 0.0), getattr(constraint, "upper_bound", None)
    return f"at least {low:g} steps" if high is None else f"between {low:g} and {high:g}"


def _stack_starts(starts: list[GaussianInitial]) -> GaussianInitial:
    cov = block_diagonal([start.cov for start in starts])
    mean = torch.cat([start.mean for start in starts]).expand(cov.shape[:-1])
    columns, before, total = [], 0, cov.shape[-1]
    for _, part, diffuse in starts:
        size = part.shape[-1]
        if diffuse is not None:
            columns.append(functional.pad(diffuse, (0, 0, before, total - before - size)))
        before += size
    return GaussianInitial(mean, cov, torch.cat(columns, -1) if columns else None)


def _scale_of(y: Tensor, axes: int) -> Tensor:
    """Return the variance of the changes of `y`, `(*batch, time)`, pooled over shared series."""
    pooled = (*range(y.ndim - 1 - axes), -1)
    scale = (y[..., 1:] - y[..., :-1]).square().nanmean(pooled)
    spread = (y - y.nanmean(-1, keepdim=True)).square().nanmean(pooled)
    scale = torch.where(scale > 0, scale, spread)
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def _start_at(module: Structural, name: str, value: Tensor) -> None:
    """Set a learnt, not frozen parameter; leave fixed ones and priors alone."""
    if name not in module._pyro_params:  # pyright: ignore[reportPrivateUsage]  # Pyro's only door
        return
    unconstrained = getattr(module, f"{name}_unconstrained")
    if unconstrained.requires_grad:
        setattr(module, name, value.to(unconstrained).expand(unconstrained.shape).clone())
