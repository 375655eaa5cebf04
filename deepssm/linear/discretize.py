"""From `dz/dt = A z + B u` to `z_t = Ad z_{t-1} + Bd u_t`, and the process noise of a step.

Every rule here writes `Bd = G B`, so a rule is known once it gives `(Ad, G)` of a matrix and of a
vector of eigenvalues. `z_t` is the state *after* the input `u_t` has acted for one step, and the
output reads that state: scipy's `dlsim` gives the same outputs one sample later.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

# Degree and radius of the Taylor series: 0.5^19 / 19! is far below one unit of float64.
_DEGREE, _RADIUS = 18, 0.5
_COMPILED = 16  # states up to which plain loops are as fast as the products of a library


class Discretization(Protocol):
    """A rule that turns a continuous-time system into a recurrence."""

    exponential: ClassVar[bool]
    """Whether `Ad = exp(A dt)`."""

    def dense(self, A: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Return `(Ad, G)`, `(*batch, n, n)`, for `A` `(*batch, n, n)` and `dt` `(*batch)`."""
        ...

    def diagonal(self, eigenvalues: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Return the diagonals of `(Ad, G)`, `(*batch, n)`; `dt` is `(*batch)`."""
        ...


@dataclass(frozen=True)
class ZeroOrderHold:
    """Exact for an input held constant over the step: `Ad = exp(A dt)`, `G = int exp(A s) ds`.

    The only rule with the semigroup property: two steps with the same input equal one long step.

    Source: Franklin, Powell & Workman (1998), Digital Control of Dynamic Systems, section 4.3.
    """

    exponential: ClassVar[bool] = True

    def dense(self, A: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Return `exp(A dt)` and its integral from 0 to `dt`."""
        step, doublings = _small_step(A, dt)
        transition, gain = _taylor_exponential(A, step)
        for _ in range(doublings):
            gain = gain + transition @ gain
            transition = transition @ transition
        return transition, gain

    def diagonal(self, eigenvalues: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Return `exp(lambda dt)` and `expm1(lambda dt) / lambda`, also at `lambda = 0`."""
        z = eigenvalues * dt[..., None]
        return z.exp(), dt[..., None] * relative_expm1(z)


@dataclass(frozen=True)
class Bilinear:
    """Generalized bilinear: `G = dt (I - a dt A)^-1`, `Ad = (I - a dt A)^-1 (I + (1-a) dt A)`.

    Args:
        alpha: Weight of the arriving point: 0 is Euler, 1/2 Tustin's rule, 1 backward Euler.

    Source: Zhang, Chen & Zhou (2007), Journal of Control Theory and Applications 5(1).
    """

    alpha: float = 0.5
    exponential: ClassVar[bool] = False

    def dense(self, A: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Return `(Ad, G)` by one linear solve."""
        eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
        scaled = A * dt[..., None, None]
        right = torch.cat(
            [eye + (1 - self.alpha) * scaled, (dt[..., None, None] * eye).expand_as(scaled)], -1
        )
        transition, gain = torch.linalg.solve(eye - self.alpha * scaled, right).chunk(2, -1)
        return transition, gain

    def diagonal(self, eigenvalues: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Return the diagonals of `(Ad, G)`."""
        scaled = eigenvalues * dt[..., None]
        inverse = 1 / (1 - self.alpha * scaled)
        return inverse * (1 + (1 - self.alpha) * scaled), inverse * dt[..., None]


@dataclass(frozen=True)
class Dirac:
    """Inputs are impulses at the end of a step: `Ad = exp(A dt)`, `G = I`.

    Source: Schoene et al. (2024), Scalable Event-by-Event Processing with Deep SSMs, section 3.
    """

    exponential: ClassVar[bool] = True

    def dense(self, A: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Return `exp(A dt)` and the identity."""
        transition, _ = ZeroOrderHold().dense(A, dt)
        return transition, torch.eye(A.shape[-1], dtype=A.dtype).to(A.device).expand_as(transition)

    def diagonal(self, eigenvalues: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Return `exp(lambda dt)` and ones."""
        transition = (eigenvalues * dt[..., None]).exp()
        return transition, torch.ones_like(transition)


def relative_expm1(z: Tensor) -> Tensor:
    """Return `(exp(z) - 1) / z`, real or complex, to full precision also near 0.

    Args:
        z: Any shape.
    """
    small = z.abs() < 0.05
    # Two nested `where`: the branch that is not taken must not divide by zero in the gradient.
    safe = torch.where(small, torch.ones_like(z), z)
    near = torch.where(small, z, torch.zeros_like(z))
    series = torch.ones_like(z)
    for k in range(9, 1, -1):
        series = 1 + near * series / k
    return torch.where(small, series, torch.expm1(safe) / safe)


def van_loan(F: Tensor, diffusion: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """Transition and noise of `dz = F z dt + L dw` over a step.

    `A = exp(F dt)`, `Q = int_0^dt exp(F s) L Qc L' exp(F' s) ds`. A Taylor series on a short step
    and doubling, `Q(2h) = Q(h) + A(h) Q(h) A(h)'`: a sum of positive semi-definite terms that, in
    contrast to Van Loan's block exponential, does not overflow for stable `F` and long steps.

    Args:
        F: Drift, `(*batch, n, n)`, per time unit.
        diffusion: `L Qc L'`, `(*batch, n, n)`, symmetric, units of `z` squared per time unit.
        dt: Step lengths, `(*batch)`, non-negative.

    Returns:
        `A` and `Q`, each `(*batch, n, n)`; `Q` is exactly symmetric. `dt = 0` gives `I` and `0`.

    Source: Van Loan (1978), IEEE Transactions on Automatic Control 23(3), 395-404.
    """
    if _nobody_differentiates(F, diffusion, dt):
        return _van_loan_compiled(F, diffusion, dt)
    step, doublings = _small_step(F, dt)
    transition, _ = _taylor_exponential(F, step)
    cov = _taylor_covariance(F, diffusion, step)
    for _ in range(doublings):
        cov = cov + _symmetrize(transition @ cov @ transition.mT)
        transition = transition @ transition
    return transition, cov


def _nobody_differentiates(*tensors: Tensor) -> bool:
    if any(x.device.type != "cpu" for x in tensors) or tensors[0].shape[-1] > _COMPILED:
        return False
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        return False
    return all(forward_ad.unpack_dual(x).tangent is None for x in tensors)


def _van_loan_compiled(F: Tensor, diffusion: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """Take the same steps in float64, system by system: a few microseconds each."""
    from .van_loan_kernel import van_loan_all

    n, same = F.shape[-1], F.shape == diffusion.shape and F.shape[:-2] == dt.shape
    shape = (
        F.shape if same else torch.broadcast_shapes(F.shape, diffusion.shape, (*dt.shape, 1, 1))
    )
    given = [
        _contiguous(x, shape[: len(shape) - 2], event)
        for x, event in ((F, (n, n)), (diffusion, (n, n)), (dt, ()))
    ]
    A, Q = np.empty((2, len(given[-1]), n, n))
    van_loan_all(*given, A, Q, np.empty((2, n, n)))
    return tuple(torch.from_numpy(x.reshape(shape)).to(F.dtype) for x in (A, Q))  # type: ignore[return-value]


def _contiguous(x: Tensor, batch: tuple[int, ...], event: tuple[int, ...]) -> np.ndarray:
    values = x.detach().to(torch.float64).expand((*batch, *event)).reshape(-1, *event).numpy()
    # To the compiler a read-only array is another type, for which it compiles everything again.
    return np.require(values, requirements=("C", "W"))


def _small_step(A: Tensor, dt: Tensor) -> tuple[Tensor, int]:
    """Halve `dt` until `|A| dt <= 1/2` everywhere; return it as `(*batch, 1, 1)`."""
    norm = A.detach().abs().sum(-2).amax(-1) * dt.detach().abs()
    largest = float(norm.max()) if norm.numel() else 0.0
    doublings = max(0, math.ceil(math.log2(largest / _RADIUS))) if largest > 0 else 0
    return (dt / 2**doublings)[..., None, None], doublings


def _taylor_exponential(A: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Return `exp(A h)` and its integral, by Horner's rule in the scalar `h`."""
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    powers = [eye.expand_as(A)]
    for k in range(1, _DEGREE):
        powers.append(A @ powers[-1] / (k + 1))
    integral = powers[-1]
    for coefficient in reversed(powers[:-1]):
        integral = coefficient + step * integral
    gain = step * integral
    return eye + A @ gain, gain


def _taylor_covariance(F: Tensor, diffusion: Tensor, step: Tensor) -> Tensor:
    """Return `Q(h) = sum_k h^{k+1} / (k+1)! M_k` with `M_{k+1} = F M_k + M_k F'`."""
    terms = [diffusion]
    for k in range(1, _DEGREE + 4):
        product = F @ terms[-1] / (k + 1)
        terms.append(product + product.mT)
    total = terms[-1]
    for term in reversed(terms[:-1]):
        total = term + step * total
    return step * total


def _symmetrize(cov: Tensor) -> Tensor:
    return (cov + cov.mT) / 2
