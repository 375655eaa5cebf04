"""Diagonal state matrices, and their impulse response as one real matrix product."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .discretize import Discretization
from .scan import diagonal_scan, logarithmic_scan
from .structure import Transition


class Diagonal(NamedTuple):
    """A diagonal matrix; complex entries stand for themselves and for their conjugates.

    Of each conjugate pair of modes only one is stored and the output is `2 Re(C z)`, so systems
    are real, of twice the state size that is carried.

    Attributes:
        eigenvalues: `(*batch, n)`, real or complex.
        log: Their logarithms where these are known to more digits (after a zero-order hold).
    """

    eigenvalues: Tensor
    log: Tensor | None = None

    @property
    def state_dim(self) -> int:
        """Length of the state vector."""
        return self.eigenvalues.shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the state vector."""
        return self.eigenvalues.dtype

    def dense(self) -> Tensor:
        """Return the matrix, `(*batch, n, n)`."""
        return torch.diag_embed(self.eigenvalues)

    def realize(self, B: Tensor, C: Tensor) -> tuple[Diagonal, Tensor, Tensor]:
        """Return the matrices as they are."""
        return self, B, C

    def discretize(
        self, rule: Discretization, dt: Tensor, B: Tensor, C: Tensor
    ) -> tuple[Diagonal, Tensor, Tensor, Tensor]:
        """Return `(Ad, G, Bd, C)`; keep `lambda dt` when `Ad = exp(lambda dt)`."""
        eigenvalues = self.eigenvalues if dt.ndim == 0 else self.eigenvalues.unsqueeze(-2)
        transition, gain = rule.diagonal(eigenvalues, dt)
        log = eigenvalues * dt[..., None] if rule.exponential else None
        return Diagonal(transition, log), gain, gain[..., None] * B if dt.ndim == 0 else B, C

    def gain(self, G: Tensor, drive: Tensor) -> Tensor:
        """Return `G` applied to vectors `(*batch, time, n)`."""
        return G * drive

    def at(self, time: slice, G: Tensor) -> tuple[Diagonal, Tensor]:
        """Cut the time axis of a time-varying structure and of its gain."""
        return Diagonal(self.eigenvalues[..., time, :]), G[..., time, :]

    def steps(self) -> list[Transition]:
        """Split a time-varying structure into one structure for each step."""
        return [Diagonal(eigenvalues) for eigenvalues in self.eigenvalues.unbind(-2)]

    def matvec(self, z: Tensor) -> Tensor:
        """Return `A z` for `z` `(*batch, n)`."""
        if self.log is None:
            return self.eigenvalues * z
        # Near 1 the rounding of the eigenvalue itself would add up to a phase.
        return torch.addcmul(z, torch.expm1(self.log), z)

    def power(self, exponent: int) -> Diagonal:
        """Return `A^exponent`."""
        if self.log is None:
            return Diagonal(self.eigenvalues**exponent)
        return Diagonal((self.log * exponent).exp(), self.log * exponent)

    def powers(self, count: int) -> Tensor:
        """Return `lambda^l`, `l < count`, `(*batch, n, count)`."""
        if self.log is not None:
            exponents = torch.arange(count, device=self.log.device, dtype=self.log.real.dtype)
            return (self.log[..., None] * exponents).exp()
        power = self.eigenvalues[..., None]
        powers = torch.ones_like(power)
        while powers.shape[-1] < count:
            powers, power = torch.cat([powers, powers * power], -1), power * power
        return powers[..., :count]

    def observe(self, C: Tensor, count: int) -> Tensor:
        """Return the rows `C A^l`, `l < count`, `(*batch, count, p, n)`."""
        return C.unsqueeze(-3) * self.powers(count).mT.unsqueeze(-2)

    def reach(self, B: Tensor, count: int) -> Tensor:
        """Return the columns `A^l B`, `l < count`, `(*batch, count, n, m)`."""
        return B.unsqueeze(-3) * self.powers(count).mT.unsqueeze(-1)

    def kernel(self, B: Tensor, C: Tensor, count: int) -> Tensor:
        """Return the impulse response `C A^l B`, `(*batch, p, m, count)`."""
        weights = C.unsqueeze(-2) * B.mT.unsqueeze(-3)
        return self.vandermonde(weights.flatten(-3, -2), count).unflatten(-2, weights.shape[-3:-1])

    def response(self, C: Tensor, z0: Tensor, count: int) -> Tensor:
        """Return the free outputs `C A^{l+1} z0`, `(*batch, count, p)`."""
        return self.vandermonde(C * self.matvec(z0).unsqueeze(-2), count).mT

    def vandermonde(self, weights: Tensor, count: int) -> Tensor:
        """Return `sum_n w_n lambda_n^l` (twice its real part if complex), as one real product.

        With `l = Q q + r`, `lambda^l = (lambda^Q)^q lambda^r`: two tables of about `sqrt(count)`
        powers and a matrix product replace `count` exponentials for each mode.

        Args:
            weights: `(*batch, k, n)`.
            count: Number of powers.

        Returns:
            `(*batch, k, count)`, real.
        """
        width = 2 ** math.ceil(math.log2(max(count, 1)) / 2)
        low = self.powers(width)
        high = self.power(width).powers(-(-count // width))
        rows = weights[..., None, :] * high.mT.unsqueeze(-3)
        if rows.is_complex():
            rows = 2 * torch.cat([rows.real, -rows.imag], -1)
            low = torch.cat([low.real, low.imag], -2)
        table = rows.flatten(-3, -2) @ low
        return table.unflatten(-2, rows.shape[-3:-1]).flatten(-2)[..., :count]

    def read(self, C: Tensor, z: Tensor) -> Tensor:
        """Return `C z`, or `2 Re(C z)` for complex modes, of states `(*batch, time, n)`."""
        if not (z.is_complex() or C.is_complex()):
            return z @ C.mT
        return torch.cat([z.real, z.imag], -1) @ (2 * torch.cat([C.real, -C.imag], -1)).mT

    def scan(self, drive: Tensor, z0: Tensor, varying: bool) -> Tensor:
        """Return the states of `z_t = A_t z_{t-1} + drive_t`, `(*batch, time, n)`."""
        if varying:
            return diagonal_scan(self.eigenvalues, drive, z0)
        if self.log is None:
            return diagonal_scan(self.eigenvalues.unsqueeze(-2), drive, z0)
        return logarithmic_scan(self.log.unsqueeze(-2), drive, z0)
