"""The steady state of a Kalman filter, and the filter itself as a linear system fed with `y`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .structure import Dense
from .system import LinearSystem

_ITERATIONS = 60


class SteadyState(NamedTuple):
    """What the filter of a time-invariant model converges to.

    Attributes:
        cov: Predicted covariance `P`, `(*batch, n, n)`, units of `z` squared.
        gain: `K = P C' S^-1` with `S = C P C' + R`, `(*batch, n, p)`.
        transition: `M = A - K C A`, which leads one filtered mean to the next, `(*batch, n, n)`.
        converged: `(*batch,)`; false where there is no stable steady state.
    """

    cov: Tensor
    gain: Tensor
    transition: Tensor
    converged: Tensor


def steady_state(A: Tensor, C: Tensor, Q: Tensor, R: Tensor) -> SteadyState:
    """Solve `P = A P A' - A P C' (C P C' + R)^-1 C P A' + Q` for the stabilizing `P`.

    Structured doubling (each iteration doubles the number of filter steps), then Newton's steps,
    through which gradients flow: they refine the value and carry its first two derivatives without
    a graph through the iterations.

    Args:
        A: Transition, `(*batch, n, n)`; unit roots are fine where noise drives and data see them.
        C: Emission, `(*batch, p, n)`.
        Q: Process noise, `(*batch, n, n)`, positive semi-definite.
        R: Observation noise, `(*batch, p, p)`; it may be singular where `C Q C'` makes up for it.

    Raises:
        ValueError: `R + C Q C'` is singular.

    Source: Chu, Fan & Lin (2005), Linear Algebra and its Applications 396; Hewer (1971), IEEE
        Transactions on Automatic Control 16(4).
    """
    with torch.no_grad():
        cov = _doubling(A, C, Q, R)
    for _ in range(2):
        cov = _newton(cov, A, C, Q, R)
    gain = _gain(cov, C, R)
    transition = A - gain @ C @ A
    return SteadyState(cov, gain, transition, _is_solution(cov, transition, A, C, Q, R))


def innovations(
    A: Tensor,
    C: Tensor,
    Q: Tensor,
    R: Tensor,
    *,
    offset: bool = False,
    steady: SteadyState | None = None,
) -> LinearSystem:
    """Return the steady Kalman filter as a linear system whose input is `y`.

    State and output are the filtered mean, `z_t = (A - K C A) z_{t-1} + K (y_t - d_t) + (I - K C)
    b_t`. Its initial state is the filtered mean before the first `y`.

    Args:
        A: Transition, `(*batch, n, n)`.
        C: Emission, `(*batch, p, n)`.
        Q: Process noise, `(*batch, n, n)`.
        R: Observation noise, `(*batch, p, p)`.
        offset: Whether the input is `(y_t - d_t, b_t)`, of size `p + n`, instead of `y_t`.
        steady: The steady state, if it is at hand.

    Returns:
        A system in discrete time with `n` states and `n` outputs.

    Raises:
        ValueError: `R + C Q C'` is singular.

    Source: Anderson & Moore (1979), Optimal Filtering, section 9.2.
    """
    steady = steady or steady_state(A, C, Q, R)
    eye = _identity(A)
    B = torch.cat([steady.gain, eye - steady.gain @ C], -1) if offset else steady.gain
    return LinearSystem(Dense(steady.transition), B, eye, None, None)


def adjoint_innovations(
    A: Tensor, C: Tensor, Q: Tensor, R: Tensor, *, steady: SteadyState | None = None
) -> LinearSystem:
    """Return the transpose of the steady filter, a smoother without an inverse of `P`.

    State and output are `r_t = (A - K C A)' r_{t+1} + A' C' S^-1 v_{t+1}`, the derivative of the
    likelihood of all later data by the filtered mean, so that `z_t + P_f r_t` is the smoothed
    mean. The input is the innovation `v = y - C a - d` of the predicted mean `a`. Run with
    `reverse=True`, output `t` is `r_{t-1}`; it starts from zero after the last observation.

    Args:
        A: Transition, `(*batch, n, n)`.
        C: Emission, `(*batch, p, n)`.
        Q: Process noise, `(*batch, n, n)`.
        R: Observation noise, `(*batch, p, p)`.
        steady: The steady state, if it is at hand.

    Raises:
        ValueError: `R + C Q C'` is singular.

    Source: de Jong (1989), Journal of the American Statistical Association 84(408).
    """
    steady = steady or steady_state(A, C, Q, R)
    S = C @ steady.cov @ C.mT + R
    drive = torch.linalg.solve(S, C @ A).mT
    return LinearSystem(Dense(steady.transition.mT), drive, _identity(A), None, None)


def lyapunov(A: Tensor, Q: Tensor) -> Tensor:
    """Solve `X = A X A' + Q` for stable `A` by doubling the terms of its series.

    Args:
        A: `(*batch, n, n)`, all eigenvalues inside the unit circle.
        Q: `(*batch, n, n)`, symmetric.

    Returns:
        `X`, `(*batch, n, n)`, exactly symmetric; not finite when `A` is not stable.

    Source: Smith (1968), SIAM Journal on Applied Mathematics 16(1).
    """
    X = Q
    for _ in range(_ITERATIONS):
        X = X + _symmetrize(A @ X @ A.mT)
        A = A @ A
        size = float(A.detach().abs().max())
        if not torch.finfo(A.dtype).tiny ** 0.25 < size < 1e60:
            break
    return X if size < 1 else X + torch.inf


def _doubling(A: Tensor, C: Tensor, Q: Tensor, R: Tensor) -> Tensor:
    """Double the steps of the predicted covariance before it takes up its noise: `P = Q + H`.

    An observation of the state before has at least the noise `C Q C' + R`, which is regular
    where `R` alone may not be.
    """
    CQ = C @ Q
    right = torch.cat(torch.broadcast_tensors(C, CQ), -1)
    solved, singular = torch.linalg.solve_ex(CQ @ C.mT + R, right)
    if bool(singular.any()):
        raise ValueError(
            "`R + C Q C'` must be positive definite, got a singular matrix: some sensor without "
            "noise repeats another. Add noise to `R`."
        )
    n = A.shape[-1]
    information, gain = solved.split(n, -1)
    G, a = C.mT @ information, (A - A @ gain.mT @ C).mT
    H = _symmetrize(A @ (Q - CQ.mT @ gain) @ A.mT)
    for _ in range(_ITERATIONS):
        right = torch.cat(torch.broadcast_tensors(a, G), -1)
        Wa, Wg = torch.linalg.solve(_identity(A) + G @ H, right).split(n, -1)
        step = a.mT @ H @ Wa
        G, H, a = _symmetrize(G + a @ Wg @ a.mT), _symmetrize(H + step), a @ Wa
        if not bool((step.abs() > 1e-3 * torch.finfo(A.dtype).eps * H.abs().amax()).any()):
            break
    return _symmetrize(H + Q)


def _newton(cov: Tensor, A: Tensor, C: Tensor, Q: Tensor, R: Tensor) -> Tensor:
    """One Newton step: what the covariance would converge to with the gain of `cov`."""
    gain = A @ _gain(cov, C, R)
    return lyapunov(A - gain @ C, _symmetrize(Q + gain @ R @ gain.mT))


def _gain(cov: Tensor, C: Tensor, R: Tensor) -> Tensor:
    cross = C @ cov
    return torch.linalg.solve(cross @ C.mT + R, cross).mT


@torch.no_grad()
def _is_solution(
    cov: Tensor, transition: Tensor, A: Tensor, C: Tensor, Q: Tensor, R: Tensor
) -> Tensor:
    eps = torch.finfo(cov.dtype).eps
    gain = A @ _gain(cov, C, R)
    residual = (A - gain @ C) @ cov @ A.mT + Q - cov
    small = residual.abs().amax((-2, -1)) <= 1e6 * eps * cov.abs().amax((-2, -1))
    radius = torch.linalg.eigvals(transition.nan_to_num(2.0, 2.0, 2.0)).abs().amax(-1)
    return small & (radius < 1 - 100 * eps)


def _identity(A: Tensor) -> Tensor:
    return torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)


def _symmetrize(cov: Tensor) -> Tensor:
    return (cov + cov.mT) / 2
