"""What a state matrix looks like, and what can be done cheaply because of it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .discretize import Discretization
from .scan import matrix_scan


class ImpulseResponse(Protocol):
    """Knows a cheaper way than matrix powers to `C A^l B`."""

    def kernel(self, B: Tensor, C: Tensor, count: int) -> Tensor:
        """Return `C A^l B`, `l < count`, `(*batch, p, m, count)`."""
        ...


class Structure(Protocol):
    """A state matrix `A` of known shape."""

    @property
    def state_dim(self) -> int:
        """Length of the state vector that is carried."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the state vector."""
        ...

    def dense(self) -> Tensor:
        """Return the matrix, `(*batch, n, n)`."""
        ...

    def realize(self, B: Tensor, C: Tensor) -> tuple[Transition, Tensor, Tensor]:
        """Return `(A, B, C)` in the coordinates in which the state is carried."""
        ...

    def discretize(
        self, rule: Discretization, dt: Tensor, B: Tensor, C: Tensor
    ) -> tuple[Transition, Tensor, Tensor, Tensor]:
        """Return `(Ad, G, Bd, C)` in those coordinates.

        `Bd` is `G B`; but with a `dt` of shape `(*batch, time)`, `Ad` and `G` have a time axis and
        `Bd` is `B`.
        """
        ...


class Transition(Structure, Protocol):
    """A matrix that leads one state to the next; every view is written in these verbs."""

    def gain(self, G: Tensor, drive: Tensor) -> Tensor:
        """Return `G` applied to vectors `(*batch, time, n)`."""
        ...

    def at(self, time: slice, G: Tensor) -> tuple[Transition, Tensor]:
        """Cut the time axis of a time-varying structure and of its gain."""
        ...

    def steps(self) -> list[Transition]:
        """Split a time-varying structure into one structure for each step."""
        ...

    def matvec(self, z: Tensor) -> Tensor:
        """Return `A z` for `z` `(*batch, n)`."""
        ...

    def power(self, exponent: int) -> Transition:
        """Return `A^exponent`."""
        ...

    def observe(self, C: Tensor, count: int) -> Tensor:
        """Return the rows `C A^l`, `l < count`, `(*batch, count, p, n)`."""
        ...

    def reach(self, B: Tensor, count: int) -> Tensor:
        """Return the columns `A^l B`, `l < count`, `(*batch, count, n, m)`."""
        ...

    def kernel(self, B: Tensor, C: Tensor, count: int) -> Tensor:
        """Return the impulse response `C A^l B`, `(*batch, p, m, count)`."""
        ...

    def response(self, C: Tensor, z0: Tensor, count: int) -> Tensor:
        """Return the free outputs `C A^{l+1} z0`, `(*batch, count, p)`."""
        ...

    def read(self, C: Tensor, z: Tensor) -> Tensor:
        """Return the real outputs of states `(*batch, time, n)`, `(*batch, time, p)`."""
        ...

    def scan(self, drive: Tensor, z0: Tensor, varying: bool) -> Tensor:
        """Return the states of `z_t = A_t z_{t-1} + drive_t`, `(*batch, time, n)`."""
        ...


class Dense(NamedTuple):
    """A full matrix.

    Attributes:
        matrix: `A`, `(*batch, n, n)`.
        resolvent: A cheaper way to the impulse response, where there is one.
    """

    matrix: Tensor
    resolvent: ImpulseResponse | None = None

    @property
    def state_dim(self) -> int:
        """Length of the state vector."""
        return self.matrix.shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the state vector."""
        return self.matrix.dtype

    def dense(self) -> Tensor:
        """Return the matrix, `(*batch, n, n)`."""
        return self.matrix

    def realize(self, B: Tensor, C: Tensor) -> tuple[Dense, Tensor, Tensor]:
        """Return the matrices as they are."""
        return self, B, C

    def discretize(
        self, rule: Discretization, dt: Tensor, B: Tensor, C: Tensor
    ) -> tuple[Dense, Tensor, Tensor, Tensor]:
        """Return `(Ad, G, Bd, C)`; repeated steps of a time-varying `dt` are computed once."""
        if dt.ndim == 0:
            transition, gain = rule.dense(self.matrix, dt)
        elif self.matrix.ndim > 2 or dt.requires_grad:
            transition, gain = rule.dense(self.matrix.unsqueeze(-3), dt)
        else:
            steps, where = dt.unique(return_inverse=True)
            transition, gain = (x[where] for x in rule.dense(self.matrix, steps))
        return Dense(transition), gain, gain @ B if dt.ndim == 0 else B, C

    def gain(self, G: Tensor, drive: Tensor) -> Tensor:
        """Return `G` applied to vectors `(*batch, time, n)`."""
        return (G @ drive[..., None])[..., 0]

    def at(self, time: slice, G: Tensor) -> tuple[Dense, Tensor]:
        """Cut the time axis of a time-varying structure and of its gain."""
        return Dense(self.matrix[..., time, :, :]), G[..., time, :, :]

    def steps(self) -> list[Transition]:
        """Split a time-varying structure into one structure for each step."""
        return [Dense(matrix) for matrix in self.matrix.unbind(-3)]

    def matvec(self, z: Tensor) -> Tensor:
        """Return `A z` for `z` `(*batch, n)`."""
        return (self.matrix @ z[..., None])[..., 0]

    def power(self, exponent: int) -> Dense:
        """Return `A^exponent`."""
        return Dense(torch.linalg.matrix_power(self.matrix, exponent))

    def observe(self, C: Tensor, count: int) -> Tensor:
        """Return the rows `C A^l`, `l < count`, by doubling."""
        rows, power = C.unsqueeze(-3), self.matrix.unsqueeze(-3)
        while rows.shape[-3] < count:
            rows, power = torch.cat(_aligned(rows, rows @ power), -3), power @ power
        return rows[..., :count, :, :]

    def reach(self, B: Tensor, count: int) -> Tensor:
        """Return the columns `A^l B`, `l < count`, by doubling."""
        columns, power = B.unsqueeze(-3), self.matrix.unsqueeze(-3)
        while columns.shape[-3] < count:
            columns = torch.cat(_aligned(columns, power @ columns), -3)
            power = power @ power
        return columns[..., :count, :, :]

    def kernel(self, B: Tensor, C: Tensor, count: int) -> Tensor:
        """Return the impulse response `C A^l B`, `(*batch, p, m, count)`."""
        if self.resolvent is not None:
            return self.resolvent.kernel(B, C, count)
        return (self.observe(C, count) @ B.unsqueeze(-3)).movedim(-3, -1)

    def response(self, C: Tensor, z0: Tensor, count: int) -> Tensor:
        """Return the free outputs `C A^{l+1} z0`, `(*batch, count, p)`."""
        rows = self.observe(C, count + 1)[..., 1:, :, :]
        return (rows.flatten(-3, -2) @ z0[..., None]).unflatten(-2, rows.shape[-3:-1])[..., 0]

    def read(self, C: Tensor, z: Tensor) -> Tensor:
        """Return `C z` for states `(*batch, time, n)`."""
        return z @ C.mT

    def scan(self, drive: Tensor, z0: Tensor, varying: bool) -> Tensor:
        """Return the states of `z_t = A_t z_{t-1} + drive_t`, `(*batch, time, n)`."""
        return matrix_scan(self.matrix if varying else self.matrix.unsqueeze(-3), drive, z0)


def _aligned(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Give two stacks of matrices the same batch axes, so that they can be concatenated."""
    batch = torch.broadcast_shapes(first.shape[:-3], second.shape[:-3])
    return first.expand(*batch, *first.shape[-3:]), second.expand(*batch, *second.shape[-3:])
