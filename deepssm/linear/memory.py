"""Online function approximation: a state that remembers a signal, and how to read it back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .discretize import Discretization, ZeroOrderHold
from .hippo import legs, legt
from .structure import Dense
from .system import LinearSystem


@dataclass(frozen=True)
class ScaledMemory:
    """Remembers all of the past at one resolution: its best polynomial of degree `order - 1`.

    The state follows `dx/dt = (A x + B u) / t`, which in log-time is time-invariant: exact for
    inputs held between samples, at any times, with `dt = log(t_k / t_{k-1})`.

    Args:
        order: Number of Legendre coefficients.
        rule: How a step in log-time is made; exact by default.

    Source: Gu, Dao, Ermon, Rudra & Re (2020), HiPPO, Theorem 2 and Proposition 3.
    """

    order: int
    rule: Discretization = ZeroOrderHold()

    def remember(self, u: Tensor, times: Tensor | None = None) -> Tensor:
        """Return the coefficients of `u` up to each time, `(*batch, time, order)`.

        Args:
            u: Signal, `(*batch, time)`; `u_k` holds from `t_{k-1}` to `t_k`, `u_0` from 0.
            times: Sample times `t_k`, `(time,)`, positive and growing; `1, 2, ...` when `None`.

        Raises:
            ValueError: `times` is not positive and growing.
        """
        if times is None:
            times = torch.arange(1, u.shape[-1] + 1, dtype=u.dtype, device=u.device)
        if bool((times.diff(prepend=torch.zeros_like(times[:1])) <= 0).any()):
            raise ValueError("`times` must be positive and growing. Sort them and drop repeats.")
        first = torch.nn.functional.pad(u[..., :1], (0, self.order - 1))
        if u.shape[-1] == 1:
            return first[..., None, :]
        hippo = legs(self.order)
        eye = torch.eye(self.order, dtype=u.dtype, device=u.device)
        A, B = hippo.A.to(u), hippo.B.to(u)
        system = LinearSystem(Dense(A), B[:, None], eye, None, self.rule)
        later = system.apply(u[..., 1:, None], first, dt=times.log().diff())
        return torch.cat([first[..., None, :], later], -2)

    def recall(self, coefficients: Tensor, where: Tensor) -> Tensor:
        """Evaluate remembered functions.

        Args:
            coefficients: `(*batch, order)`.
            where: Times as fractions of the present time, in [0, 1], `(points,)`.

        Returns:
            `(*batch, points)`.
        """
        return coefficients @ legendre(self.order, where).to(coefficients)


@dataclass(frozen=True)
class SlidingMemory:
    """Remembers the last `window` of the past in Legendre polynomials (a Legendre delay network).

    Args:
        order: Number of Legendre coefficients.
        window: Length remembered, in time units.
        rule: How a step is made; exact for held inputs by default.

    Source: Voelker, Kajic & Eliasmith (2019), Legendre Memory Units; HiPPO, Theorem 1.
    """

    order: int
    window: float
    rule: Discretization = ZeroOrderHold()

    def remember(self, u: Tensor, dt: Tensor | float = 1.0) -> Tensor:
        """Return the coefficients of `u` up to each time, `(*batch, time, order)`.

        Args:
            u: Signal, `(*batch, time)`, taken as zero before its start.
            dt: Time step, a scalar or `(*batch, time)`.
        """
        hippo = legt(self.order, self.window)
        eye = torch.eye(self.order, dtype=u.dtype, device=u.device)
        A, B = hippo.A.to(u), hippo.B.to(u)
        return LinearSystem(Dense(A), B[:, None], eye, None, self.rule).apply(u[..., None], dt=dt)

    def recall(self, coefficients: Tensor, where: Tensor) -> Tensor:
        """Evaluate remembered functions.

        Args:
            coefficients: `(*batch, order)`.
            where: Places in the window, `(points,)`: 0 is `window` ago and 1 is now.

        Returns:
            `(*batch, points)`.
        """
        return coefficients @ legendre(self.order, where).to(coefficients)


def legendre(order: int, where: Tensor) -> Tensor:
    """Return `sqrt(2n+1) P_n(2 x - 1)`, orthonormal on [0, 1], `(order, points)`.

    Args:
        order: Number of polynomials.
        where: `x`, `(points,)`.
    """
    x = 2 * where - 1
    rows = [torch.ones_like(x), x]
    for n in range(1, order - 1):
        rows.append(((2 * n + 1) * x * rows[n] - n * rows[n - 1]) / (n + 1))
    n = torch.arange(order, dtype=x.dtype, device=x.device)
    return torch.stack(rows[:order]) * (2 * n + 1).sqrt()[:, None]
