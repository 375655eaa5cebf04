"""Bodies that manoeuvre: accelerations that last, turns at a known rate."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.arguments import checked
from ...core.model import GaussianInitial, LinearConditional
from .tracking import ContinuousTime, Value, last_entry


@checked
class Singer(ContinuousTime):
    r"""A body whose acceleration is an Ornstein-Uhlenbeck process: a manoeuvring target.

    .. math:: \ddot{x} = a, \quad \dot{a} = -a / \tau + w, \quad \text{Var}(a) = \sigma_a^2

    Position and velocity start flat, the acceleration in its stationary distribution.

    Args:
        dims: Number of axes.
        dt: Step when the data bring none, in seconds, say.
        acceleration_variance: Fixed `sigma_a^2` (m^2/s^4), or `None` to learn it.
        manoeuvre_time: Fixed `tau` (s), how long an acceleration lasts, or `None` to learn it.
        noise_variance: Fixed variance of the observed positions (m^2), or `None` to learn it.

    Source: Singer (1970), IEEE Transactions on Aerospace and Electronic Systems 6, 473-483.
    """

    def __init__(
        self,
        dims: int = 2,
        dt: float | None = None,
        *,
        acceleration_variance: Value = None,
        manoeuvre_time: Value = None,
        noise_variance: Value = None,
    ) -> None:
        super().__init__(("position", "velocity", "acceleration"), dims, dt, noise_variance)
        self.free("acceleration_variance", acceleration_variance)
        self.free("manoeuvre_time", manoeuvre_time)

    def drift(self) -> Tensor:
        """Return two integrators behind a decaying acceleration."""
        corner = last_entry(3, self.manoeuvre_time)
        return torch.diag(corner.new_ones(2), 1) - corner / self.manoeuvre_time

    def diffusion(self) -> Tensor:
        """Return the noise that keeps the variance of the acceleration."""
        density = 2 * self.acceleration_variance / self.manoeuvre_time
        return density * last_entry(3, density)

    def start(self) -> GaussianInitial:
        """Return flat position and velocity, stationary acceleration."""
        corner = last_entry(3, self.acceleration_variance)
        eye = torch.eye(3, dtype=corner.dtype, device=corner.device)
        return GaussianInitial(corner[0], self.acceleration_variance * corner, eye[:, :2])

    def starting_values(self, change: Tensor, spread: Tensor, step: Tensor) -> dict[str, Tensor]:
        """Return accelerations of the size of the changes that last ten steps."""
        return {"acceleration_variance": 0.1 * change / step**4, "manoeuvre_time": 10 * step}


@checked
class CoordinatedTurn(ContinuousTime):
    r"""A body in the plane that turns at a known rate.

    .. math:: \ddot{x} = -\omega \dot{y} + w_x, \quad \ddot{y} = \omega \dot{x} + w_y

    Args:
        rate: `omega`, in radians per time unit, positive counterclockwise; 0 is a straight line.
            An `nn.Parameter` is learnt.
        dt: Step when the data bring none, in seconds, say.
        diffusion: Fixed spectral density of `w` (m^2/s^3), or `None` to learn it.
        noise_variance: Fixed variance of the observed positions (m^2), or `None` to learn it.

    Source: Bar-Shalom, Li & Kirubarajan (2001), section 11.7.1.
    """

    def __init__(
        self,
        rate: float | Tensor,
        dt: float | None = None,
        *,
        diffusion: Value = None,
        noise_variance: Value = None,
    ) -> None:
        names = ("position_0", "velocity_0", "position_1", "velocity_1")
        super().__init__(names, 1, dt, noise_variance)
        self.obs_dim, self.rate = 2, rate
        self.free("spectral_density", diffusion)

    def drift(self) -> Tensor:
        """Return both axes, coupled through their velocities."""
        F = self.spectral_density.new_zeros(4, 4)
        F[0, 1] = F[2, 3] = 1.0
        F[1, 3], F[3, 1] = -self.rate, self.rate
        return F

    def diffusion(self) -> Tensor:
        """Return noise on both velocities."""
        return torch.diag(self.spectral_density.new_tensor([0.0, 1.0, 0.0, 1.0])) * (
            self.spectral_density
        )

    def starting_values(self, change: Tensor, spread: Tensor, step: Tensor) -> dict[str, Tensor]:
        """Return the density that explains a tenth of the changes over one step."""
        return {"spectral_density": 0.1 * change / step**3}

    def _emission_part(self, u: Tensor | None) -> LinearConditional:
        C = self.noise_variance.new_zeros(1, 2, 4)
        C[0, 0, 0] = C[0, 1, 2] = 1.0
        R = self.noise_variance * torch.eye(2, dtype=C.dtype, device=C.device)
        return LinearConditional(C, C.new_zeros(1, 2), R[None])
