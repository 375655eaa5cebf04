"""The discrete-time problem that every view solves, and the two views that keep all states."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from .structure import Transition


class Recurrence(NamedTuple):
    """`z_t = A_t z_{t-1} + G_t B u_t`, `y_t = C z_t + D u_t`, for `t = 0, 1, ...`.

    Attributes:
        transition: `A`; with a time axis when `varying`.
        B: Input matrix, `(*batch, n, m)`; it includes the gain unless `varying`.
        C: Output matrix, `(*batch, p, n)`.
        D: Feed-through, `(*batch, p, m)`, or `None`.
        gain: `G_t` of a time-varying recurrence, else `None`.
    """

    transition: Transition
    B: Tensor
    C: Tensor
    D: Tensor | None = None
    gain: Tensor | None = None

    @property
    def varying(self) -> bool:
        """Whether the matrices differ between steps."""
        return self.gain is not None

    def drive(self, u: Tensor) -> Tensor:
        """Return `G_t B u_t`, `(*batch, time, n)`."""
        drive = u.to(self.B.dtype) @ self.B.mT
        return drive if self.gain is None else self.transition.gain(self.gain, drive)

    def read(self, z: Tensor, u: Tensor) -> Tensor:
        """Return the outputs of given states, `(*batch, time, p)`."""
        return self.feed_through(self.transition.read(self.C, z), u)

    def feed_through(self, y: Tensor, u: Tensor) -> Tensor:
        """Add `D u` to outputs, `(*batch, time, p)`."""
        return y if self.D is None else y + u @ self.D.mT

    def start(self, u: Tensor, z0: Tensor | None) -> Tensor:
        """Return `z0`, or zeros, with the number type of the states, `(*batch, n)`."""
        structure = self.transition
        if z0 is not None:
            return z0.to(structure.dtype)
        batch = torch.broadcast_shapes(u.shape[:-2], self.B.shape[:-2], self.C.shape[:-2])
        return torch.zeros(*batch, structure.state_dim, dtype=structure.dtype, device=u.device)

    def at(self, time: slice) -> Recurrence:
        """Restrict a time-varying recurrence to some of its steps."""
        if self.gain is None:
            return self
        transition, gain = self.transition.at(time, self.gain)
        return self._replace(transition=transition, gain=gain)


View: TypeAlias = Callable[[Recurrence, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""Maps `(recurrence, u, z0)` to the outputs and the last state (`None`: it was not needed)."""


def looped(recurrence: Recurrence, u: Tensor, z0: Tensor | None) -> tuple[Tensor, Tensor]:
    """Advance one step after the other: the reference for the other views, and best when short.

    Args:
        recurrence: What to solve.
        u: Inputs, `(*batch, time, m)`.
        z0: State before the first step, `(*batch, n)`; zero when `None`.

    Returns:
        Outputs `(*batch, time, p)` and the last state `(*batch, n)`.
    """
    steps = recurrence.transition.steps() if recurrence.varying else None
    z, states = recurrence.start(u, z0), []
    for t, drive in enumerate(recurrence.drive(u).unbind(-2)):
        z = (steps[t] if steps else recurrence.transition).matvec(z) + drive
        states.append(z)
    return recurrence.read(torch.stack(states, -2), u), z


def scanned(recurrence: Recurrence, u: Tensor, z0: Tensor | None) -> tuple[Tensor, Tensor]:
    """Solve for all states at once in `O(log time)` steps; arguments as in `looped`."""
    start = recurrence.start(u, z0)
    states = recurrence.transition.scan(recurrence.drive(u), start, recurrence.varying)
    return recurrence.read(states, u), states[..., -1, :]
