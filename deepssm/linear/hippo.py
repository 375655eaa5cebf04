"""HiPPO: state matrices whose state is the best approximation of all past input, and kin.

Each matrix is normal plus low rank, `A = V (Lambda - P P*) V*` with a unitary `V`. That form is
stable to compute; the eigenvectors of `A` itself are not (their condition grows as `2^N`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Modes(NamedTuple):
    """A real system in its complex coordinates `z = V* x`, one of each conjugate pair.

    `dz/dt = Lambda z - 2 P Re(P* z) + B u` and `x = 2 Re(V z)`.

    Attributes:
        eigenvalues: Of the normal part, `(n,)` complex, `n = ceil(N / 2)`, by growing frequency.
        B: `(n,)` complex.
        low_rank: `P`, `(n, r)` complex.
        basis: `V`, `(N, n)` complex.
    """

    eigenvalues: Tensor
    B: Tensor
    low_rank: Tensor
    basis: Tensor


class Hippo(NamedTuple):
    """`dx/dt = A x + B u` with `A + P P'` normal.

    Attributes:
        A: `(N, N)`, float64.
        B: `(N,)`.
        low_rank: `P`, `(N, r)`.
    """

    A: Tensor
    B: Tensor
    low_rank: Tensor

    def modes(self) -> Modes:
        """Diagonalize the normal part through its skew-symmetric half.

        Source: Gu, Goel & Re (2022), Efficiently Modeling Long Sequences with Structured State
            Spaces, Theorem 1.
        """
        normal = self.A + self.low_rank @ self.low_rank.mT
        damping = normal.diagonal().mean()
        skew = (normal - normal.mT) / 2
        frequencies, vectors = torch.linalg.eigh(-1j * skew)
        positive = frequencies > 1e-9 * frequencies.abs().max()
        V = _unitary(torch.cat([_null_pairs(vectors[:, positive]), vectors[:, positive]], 1))
        imag = torch.cat([torch.zeros(V.shape[1] - int(positive.sum())), frequencies[positive]])
        eigenvalues = torch.complex(damping.expand_as(imag), imag.to(damping.dtype))
        low_rank = self.low_rank.to(V.dtype)
        return Modes(eigenvalues, V.mH @ self.B.to(V.dtype), V.mH @ low_rank, V)


def _null_pairs(vectors: Tensor) -> Tensor:
    """Pair the real directions that `vectors` and their conjugates leave out, `(N, k)`.

    Two real null vectors make one complex mode; a single one is scaled by `sqrt(1/2)`, so that
    adding its conjugate counts it once.
    """
    size = vectors.shape[0]
    count = size - 2 * vectors.shape[1]
    rest = torch.eye(size, dtype=torch.float64) - 2 * (vectors @ vectors.mH).real
    null = torch.linalg.eigh(rest)[1][:, size - count :]
    if count % 2:
        null = torch.cat([null, torch.zeros(size, 1, dtype=null.dtype)], 1)
    return torch.complex(null[:, ::2], null[:, 1::2]) / math.sqrt(2)


def _unitary(V: Tensor) -> Tensor:
    """Make `V` and its conjugate orthogonal to the last digit, by one Newton-Schulz step.

    Modes of low frequency lie close to their conjugates, and `eigh` mixes the two a little.
    """
    real = math.sqrt(2) * torch.cat([V.real, V.imag], 1)
    real = 1.5 * real - 0.5 * real @ (real.mT @ real)
    return torch.complex(*real.chunk(2, 1)) / math.sqrt(2)


def legs(size: int) -> Hippo:
    """Scaled Legendre: all of the past, stretched to the present (exact with steps in log-time).

    `A_nk = -sqrt((2n+1)(2k+1))` for `n > k`, `-(n+1)` on the diagonal, else 0.

    Args:
        size: Number of coefficients `N`.

    Source: Gu, Dao, Ermon, Rudra & Re (2020), HiPPO, Theorem 2.
    """
    n = torch.arange(size, dtype=torch.float64)
    root = (2 * n + 1).sqrt()
    A = -torch.tril(root[:, None] * root, -1) - torch.diag(n + 1)
    return Hippo(A, root, (n + 0.5).sqrt()[:, None])


def legt(size: int, window: float = 1.0) -> Hippo:
    """Translated Legendre: the last `window` of the past, in Legendre polynomials.

    Args:
        size: Number of coefficients `N`.
        window: Length remembered, in time units.

    Source: Gu, Dao, Ermon, Rudra & Re (2020), HiPPO, Theorem 1.
    """
    n = torch.arange(size, dtype=torch.float64)
    root = (2 * n + 1).sqrt()
    sign = torch.where(n[:, None] < n, (-1.0) ** (n[:, None] - n), 1.0)
    parity = torch.stack([n % 2, 1 - n % 2], 1)
    A = -root[:, None] * sign * root / window
    return Hippo(A, root / window, root[:, None] * parity / math.sqrt(window))


def lagt(size: int) -> Hippo:
    """Translated Laguerre: an exponentially fading past.

    Args:
        size: Number of coefficients `N`.

    Source: Gu, Dao, Ermon, Rudra & Re (2020), HiPPO, appendix D.2.
    """
    ones = torch.ones(size, dtype=torch.float64)
    A = torch.diag(ones) / 2 - torch.tril(torch.ones(size, size, dtype=torch.float64))
    return Hippo(A, ones, math.sqrt(0.5) * ones[:, None])


def fourier(size: int, window: float = 1.0) -> Hippo:
    """Truncated Fourier: the last `window` of the past, in sines and cosines.

    Args:
        size: Number of coefficients `N`.
        window: Length remembered, in time units.

    Source: Gu, Johnson, Timalsina, Rudra & Re (2023), How to Train Your HiPPO, Theorem 6.
    """
    frequency = torch.zeros(size - 1, dtype=torch.float64)
    frequency[::2] = 2 * math.pi * torch.arange(size // 2)
    skew = torch.diag(frequency, -1) - torch.diag(frequency, 1)
    end = torch.zeros(size, dtype=torch.float64)
    end[::2] = 2.0
    end[0] = math.sqrt(2)
    A = (skew - end[:, None] * end) / window
    return Hippo(A, math.sqrt(2) / window * end, end[:, None] / math.sqrt(window))


def s4d_legs(count: int) -> Tensor:
    """Return the normal part of LegS, `(count,)` complex: modes of a state of size `2 count`.

    Source: Gupta, Gu & Berant (2022), DSS; Gu et al. (2022), S4D, section 4.
    """
    return legs(2 * count).modes().eigenvalues


def s4d_lin(count: int) -> Tensor:
    """Return `-1/2 + i pi n`, `(count,)`. Source: Gu et al. (2022), S4D, equation 9."""
    n = torch.arange(count, dtype=torch.float64)
    return torch.complex(torch.full_like(n, -0.5), math.pi * n)


def s4d_inv(count: int) -> Tensor:
    """Return `-1/2 + i (N / pi) (N / (2n+1) - 1)`, `N = 2 count`.

    Source: Gu et al. (2022), S4D, equation 8.
    """
    n, size = torch.arange(count, dtype=torch.float64), 2 * count
    return torch.complex(torch.full_like(n, -0.5), size / math.pi * (size / (2 * n + 1) - 1))


def s4d_real(count: int) -> Tensor:
    """Return `-(n + 1)`, `(count,)` real. Source: Gu et al. (2022), S4D, section 4."""
    return -torch.arange(1, count + 1, dtype=torch.float64)


def lru_ring(
    count: int,
    smallest: float = 0.4,
    largest: float = 0.99,
    max_phase: float = 2 * math.pi,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw discrete-time modes uniformly from a ring in the unit disc, `(count,)` complex.

    Args:
        count: Number of modes.
        smallest: Inner radius.
        largest: Outer radius, below 1.
        max_phase: Largest phase in radians.
        generator: Source of randomness.

    Source: Orvieto et al. (2023), Resurrecting Recurrent Neural Networks, Lemma 3.2.
    """
    draw = torch.rand(2, count, dtype=torch.float64, generator=generator)
    radius = (draw[0] * (largest**2 - smallest**2) + smallest**2).sqrt()
    return torch.polar(radius, max_phase * draw[1])
