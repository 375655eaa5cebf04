"""Stationary processes in continuous time: Ornstein-Uhlenbeck, Matern, a damped oscillator."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...core.arguments import checked
from ...core.model import GaussianInitial
from ...core.undefined import undefined
from .closed_forms import equal_decays
from .tracking import ContinuousTime, Value, last_entry


class Stationary(ContinuousTime):
    """A stationary process around zero, with an exact start; subclasses give its covariance.

    The noise of a step is `Q = P - A P A'`, with `P` the stationary covariance.
    """

    def stationary_cov(self) -> Tensor:
        """Return `P` of one axis, `(n, n)`."""
        raise undefined(
            self, "stationary_cov(self)", "return the stationary covariance of one axis, `(n, n)`"
        )

    def diffusion(self) -> Tensor:
        """Return `-(F P + P F')`, which keeps `P` stationary."""
        F, P = self.drift(), self.stationary_cov()
        return -(F @ P + P @ F.mT)

    def start(self) -> GaussianInitial:
        """Return the stationary distribution."""
        P = self.stationary_cov()
        return GaussianInitial(P.new_zeros(len(P)), P)


@checked
class Matern(Stationary):
    r"""A Gaussian process with a Matern kernel as a state space model: exact, and linear in time.

    .. math:: k(r) = \sigma^2 \frac{2^{1-\nu}}{\Gamma(\nu)}
        (\sqrt{2\nu}\, r / \ell)^\nu K_\nu(\sqrt{2\nu}\, r / \ell)

    Args:
        smoothness: `nu`: paths are 0, 1 or 2 times differentiable for 0.5, 1.5 and 2.5.
        dims: Number of independent axes with the same kernel.
        dt: Step when the data bring none.
        variance: Fixed `sigma^2` (unit of `y` squared), or `None` to learn it.
        length_scale: Fixed `l` (unit of time), or `None` to learn it.
        noise_variance: Fixed variance of the observation noise, or `None` to learn it.

    Raises:
        ValueError: `smoothness` is not 0.5, 1.5 or 2.5.

    Source: Hartikainen & Särkkä (2010), IEEE MLSP; Särkkä & Solin (2019), section 12.3.
    """

    closed_form = True

    def __init__(
        self,
        smoothness: float = 1.5,
        dims: int = 1,
        dt: float | None = None,
        *,
        variance: Value = None,
        length_scale: Value = None,
        noise_variance: Value = None,
    ) -> None:
        if smoothness not in (0.5, 1.5, 2.5):
            raise ValueError(f"`smoothness` must be 0.5, 1.5 or 2.5, got {smoothness}.")
        self.smoothness = smoothness
        names = ("value", "slope", "curvature")[: round(smoothness + 0.5)]
        super().__init__(names, dims, dt, noise_variance)
        self.free("variance", variance)
        self.free("length_scale", length_scale)

    def drift(self) -> Tensor:
        """Return the companion matrix of `(s + lambda)^n`, `lambda = sqrt(2 nu) / l`."""
        rate, n = self._rate(), len(self.names)
        row = torch.stack([-math.comb(n, i) * rate ** (n - i) for i in range(n)])
        shift = torch.diag(rate.new_ones(n - 1), 1)
        return shift + last_entry(n, rate)[:, -1:] * row

    def step(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Return the transition and noise of equal decays; the density keeps the variance."""
        rate, n = self._rate(), len(self.names)
        shift = self.drift() + rate * torch.eye(n, dtype=rate.dtype, device=rate.device)
        scale = math.factorial(n - 1) ** 2 * 2 ** (2 * n - 1) / math.factorial(2 * n - 2)
        density = scale * self.variance * rate ** (2 * n - 1)
        return equal_decays(shift, rate, density, dt)

    def stationary_cov(self) -> Tensor:
        """Return the covariances of the process and its derivatives, from the kernel at 0."""
        v, square = self.variance, self._rate().square()
        zero = torch.zeros_like(v)
        if self.smoothness == 0.5:
            return v[None, None]
        if self.smoothness == 1.5:
            return torch.diag(torch.stack([v, v * square]))
        k = v * square / 3
        rows = [[v, zero, -k], [zero, k, zero], [-k, zero, v * square.square()]]
        return torch.stack([torch.stack(row) for row in rows])

    def starting_values(self, change: Tensor, spread: Tensor, step: Tensor) -> dict[str, Tensor]:
        """Return the variance of the data and a length of ten steps."""
        return {"variance": spread, "length_scale": 10 * step}

    def _rate(self) -> Tensor:
        return math.sqrt(2 * self.smoothness) / self.length_scale


@checked
class OrnsteinUhlenbeck(Matern):
    r"""A process that returns to zero at a constant rate: the continuous-time AR(1).

    .. math:: dx = -x / \tau\, ds + dw, \quad \text{Cov}(x(s), x(s+r)) = \sigma^2 e^{-r / \tau}

    Args:
        dims: Number of independent axes.
        dt: Step when the data bring none.
        variance: Fixed stationary variance `sigma^2` (unit of `y` squared), or `None`.
        length_scale: Fixed `tau` (unit of time), or `None` to learn it.
        noise_variance: Fixed variance of the observation noise, or `None` to learn it.

    Source: Uhlenbeck & Ornstein (1930), Physical Review 36, 823-841.
    """

    def __init__(
        self,
        dims: int = 1,
        dt: float | None = None,
        *,
        variance: Value = None,
        length_scale: Value = None,
        noise_variance: Value = None,
    ) -> None:
        super().__init__(
            0.5,
            dims,
            dt,
            variance=variance,
            length_scale=length_scale,
            noise_variance=noise_variance,
        )


@checked
class DampedOscillator(Stationary):
    r"""A mass on a damped spring, shaken by white forces.

    .. math:: \ddot{x} = -\omega^2 x - 2 \zeta \omega \dot{x} + w, \quad
        \omega = 2 \pi / \text{period}, \quad \text{Var}(x) = \sigma^2

    Args:
        dims: Number of independent axes.
        dt: Step when the data bring none.
        period: Fixed period of the undamped motion (unit of time), or `None` to learn it.
        damping: Fixed `zeta`, 1 being critical, or `None` to learn it.
        variance: Fixed stationary variance of the position (unit of `y` squared), or `None`.
        noise_variance: Fixed variance of the observation noise, or `None` to learn it.

    Source: Särkkä & Solin (2019), example 3.1; Foreman-Mackey et al. (2017), AJ 154, 220.
    """

    def __init__(
        self,
        dims: int = 1,
        dt: float | None = None,
        *,
        period: Value = None,
        damping: Value = None,
        variance: Value = None,
        noise_variance: Value = None,
    ) -> None:
        super().__init__(("position", "velocity"), dims, dt, noise_variance)
        self.free("period", period, 10.0)
        self.free("damping", damping, 0.1)
        self.free("variance", variance)

    def drift(self) -> Tensor:
        """Return the spring and its damping."""
        omega = 2 * math.pi / self.period
        row = torch.stack([-omega.square(), -2 * self.damping * omega])
        return torch.stack([row.new_tensor([0.0, 1.0]), row])

    def stationary_cov(self) -> Tensor:
        """Return independent position and velocity, their energies equal."""
        omega = 2 * math.pi / self.period
        return torch.diag(torch.stack([self.variance, self.variance * omega.square()]))

    def starting_values(self, change: Tensor, spread: Tensor, step: Tensor) -> dict[str, Tensor]:
        """Return the variance of the data and the period that fits the size of its changes."""
        ratio = (change / (2 * spread)).clamp(1e-3, 1.0)
        period = 2 * math.pi * step / torch.acos((1 - ratio).clamp(-0.9, 0.99))
        return {"variance": spread, "period": period}
