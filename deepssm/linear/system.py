"""A linear system and its interchangeable views."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .chunk import advance, chunked
from .convolution import convolved
from .diagonal import Diagonal
from .discretize import Discretization, ZeroOrderHold
from .recurrence import Recurrence, View, looped, scanned
from .structure import Dense, Structure


class LinearSystem(NamedTuple):
    """`dz/dt = A z + B u` (or `z_t = A z_{t-1} + B u_t` when `rule` is `None`), `y = C z + D u`.

    One object serves a Kalman filter's gains and a deep layer: `apply` maps inputs to outputs
    through whichever view is cheapest, `run` also returns the state, `step` works online. Leading
    axes of the matrices are independent systems and broadcast against those of the inputs.

    Attributes:
        structure: `A` as `Dense`, `Diagonal` or `LowRankPlusDiagonal`, state size `n`.
        B: `(*batch, n, m)`.
        C: `(*batch, p, n)`; with complex modes the output is `2 Re(C z)`.
        D: `(*batch, p, m)`, or `None` for zero.
        rule: How to discretize; `None` says that the system is in discrete time already.
    """

    structure: Structure
    B: Tensor
    C: Tensor
    D: Tensor | None = None
    rule: Discretization | None = ZeroOrderHold()

    def apply(
        self,
        u: Tensor,
        z0: Tensor | None = None,
        *,
        dt: Tensor | float | None = None,
        rate: float = 1.0,
        mask: Tensor | None = None,
        reverse: bool = False,
        view: View | None = None,
    ) -> Tensor:
        """Map inputs to outputs.

        Args:
            u: `(*batch, time, m)`.
            z0: State before the first step, `(*batch, n)`; zero when `None`.
            dt: Time step, a scalar or `(*batch, time)`; 1 when `None`. Entry `t` leads from the
                state at `t-1` to the state at `t`, entry 0 from `z0`.
            rate: Factor on every step: 2 for data sampled half as often.
            mask: `(*batch, time)`, false where the input is missing: time passes, nothing enters.
            reverse: Run from the last step to the first; `z0` is then the state after the end.
            view: `looped`, `scanned`, `chunked` or `convolved`; the cheapest one when `None`.

        Returns:
            Outputs, `(*batch, time, p)`, in the precision of the system, also under autocast.

        Raises:
            ValueError: shapes do not fit, or a discrete system is given a `dt` or `rate`.
        """
        return self._run(u, z0, dt, rate, mask, reverse, view, False)[0]

    def run(
        self,
        u: Tensor,
        z0: Tensor | None = None,
        *,
        dt: Tensor | float | None = None,
        rate: float = 1.0,
        mask: Tensor | None = None,
        reverse: bool = False,
        view: View | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Map inputs to outputs and return the last state too, `(*batch, n)`.

        That state is the `z0` of whatever follows; arguments and errors as in `apply`.
        """
        return self._run(u, z0, dt, rate, mask, reverse, view, True)

    def _run(
        self,
        u: Tensor,
        z0: Tensor | None,
        dt: Tensor | float | None,
        rate: float,
        mask: Tensor | None,
        reverse: bool,
        view: View | None,
        state: bool,
    ) -> tuple[Tensor, Tensor]:
        self._check(u, z0, dt, mask)
        if mask is not None:
            u = torch.where(mask[..., None], u, torch.zeros((), dtype=u.dtype, device=u.device))
        if reverse:
            u, dt = u.flip(-2), _reversed_steps(dt)
        # Half precision would lose the phase of a mode within a few hundred steps.
        with torch.autocast(u.device.type, enabled=False):
            u = u.to(self.B.real.dtype)
            recurrence = self.recurrence(dt, rate)
            y, last = (view or _cheapest(recurrence, u, state))(recurrence, u, z0)
            if last is None:
                last = advance(recurrence, u, z0) if state else y
        return (y.flip(-2) if reverse else y), last

    def step(
        self,
        u: Tensor,
        z: Tensor | None = None,
        *,
        dt: Tensor | float | None = None,
        rate: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Advance by one input; `deepssm.linear.stepper` prepares many equal steps once.

        Args:
            u: `(*batch, m)`.
            z: State before the step, `(*batch, n)`; zero when `None`.
            dt: Time step, a scalar or `(*batch)`; 1 when `None`.
            rate: Factor on the step.

        Returns:
            Output `(*batch, p)` and the new state `(*batch, n)`.
        """
        steps = dt[..., None] if isinstance(dt, Tensor) and dt.ndim else dt
        y, z = self.run(u[..., None, :], z, dt=steps, rate=rate, view=looped)
        return y[..., 0, :], z

    def derivative(self, z: Tensor, u: Tensor) -> Tensor:
        """Return `dz/dt = A z + B u`, the right-hand side for an ODE solver, `(*batch, n)`.

        Args:
            z: State, `(*batch, n)`.
            u: Input, `(*batch, m)`.

        Raises:
            ValueError: the system is in discrete time.
        """
        if self.rule is None:
            raise ValueError("`derivative` needs a system in continuous time, got `rule=None`.")
        A, B, _ = self.structure.realize(self.B, self.C)
        return A.matvec(z) + (B @ u.to(B.dtype)[..., None])[..., 0]

    def kernel(self, time: int, *, dt: Tensor | float | None = None, rate: float = 1.0) -> Tensor:
        """Return the impulse response at lags `0 ... time-1`, `(*batch, p, m, time)`.

        Args:
            time: Number of lags.
            dt: Time step, a scalar; 1 when `None`.
            rate: Factor on the step.
        """
        with torch.autocast(self.B.device.type, enabled=False):
            recurrence = self.recurrence(dt, rate)
            kernel = recurrence.transition.kernel(recurrence.B, recurrence.C, time)
        if self.D is None:
            return kernel
        return torch.cat([kernel[..., :1] + self.D[..., None], kernel[..., 1:]], -1)

    def discretized(self, dt: Tensor | float | None = None, rate: float = 1.0) -> LinearSystem:
        """Return the system in discrete time with step `rate * dt`, a scalar."""
        with torch.autocast(self.B.device.type, enabled=False):
            recurrence = self.recurrence(dt, rate)
        return LinearSystem(recurrence.transition, recurrence.B, recurrence.C, self.D, None)

    def recurrence(self, dt: Tensor | float | None = None, rate: float = 1.0) -> Recurrence:
        """Return the discrete-time problem that the views solve.

        Raises:
            ValueError: a discrete system is given a `dt` or a `rate`.
        """
        if self.rule is None:
            if dt is not None or rate != 1.0:
                raise ValueError(
                    "`dt` and `rate` need a system in continuous time, got `rule=None`. "
                    "Build it from continuous matrices with `rule=ZeroOrderHold()`."
                )
            return Recurrence(*self.structure.realize(self.B, self.C), self.D)
        real = self.B.real
        # The number type is named: a Python number would pass through the default one, float32.
        step = torch.as_tensor(1.0 if dt is None else dt, dtype=real.dtype, device=real.device)
        step = rate * step
        transition, gain, B, C = self.structure.discretize(self.rule, step, self.B, self.C)
        return Recurrence(transition, B, C, self.D, gain if step.ndim else None)

    def _check(
        self, u: Tensor, z0: Tensor | None, dt: Tensor | float | None, mask: Tensor | None
    ) -> None:
        if u.is_complex():
            raise ValueError(
                f"`u` must be real, got {u.dtype}. Pass its parts as features: "
                "`torch.cat([u.real, u.imag], -1)`."
            )
        if u.ndim < 2 or u.shape[-1] != self.B.shape[-1]:
            raise ValueError(
                f"`u` must be (*batch, time, {self.B.shape[-1]}), got {tuple(u.shape)}. "
                "Pass `u[..., None]` for a scalar series."
            )
        if not u.shape[-2]:
            raise ValueError(
                f"`u` must have a step or more, got shape {tuple(u.shape)}: of no step there is "
                "no output, and the state stays what it was."
            )
        if dt is not None and not isinstance(dt, int | float | Tensor):
            raise ValueError(
                f"`dt` must be a number or a tensor, got {type(dt).__name__}. Use "
                "`torch.as_tensor(dt)`."
            )
        if z0 is not None and z0.shape[-1] != self.structure.state_dim:
            raise ValueError(
                f"`z0` must end in an axis of size {self.structure.state_dim} (the state), "
                f"got {tuple(z0.shape)}."
            )
        for name, value in (("dt", dt), ("mask", mask)):
            if isinstance(value, Tensor) and value.ndim and value.shape[-1] != u.shape[-2]:
                raise ValueError(
                    f"`{name}` must end in the time axis of `u`, of size {u.shape[-2]}, got "
                    f"{tuple(value.shape)}. It has no feature axis."
                )


def _reversed_steps(dt: Tensor | float | None) -> Tensor | float | None:
    """Entry `t` of `dt` lies between `t-1` and `t`: backwards it leads from `t` to `t-1`."""
    return dt.roll(-1, -1).flip(-1) if isinstance(dt, Tensor) and dt.ndim else dt


def _cheapest(recurrence: Recurrence, u: Tensor, state: bool) -> View:
    """Choose by cost: convolve single channels, scan small states, else work in blocks."""
    n, m, p = recurrence.transition.state_dim, u.shape[-1], recurrence.C.shape[-2]
    if recurrence.varying or isinstance(recurrence.transition, Diagonal) and m * p > 1:
        return scanned if u[..., 0].numel() * n <= 8_000_000 else chunked
    dense = isinstance(recurrence.transition, Dense) and recurrence.transition.resolvent is None
    return chunked if state or dense else convolved
