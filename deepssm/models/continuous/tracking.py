"""Models in continuous time, observed at any times: `dt` is data."""

from __future__ import annotations

from typing import ClassVar

import torch
from pyro.nn import PyroParam
from torch import Tensor
from torch.distributions import constraints

from ...core.arguments import checked
from ...core.model import GaussianInitial, LinearConditional, LinearParameters, Series
from ...core.undefined import undefined
from ...linear.discretize import van_loan
from ..gaussian.linear_model import LinearModel
from .closed_forms import integrators

Value = float | Tensor | None
_MANY = 1000  # steps beyond which sorting them costs more than a closed form


@checked
class ContinuousTime(LinearModel):
    r"""A linear stochastic differential equation, observed through noise.

    .. math:: dz = F z\, ds + L\, dw, \quad y_t = C z(s_t) + v_t, \quad v_t \sim N(0, R)

    A step of `dt` is exact: `A = exp(F dt)` and `Q` its accumulated noise, computed once per
    distinct `dt`. Subclasses give `F`, `L Qc L'` and the start of one axis; `dims` axes, such as
    east and north, move independently with the same parameters.

    Attributes:
        dims: Number of axes; `obs_dim` equals it.
        dt: Step used when the data bring none, in the time unit of the parameters.
        noise_variance: Variance of the observations of every axis, unit of `y` squared.
        names: States of one axis.

    Source: Särkkä & Solin (2019), Applied Stochastic Differential Equations, chapter 6.
    """

    names: tuple[str, ...]
    closed_form: ClassVar[bool] = False
    """Whether `step` costs so little that looking for equal steps would cost more."""

    def __init__(
        self, names: tuple[str, ...], dims: int, dt: float | None, noise_variance: Value
    ) -> None:
        super().__init__()
        if dims < 1:
            raise ValueError(f"`dims` must be at least 1 axis, got {dims}.")
        if dt is not None and not dt > 0:
            raise ValueError(f"`dt` must be a positive time, got {dt}.")
        self.names, self.dims, self.dt = names, dims, dt
        self.state_dim, self.obs_dim = dims * len(names), dims
        self.free("noise_variance", noise_variance)

    def drift(self) -> Tensor:
        """Return `F` of one axis, `(n, n)`, per time unit."""
        raise undefined(self, "drift(self)", "return `F` of one axis, `(n, n)`, per time unit")

    def diffusion(self) -> Tensor:
        """Return `L Qc L'` of one axis, `(n, n)`, units of `z` squared per time unit."""
        raise undefined(
            self, "diffusion(self)", "return `L Qc L'` of one axis, `(n, n)`, per time unit"
        )

    def start(self) -> GaussianInitial:
        """Return the start of one axis: flat in every direction unless a subclass says else."""
        eye = torch.eye(len(self.names), dtype=self.dtype, device=self.device)
        return GaussianInitial(eye.new_zeros(len(eye)), torch.zeros_like(eye), eye)

    def step(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Return `A` and `Q` of one axis for steps `dt`, `(k,)` to `(k, n, n)`."""
        axes = (len(dt), len(self.names), len(self.names))
        return van_loan(self.drift().expand(axes), self.diffusion().expand(axes), dt)

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names such as `position_0`, axis by axis."""
        if self.dims == 1:
            return self.names
        return tuple(f"{name}_{axis}" for axis in range(self.dims) for name in self.names)

    def linear_parameters(
        self, u: Tensor | None = None, dt: Tensor | None = None
    ) -> LinearParameters:
        """Return the matrices; steps of equal `dt` share one discretization.

        Raises:
            ValueError: neither the data nor the model has a `dt`.
        """
        if dt is not None and dt.ndim and dt.shape[-1]:
            # Entry 0 drives nothing; whatever it holds must not spoil the others' precision.
            dt = torch.cat([dt[..., 1:2] if dt.shape[-1] > 1 else 0 * dt, dt[..., 1:]], -1)
        return LinearParameters(
            self._start(), self._transition_part(u, dt), self._emission_part(u)
        )

    def initialize_from(self, series: Series) -> None:
        """Start the learnt parameters at the scale of the data."""
        y = series.y
        spread = (y - y.nanmean(-2, keepdim=True)).square().nanmean()
        change = (y[..., 1:, :] - y[..., :-1, :]).square().nanmean()
        change = change if bool(change > 0) else spread
        if not bool(change > 0):
            return
        step = torch.ones_like(spread) if self.dt is None else torch.full_like(spread, self.dt)
        if series.dt is not None:
            step = series.dt.expand(y.shape[:-1])[..., 1:].mean()
        starts = {"noise_variance": 0.1 * change} | self.starting_values(change, spread, step)
        for name, value in starts.items():
            if name in self._pyro_params and getattr(self, f"{name}_unconstrained").requires_grad:
                setattr(self, name, value.to(self.dtype))

    def starting_values(self, change: Tensor, spread: Tensor, step: Tensor) -> dict[str, Tensor]:
        """Return where learning starts.

        Args:
            change: Mean square of the change over a step, unit of `y` squared.
            spread: Variance of `y`.
            step: Typical `dt`.
        """
        raise undefined(
            self,
            "starting_values(self, change, spread, step)",
            "return where each free parameter starts, by name",
        )

    def free(self, name: str, value: Value, start: float = 1.0) -> None:
        """Make a positive parameter learnt (`value=None`) or fixed at `value`.

        Raises:
            ValueError: `value` is negative or not finite.
        """
        if value is None:
            initial = torch.tensor(start, dtype=torch.float64)
            setattr(self, name, PyroParam(initial, constraints.positive))
            return
        fixed = torch.as_tensor(value, dtype=torch.float64)
        if fixed.ndim or not bool(torch.isfinite(fixed) & (fixed >= 0)):
            raise ValueError(
                f"`{name}` must be one number, finite and not negative, got {value}. Pass `None` "
                "to learn it."
            )
        self.register_buffer(name, fixed)

    def _steps(self, dt: Tensor | None) -> Tensor:
        if dt is not None:
            return dt.to(self.noise_variance) if dt.ndim else dt.to(self.noise_variance)[None]
        if self.dt is None:
            raise ValueError(
                f"`dt` is missing: {type(self).__name__} runs in continuous time. Pass `dt=` with "
                f"the data (a number or one per step), or build `{type(self).__name__}(dt=...)`."
            )
        return self.noise_variance.new_full((1,), self.dt)

    def _start(self) -> GaussianInitial:
        mean, cov, diffuse = self.start()
        wide = None if diffuse is None else self._per_axis(diffuse)
        return GaussianInitial(mean.repeat(self.dims), self._per_axis(cov), wide)

    def _transition_part(self, u: Tensor | None, dt: Tensor | None) -> LinearConditional:
        """Discretize each distinct step once; equal steps make a constant model."""
        steps = self._steps(dt)
        zeros = steps.new_zeros(1, self.state_dim)
        if steps.numel() and bool((steps == steps.flatten()[0]).all()):
            A, Q = self.step(steps.flatten()[:1])
            return LinearConditional(self._per_axis(A), zeros, self._per_axis(Q))
        if self.closed_form and steps.numel() > _MANY:
            A, Q = (x.unflatten(0, steps.shape) for x in self.step(steps.flatten()))
            return LinearConditional(self._per_axis(A), zeros, self._per_axis(Q))
        distinct, index = torch.unique(steps, return_inverse=True)
        A, Q = self.step(distinct)
        return LinearConditional(self._per_axis(A)[index], zeros, self._per_axis(Q)[index])

    def _emission_part(self, u: Tensor | None) -> LinearConditional:
        row = self.noise_variance.new_zeros(1, len(self.names))
        row[0, 0] = 1.0
        C = self._per_axis(row)
        eye = torch.eye(self.dims, dtype=C.dtype, device=C.device)
        return LinearConditional(
            C[None], C.new_zeros(1, self.dims), self.noise_variance * eye[None]
        )

    def _per_axis(self, matrix: Tensor) -> Tensor:
        """Put `(*axes, r, c)` on the diagonal `dims` times."""
        if self.dims == 1:
            return matrix
        eye = torch.eye(self.dims, dtype=matrix.dtype, device=matrix.device)
        blocks = eye[:, None, :, None] * matrix[..., None, :, None, :]
        rows, columns = matrix.shape[-2:]
        return blocks.reshape(*matrix.shape[:-2], self.dims * rows, self.dims * columns)


@checked
class ConstantVelocity(ContinuousTime):
    r"""A body whose velocity is disturbed by white acceleration.

    .. math:: \ddot{x} = w, \quad w \text{ white with spectral density } q

    Args:
        dims: Number of axes.
        dt: Step when the data bring none, in seconds, say.
        diffusion: Fixed `q` (unit of `y` squared per time cubed: m^2/s^3), or `None` to learn it.
        noise_variance: Fixed variance of the observed positions (m^2), or `None` to learn it.

    Source: Bar-Shalom, Li & Kirubarajan (2001), Estimation with Applications to Tracking, 6.2.2.
    """

    order = 2
    closed_form = True

    def __init__(
        self,
        dims: int = 2,
        dt: float | None = None,
        *,
        diffusion: Value = None,
        noise_variance: Value = None,
    ) -> None:
        names = ("position", "velocity", "acceleration")[: self.order]
        super().__init__(names, dims, dt, noise_variance)
        self.free("spectral_density", diffusion)

    def drift(self) -> Tensor:
        """Return the chain of integrators."""
        return torch.diag(self.spectral_density.new_ones(self.order - 1), 1)

    def diffusion(self) -> Tensor:
        """Return noise on the highest derivative."""
        return self.spectral_density * last_entry(self.order, self.spectral_density)

    def step(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Return powers of `dt`."""
        return integrators(self.order, self.spectral_density, dt)

    def starting_values(self, change: Tensor, spread: Tensor, step: Tensor) -> dict[str, Tensor]:
        """Return the density that explains a tenth of the changes over one step."""
        return {"spectral_density": 0.1 * change / step ** (2 * self.order - 1)}


class ConstantAcceleration(ConstantVelocity):
    r"""A body whose acceleration is disturbed by white jerk.

    .. math:: \dddot{x} = w, \quad w \text{ white with spectral density } q

    Args:
        dims: Number of axes.
        dt: Step when the data bring none, in seconds, say.
        diffusion: Fixed `q` (unit of `y` squared per time to the fifth: m^2/s^5), or `None`.
        noise_variance: Fixed variance of the observed positions (m^2), or `None` to learn it.

    Source: Bar-Shalom, Li & Kirubarajan (2001), section 6.2.3.
    """

    order = 3


def last_entry(n: int, like: Tensor) -> Tensor:
    """Return the `(n, n)` matrix whose only entry is a 1 in the last corner."""
    corner = like.new_zeros(n, n)
    corner[-1, -1] = 1.0
    return corner
