"""Normal plus low rank state matrices, and their impulse response from the frequency domain."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .cauchy import cauchy_pairs
from .discretize import Bilinear, Discretization
from .structure import Dense


class LowRankPlusDiagonal(NamedTuple):
    """`A = Lambda - P P*` on conjugate pairs of modes, as in S4.

    Its state is carried in real coordinates, `(Re z, Im z)`, of size `2 n`, so that every view of
    a dense system works on it. After the bilinear rule the impulse response comes from `n` times
    `time` Cauchy terms instead of matrix powers.

    Attributes:
        eigenvalues: `Lambda`, `(*batch, n)` complex.
        low_rank: `P`, `(*batch, n, r)` complex.
    """

    eigenvalues: Tensor
    low_rank: Tensor

    @property
    def state_dim(self) -> int:
        """Length of the real state vector, `2 n`."""
        return 2 * self.eigenvalues.shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the state vector."""
        return self.eigenvalues.real.dtype

    def dense(self) -> Tensor:
        """Return the real matrix, `(*batch, 2n, 2n)`."""
        real, imag = (torch.diag_embed(x) for x in (self.eigenvalues.real, self.eigenvalues.imag))
        normal = torch.cat([torch.cat([real, -imag], -1), torch.cat([imag, real], -1)], -2)
        stacked = torch.cat([self.low_rank.real, self.low_rank.imag], -2)
        return normal - 2 * stacked @ stacked.mT

    def realize(self, B: Tensor, C: Tensor) -> tuple[Dense, Tensor, Tensor]:
        """Return `A`, `B` `(*batch, 2n, m)` and `C` `(*batch, p, 2n)` in real coordinates."""
        B, C = torch.cat([B.real, B.imag], -2), 2 * torch.cat([C.real, -C.imag], -1)
        return Dense(self.dense()), B, C

    def discretize(
        self, rule: Discretization, dt: Tensor, B: Tensor, C: Tensor
    ) -> tuple[Dense, Tensor, Tensor, Tensor]:
        """Return `(Ad, G, Bd, C)`; `Ad` knows its resolvent after the bilinear rule."""
        dense, B, C = self.realize(B, C)
        dense, gain, B, C = dense.discretize(rule, dt, B, C)
        if isinstance(rule, Bilinear) and dt.ndim == 0:
            resolvent = Resolvent(self.eigenvalues * dt, self.low_rank * dt.sqrt(), rule.alpha)
            dense = dense._replace(resolvent=resolvent)
        return dense, gain, B, C


class Resolvent(NamedTuple):
    """`(I - w Ad)^-1` of a bilinearly discretized normal plus low rank matrix.

    `(I - w Ad)^-1 = M(w)^-1 (I - alpha A)` with `M(w) = (1 - w) I - (alpha + (1 - alpha) w) A`,
    which has no singular node (S4 divides by `1 + w`), and `M^-1` by Woodbury.

    Attributes:
        eigenvalues: `Lambda dt`, `(*batch, n)` complex.
        low_rank: `P sqrt(dt)`, `(*batch, n, r)` complex.
        alpha: Of the bilinear rule.
    """

    eigenvalues: Tensor
    low_rank: Tensor
    alpha: float

    def kernel(self, B: Tensor, C: Tensor, count: int) -> Tensor:
        """Return `C Ad^l B`, `l < count`, `(*batch, p, m, count)`.

        The generating function of the truncated response, `C (I - Ad^L w^L) (I - w Ad)^-1 B`, is
        sampled on a circle of radius `exp(-1/L)`, where undamped modes have no pole.

        Args:
            B: `(*batch, 2n, m)`, real coordinates.
            C: `(*batch, p, 2n)`, real coordinates.
            count: Number of lags `L`.

        Source: Gu, Goel & Re (2022), S4, appendix C.3.
        """
        poles = self.eigenvalues.to(torch.complex128)
        P = self.low_rank.to(torch.complex128)
        A = LowRankPlusDiagonal(poles, P).dense()
        transition, _ = Bilinear(self.alpha).dense(A, torch.ones((), dtype=A.dtype).to(A.device))
        columns = B.to(A.dtype) - self.alpha * (A @ B.to(A.dtype))
        power = torch.linalg.matrix_power(transition, count)
        rows = C.to(A.dtype) - math.exp(-1) * (C.to(A.dtype) @ power)
        k = torch.arange(count // 2 + 1, dtype=A.dtype, device=A.device)
        nodes = torch.polar(torch.full_like(k, math.exp(-1 / count)), -2 * math.pi * k / count)
        spectrum = _response(poles, P, self.alpha, _halves(rows.mT) / 2, _halves(columns), nodes)
        damped = torch.fft.irfft(spectrum, count)
        growth = torch.exp(torch.arange(count, dtype=A.dtype, device=A.device) / count)
        return (damped * growth).to(B.dtype)


def _halves(x: Tensor) -> Tensor:
    """Return real coordinates `(*batch, 2n, k)` as complex modes `(*batch, n, k)`."""
    return torch.complex(*x.chunk(2, -2))


def _response(
    poles: Tensor, P: Tensor, alpha: float, rows: Tensor, columns: Tensor, nodes: Tensor
) -> Tensor:
    """Return `rows' M(w)^-1 columns` at all nodes, `(*batch, p, m, nodes)`.

    With `D = (1 - w) - s Lambda` and `s = alpha + (1 - alpha) w`, `M = D + s P P*`. Sums over
    modes run over both members of each conjugate pair.
    """
    scale = alpha + (1 - alpha) * nodes
    r, p = P.shape[-1], rows.shape[-1]
    left = torch.cat(_same_batch(rows.conj(), P.conj()), -1)
    right = torch.cat(_same_batch(columns, P), -1)
    weights = (left.mT.unsqueeze(-2) * right.mT.unsqueeze(-3)).flatten(-3, -2)
    sums = cauchy_pairs(poles, weights, 1 - nodes, scale)
    sums = sums.unflatten(-2, (left.shape[-1], right.shape[-1])).movedim(-1, -3)
    m = right.shape[-1] - r
    direct, to_P = sums[..., :p, :m], sums[..., :p, m:]
    from_P, inner = sums[..., p:, :m], sums[..., p:, m:]
    scale = scale[:, None, None]
    core = torch.eye(r, dtype=inner.dtype, device=inner.device) + scale * inner
    return (direct - scale * to_P @ torch.linalg.solve(core, from_P)).movedim(-3, -1)


def _same_batch(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    batch = torch.broadcast_shapes(first.shape[:-2], second.shape[:-2])
    return first.expand(*batch, *first.shape[-2:]), second.expand(*batch, *second.shape[-2:])
