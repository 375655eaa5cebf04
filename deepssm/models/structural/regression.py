"""Stationary components and regressions, to be added to a trend with `+`."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import constraints

from ...core.arguments import checked
from ...core.model import GaussianInitial
from ..gaussian.linear_model import solve_stationary
from .model import Component, Value
from .trend_season import diagonal


@checked
class Cycle(Component):
    r"""A damped stochastic cycle, such as the business cycle.

    .. math:: \begin{pmatrix} \psi_t \\ \psi^*_t \end{pmatrix} = \rho
        \begin{pmatrix} \cos \lambda & \sin \lambda \\ -\sin \lambda & \cos \lambda \end{pmatrix}
        \begin{pmatrix} \psi_{t-1} \\ \psi^*_{t-1} \end{pmatrix} + \kappa_t,
        \quad \lambda = 2 \pi / \text{period}

    It starts in its stationary distribution, `N(0, variance / (1 - rho^2))`.

    Args:
        period: Fixed period in steps, or `None` to learn it.
        damping: Fixed `rho` in (0, 1), or `None` to learn it.
        variance: Fixed variance of `kappa` (unit of `y` squared, per step), or `None`.
        bounds: Shortest and longest period to learn, in steps.
        noise_variance: Fixed variance of the observation noise, or `None` to learn it.
        series_shape: Batch shape of learnt parameters; `()` shares them over all series.
        name: What the component is called in a sum.

    Raises:
        ValueError: `period` or `damping` is out of range, or `bounds` are not `2 <= low < high`.

    Source: Harvey (1989), section 2.3.3.
    """

    def __init__(
        self,
        period: Value = None,
        damping: Value = None,
        variance: Value = None,
        *,
        bounds: tuple[float, float] = (2.0, 100.0),
        noise_variance: Value = None,
        series_shape: tuple[int, ...] = (),
        name: str = "cycle",
    ) -> None:
        low, high = bounds
        if not 2 <= low < high < math.inf:
            raise ValueError(f"`bounds` must be two periods, 2 <= low < high, got {bounds}.")
        super().__init__(name, ("cycle", "conjugate"), [1.0, 0.0], noise_variance, series_shape)
        middle = torch.tensor(math.sqrt(low * high), dtype=torch.float64)
        learnt = constraints.interval(low, high)
        self.free(
            "period", period, constraints.greater_than_eq(2.0) if period else learnt, start=middle
        )
        start = torch.tensor(0.9, dtype=torch.float64)
        self.free("damping", damping, constraints.interval(0.0, 1.0), start=start)
        self.free("variance", variance, constraints.nonnegative)

    def dynamics(self) -> tuple[Tensor, Tensor]:
        """Return the damped rotation and its variance."""
        angle = 2 * math.pi / self.period
        cos, sin = self.damping * angle.cos(), self.damping * angle.sin()
        A = torch.stack([cos, sin, -sin, cos], -1).unflatten(-1, (2, 2))
        return A[..., None, :, :], diagonal(self.variance, size=2)

    def start(self) -> GaussianInitial:
        """Return the stationary distribution."""
        variance = self.variance / (1 - self.damping.square())
        return GaussianInitial(self.row.new_zeros(2), diagonal(variance, size=2)[..., 0, :, :])

    def starting_values(self, scale: Tensor) -> dict[str, Tensor]:
        """Return a share of the variance of the changes, the cycle where it was."""
        return {"variance": 0.1 * scale}


@checked
class Autoregressive(Component):
    r"""A stationary autoregression.

    .. math:: x_t = \phi_1 x_{t-1} + \dots + \phi_p x_{t-p} + e_t, \quad e_t \sim N(0, \sigma^2)

    Learnt through its partial autocorrelations, each in (-1, 1), it is always stationary, and
    starts in its stationary distribution.

    Args:
        order: `p`.
        variance: Fixed variance of `e` (unit of `y` squared, per step), or `None` to learn it.
        partial_autocorrelations: Fixed values, `(p,)`, or `None` to learn them.
        noise_variance: Fixed variance of the observation noise, or `None` to learn it.
        series_shape: Batch shape of learnt parameters; `()` shares them over all series.
        name: What the component is called in a sum.

    Raises:
        ValueError: `order` is below 1.

    Source: Barndorff-Nielsen & Schou (1973), Journal of Multivariate Analysis 3; Monahan (1984).
    """

    def __init__(
        self,
        order: int = 1,
        variance: Value = None,
        *,
        partial_autocorrelations: Tensor | None = None,
        noise_variance: Value = None,
        series_shape: tuple[int, ...] = (),
        name: str = "autoregressive",
    ) -> None:
        if order < 1:
            raise ValueError(f"`order` must be at least 1, got {order}.")
        names = ("autoregressive", *(f"lag{i}" for i in range(1, order)))
        super().__init__(name, names, [1.0] + [0.0] * (order - 1), noise_variance, series_shape)
        start = torch.zeros(order, dtype=torch.float64)
        start[0] = 0.5
        self.free(
            "partial_autocorrelations",
            partial_autocorrelations,
            constraints.interval(-1.0, 1.0),
            start=start,
        )
        self.free("variance", variance, constraints.nonnegative)

    @property
    def coefficients(self) -> Tensor:
        """The `phi`, `(*series, p)`, by the Levinson recursion."""
        partial = self.partial_autocorrelations
        phi = partial[..., :1]
        for k in range(1, partial.shape[-1]):
            last = partial[..., k : k + 1]
            phi = torch.cat([phi - last * phi.flip(-1), last], -1)
        return phi

    def dynamics(self) -> tuple[Tensor, Tensor]:
        """Return the companion matrix; noise enters the newest value."""
        phi, p = self.coefficients, self.state_dim
        shift = torch.diag_embed(self.row.new_ones(p - 1), -1)
        A = shift + self.row[:, None] * phi[..., None, :]
        return A[..., None, :, :], diagonal(self.variance, size=p) * torch.diag(self.row)

    def start(self) -> GaussianInitial:
        """Return the stationary distribution."""
        A, Q = self.dynamics()
        cov = solve_stationary(A[..., 0, :, :], Q[..., 0, :, :])
        return GaussianInitial(self.row.new_zeros(self.state_dim), cov)

    def starting_values(self, scale: Tensor) -> dict[str, Tensor]:
        """Return a share of the variance of the changes."""
        return {"variance": 0.3 * scale}

    def follows(self) -> dict[str, Tensor]:
        """Return the coefficients that learnt partial autocorrelations stand for."""
        phi = self.coefficients
        return {"coefficients": phi} if phi.requires_grad else {}


@checked
class Regression(Component):
    r"""Effects of inputs, constant or walking at random; the coefficients are states.

    .. math:: x_t = u_t' \beta_t, \quad \beta_t = \beta_{t-1} + \xi_t

    In a sum, regressions take the columns of `u` in the order in which they were added.

    Args:
        size: Number of inputs `k`.
        drifting: Whether the coefficients move; each then has a variance to learn.
        variance: Fixed variances of `xi`, `()` or `(k,)` (unit of `y` per unit of `u`, squared,
            per step), which makes the coefficients move.
        input_names: Names of the inputs, used for the states; columns of a frame given as `u` are
            taken by them, whatever their order.
        noise_variance: Fixed variance of the observation noise, or `None` to learn it.
        series_shape: Batch shape of learnt parameters; `()` shares them over all series.
        name: What the component is called in a sum.

    Raises:
        ValueError: `size` is below 1 or `input_names` has another length.

    Source: Durbin & Koopman (2012), section 3.2.5; Harvey (1989), section 7.3.
    """

    def __init__(
        self,
        size: int = 1,
        *,
        drifting: bool = False,
        variance: Value = None,
        input_names: tuple[str, ...] | None = None,
        noise_variance: Value = None,
        series_shape: tuple[int, ...] = (),
        name: str = "regression",
    ) -> None:
        if size < 1:
            raise ValueError(f"`size` must be at least 1 input, got {size}.")
        names = tuple(f"beta{i}" for i in range(size)) if input_names is None else input_names
        if len(names) != size:
            raise ValueError(
                f"`input_names` must name the {size} inputs, got {len(names)}: {names}."
            )
        super().__init__(name, tuple(names), [0.0] * size, noise_variance, series_shape)
        self.input_dim, self.input_names = size, tuple(input_names or ())
        still = 0.0 if variance is None and not drifting else variance
        start = torch.ones(size, dtype=torch.float64)
        self.free("variance", still, constraints.nonnegative, start=start)

    def dynamics(self) -> tuple[Tensor, Tensor]:
        """Return the identity and the variances of the drifts."""
        eye = torch.eye(self.state_dim, dtype=self.row.dtype, device=self.row.device)
        variance = self.variance
        if variance.ndim == 0:
            variance = variance.expand(self.state_dim)
        return eye[None], torch.diag_embed(variance)[..., None, :, :]

    def design(self, u: Tensor | None) -> Tensor:
        """Return the inputs themselves."""
        return self.row[None] if u is None else u

    def starting_values(self, scale: Tensor) -> dict[str, Tensor]:
        """Return a share of the variance of the changes, for inputs of unit size."""
        return {"variance": 1e-3 * scale[..., None]}
