"""Trends and seasons, to be added with `+`; each alone is a model too."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import constraints

from ...core.arguments import checked
from ...core.model import GaussianInitial
from .model import Component, Value


@checked
class LocalLevel(Component):
    r"""A level that walks at random.

    .. math:: \mu_t = \mu_{t-1} + \eta_t, \quad \eta_t \sim N(0, \sigma_\eta^2)

    Args:
        level_variance: Fixed variance of the steps (unit of `y` squared, per step), or `None` to
            learn it.
        noise_variance: Fixed variance of the observation noise, or `None` to learn it.
        series_shape: Batch shape of learnt parameters; `()` shares them over all series.
        name: What the component is called in a sum.

    Source: Durbin & Koopman (2012), section 2.1.
    """

    def __init__(
        self,
        level_variance: Value = None,
        *,
        noise_variance: Value = None,
        series_shape: tuple[int, ...] = (),
        name: str = "level",
    ) -> None:
        super().__init__(name, ("level",), [1.0], noise_variance, series_shape)
        self.free("level_variance", level_variance, constraints.nonnegative)

    def dynamics(self) -> tuple[Tensor, Tensor]:
        """Return the identity and the variance of the steps."""
        return torch.ones_like(self.row)[None, None], diagonal(self.level_variance)

    def starting_values(self, scale: Tensor) -> dict[str, Tensor]:
        """Return a share of the variance of the changes."""
        return {"level_variance": 0.1 * scale}


@checked
class LocalLinearTrend(Component):
    r"""A level whose slope walks at random.

    .. math:: \mu_t = \mu_{t-1} + \nu_{t-1} + \eta_t, \quad \nu_t = \nu_{t-1} + \zeta_t

    `level_variance=0` gives a smooth trend, `slope_variance=0` a fixed slope.

    Args:
        level_variance: Fixed variance of `eta` (unit of `y` squared, per step), or `None`.
        slope_variance: Fixed variance of `zeta` (unit of `y` per step, squared), or `None`.
        noise_variance: Fixed variance of the observation noise, or `None` to learn it.
        series_shape: Batch shape of learnt parameters; `()` shares them over all series.
        name: What the component is called in a sum.

    Source: Durbin & Koopman (2012), section 3.2.1.
    """

    def __init__(
        self,
        level_variance: Value = None,
        slope_variance: Value = None,
        *,
        noise_variance: Value = None,
        series_shape: tuple[int, ...] = (),
        name: str = "trend",
    ) -> None:
        super().__init__(name, ("level", "slope"), [1.0, 0.0], noise_variance, series_shape)
        self.free("level_variance", level_variance, constraints.nonnegative)
        self.free("slope_variance", slope_variance, constraints.nonnegative)

    def dynamics(self) -> tuple[Tensor, Tensor]:
        """Return the double integrator and both variances."""
        A = self.row.new_tensor([[1.0, 1.0], [0.0, 1.0]])
        return A[None], diagonal(self.level_variance, self.slope_variance)

    def starting_values(self, scale: Tensor) -> dict[str, Tensor]:
        """Return shares of the variance of the changes."""
        return {"level_variance": 0.1 * scale, "slope_variance": 1e-3 * scale}


@checked
class DampedTrend(LocalLinearTrend):
    r"""A level whose slope returns to zero.

    .. math:: \mu_t = \mu_{t-1} + \nu_{t-1} + \eta_t, \quad \nu_t = \phi \nu_{t-1} + \zeta_t

    The level starts diffuse and the slope in its stationary distribution.

    Args:
        level_variance: Fixed variance of `eta` (unit of `y` squared, per step), or `None`.
        slope_variance: Fixed variance of `zeta` (unit of `y` per step, squared), or `None`.
        damping: Fixed `phi` in (0, 1), or `None` to learn it.
        noise_variance: Fixed variance of the observation noise, or `None` to learn it.
        series_shape: Batch shape of learnt parameters; `()` shares them over all series.
        name: What the component is called in a sum.

    Source: Gardner & McKenzie (1985), Management Science 31, 1237-1246.
    """

    def __init__(
        self,
        level_variance: Value = None,
        slope_variance: Value = None,
        damping: Value = None,
        *,
        noise_variance: Value = None,
        series_shape: tuple[int, ...] = (),
        name: str = "trend",
    ) -> None:
        super().__init__(
            level_variance,
            slope_variance,
            noise_variance=noise_variance,
            series_shape=series_shape,
            name=name,
        )
        start = torch.tensor(0.9, dtype=torch.float64)
        self.free("damping", damping, constraints.interval(0.0, 1.0), start=start)

    def dynamics(self) -> tuple[Tensor, Tensor]:
        """Return the damped integrator and both variances."""
        eye = self.row.new_tensor([[1.0, 1.0], [0.0, 0.0]])
        corner = self.row.new_tensor([[0.0, 0.0], [0.0, 1.0]])
        A = eye + self.damping[..., None, None, None] * corner
        return A, diagonal(self.level_variance, self.slope_variance)

    def start(self) -> GaussianInitial:
        """Return a flat level and a stationary slope."""
        variance = self.slope_variance / (1 - self.damping.square())
        cov = torch.diag_embed(torch.stack([torch.zeros_like(variance), variance], -1))
        return GaussianInitial(self.row.new_zeros(2), cov, self.row.new_tensor([[1.0], [0.0]]))


@checked
class Seasonal(Component):
    r"""A season of any period as a sum of stochastic harmonics.

    .. math:: \gamma_t = \sum_{j=1}^h \gamma_{j,t}, \quad
        \begin{pmatrix} \gamma_{j,t} \\ \gamma^*_{j,t} \end{pmatrix} =
        \begin{pmatrix} \cos \lambda_j & \sin \lambda_j \\
        -\sin \lambda_j & \cos \lambda_j \end{pmatrix}
        \begin{pmatrix} \gamma_{j,t-1} \\ \gamma^*_{j,t-1} \end{pmatrix} + \omega_{j,t},
        \quad \lambda_j = 2 \pi j / s

    Args:
        period: `s`, in steps, not necessarily whole: 365.25 / 7 for weekly data.
        harmonics: `h`, at most and by default half the period; few give a smooth season and
            a small state.
        variance: Fixed variance of each `omega` (unit of `y` squared, per step), or `None`.
        noise_variance: Fixed variance of the observation noise, or `None` to learn it.
        series_shape: Batch shape of learnt parameters; `()` shares them over all series.
        name: What the component is called in a sum.

    Raises:
        ValueError: `period` is below 2, or `harmonics` is not between 1 and half the period.

    Source: Durbin & Koopman (2012), section 3.2.2; Harvey (1989), section 2.3.4.
    """

    def __init__(
        self,
        period: float,
        harmonics: int | None = None,
        variance: Value = None,
        *,
        noise_variance: Value = None,
        series_shape: tuple[int, ...] = (),
        name: str = "seasonal",
    ) -> None:
        if not (math.isfinite(period) and period >= 2):
            raise ValueError(f"`period` must be at least 2 steps, got {period}.")
        count = math.floor(period / 2) if harmonics is None else harmonics
        if not 1 <= count <= period / 2:
            raise ValueError(
                f"`harmonics` must be between 1 and {math.floor(period / 2)}, half the period of "
                f"{period:g} steps, got {harmonics}."
            )
        nyquist = 2 * count == period
        pairs = [f"{kind}{j}" for j in range(1, count + 1) for kind in ("cos", "sin")]
        names = tuple(pairs[:-1] if nyquist else pairs)
        row = [1.0 if state.startswith("cos") else 0.0 for state in names]
        super().__init__(name, names, row, noise_variance, series_shape)
        self.free("variance", variance, constraints.nonnegative)
        rotation = _rotations(2 * math.pi * torch.arange(1, count + 1).double() / period)
        size = self.state_dim
        self.register_buffer("rotation", rotation[None, :size, :size], persistent=False)

    def dynamics(self) -> tuple[Tensor, Tensor]:
        """Return the rotations and one variance for all harmonics."""
        return self.rotation, diagonal(self.variance, size=self.state_dim)

    def starting_values(self, scale: Tensor) -> dict[str, Tensor]:
        """Return a share of the variance of the changes."""
        return {"variance": 1e-3 * scale}


@checked
class DummySeasonal(Component):
    r"""A season of whole period whose effects add up to noise over one period.

    .. math:: \gamma_t = -\sum_{j=1}^{s-1} \gamma_{t-j} + \omega_t

    Args:
        period: `s`, a whole number of steps, at least 2.
        variance: Fixed variance of `omega` (unit of `y` squared, per step), or `None`.
        noise_variance: Fixed variance of the observation noise, or `None` to learn it.
        series_shape: Batch shape of learnt parameters; `()` shares them over all series.
        name: What the component is called in a sum.

    Raises:
        ValueError: `period` is below 2 or not whole.

    Source: Durbin & Koopman (2012), section 3.2.2.
    """

    def __init__(
        self,
        period: int,
        variance: Value = None,
        *,
        noise_variance: Value = None,
        series_shape: tuple[int, ...] = (),
        name: str = "seasonal",
    ) -> None:
        if period != int(period) or period < 2:
            raise ValueError(
                f"`period` must be a whole number of at least 2 steps, got {period}. "
                "`Seasonal` takes any period."
            )
        size = int(period) - 1
        names = tuple(f"effect{i}" for i in range(size))
        super().__init__(name, names, [1.0] + [0.0] * (size - 1), noise_variance, series_shape)
        self.free("variance", variance, constraints.nonnegative)

    def dynamics(self) -> tuple[Tensor, Tensor]:
        """Return the shift of the effects; noise enters the newest."""
        A = torch.diag_embed(self.row.new_ones(self.state_dim - 1), -1)
        A = A - torch.outer(self.row, torch.ones_like(self.row))
        return A[None], diagonal(self.variance, size=self.state_dim) * torch.diag(self.row)

    def starting_values(self, scale: Tensor) -> dict[str, Tensor]:
        """Return a share of the variance of the changes."""
        return {"variance": 1e-2 * scale}


def diagonal(*variances: Tensor, size: int | None = None) -> Tensor:
    """Return `(*series, 1, n, n)` from variances `(*series)`, or one variance `size` times."""
    stacked = torch.stack(torch.broadcast_tensors(*variances), -1)
    if size is not None:
        stacked = stacked.expand(*stacked.shape[:-1], size)
    return torch.diag_embed(stacked)[..., None, :, :]


def _rotations(angles: Tensor) -> Tensor:
    """Return the rotations by `angles`, `(h,)`, along the diagonal of `(2h, 2h)`."""
    blocks = torch.stack([angles.cos(), angles.sin(), -angles.sin(), angles.cos()], -1)
    return torch.block_diag(*blocks.reshape(-1, 2, 2))
