"""One input at a time through a system in discrete time, with nothing left to prepare.

What a step can know beforehand is computed once: the discrete matrices, and for a normal plus low
rank matrix under the bilinear rule its discrete form, which is diagonal plus low rank again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from .diagonal import Diagonal
from .discretize import Bilinear
from .low_rank import LowRankPlusDiagonal
from .structure import Transition

if TYPE_CHECKING:
    from .system import LinearSystem

Step: TypeAlias = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""Maps an input `(*batch, m)` and a state to the output `(*batch, p)` and the next state."""

_Linear: TypeAlias = Callable[[Tensor], Tensor]
_Move: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # (z, drive) -> A z + drive


def stepper(system: LinearSystem, dt: Tensor | float | None = None, rate: float = 1.0) -> Step:
    """Return a function that advances a system by one input.

    Args:
        system: In continuous time, or in discrete time without `dt` and `rate`.
        dt: Time step, a scalar; 1 when `None`.
        rate: Factor on it.

    Returns:
        `step(u, z) -> (y, z)`; `z` is `None` at the start and has the form of `LinearSystem.run`.
    """
    device = system.B.device.type
    with torch.autocast(device, enabled=False):
        recurrence = system.recurrence(dt, rate)
        move = _low_rank_move(system, dt, rate) or _move(recurrence.transition)
        drive, read = _driver(recurrence.B), _reader(recurrence.transition, recurrence.C)
        through = None if system.D is None else _driver(system.D)
    dtype, state_type = system.B.real.dtype, recurrence.transition.dtype

    def step(u: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor]:
        u = u if u.dtype == dtype else u.to(dtype)
        entered = drive(u)
        z = entered.to(state_type) if z is None else move(z, entered)
        y = read(z)
        return (y if through is None else y + through(u)), z

    def guarded(u: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor]:
        # Half precision would lose the phase of a mode within a few hundred steps.
        if not torch.is_autocast_enabled(device):
            return step(u, z)
        with torch.autocast(device, enabled=False):
            return step(u, z)

    return guarded


def _move(transition: Transition) -> _Move:
    if not isinstance(transition, Diagonal):
        return lambda z, drive: transition.matvec(z) + drive
    if transition.log is None:
        return lambda z, drive: torch.addcmul(drive, transition.eigenvalues, z)
    # Near 1 the rounding of the eigenvalue itself would add up to a phase.
    change = torch.expm1(transition.log)
    return lambda z, drive: torch.addcmul(z, change, z).add_(drive)


def _low_rank_move(system: LinearSystem, dt: Tensor | float | None, rate: float) -> _Move | None:
    """Return the step of `Lambda - P P*` by the bilinear rule, in real coordinates, `O(n)`.

    With `k = 1 - alpha` and `E = (I - alpha Lambda)^-1`,
    `(I - alpha A)^-1 (I + k A) = -k / alpha + (1 + k / alpha) (E - alpha E P w P* E)`,
    `w = (I + alpha P* E P)^-1`: diagonal plus low rank. Products run over conjugate pairs, so
    that `P* x` stands for `2 Re(P* x)` of the modes that are carried.

    Source: Gu, Goel & Re (2022), S4, appendix C.2.
    """
    structure, rule = system.structure, system.rule
    if not isinstance(structure, LowRankPlusDiagonal) or not isinstance(rule, Bilinear):
        return None
    if rule.alpha == 0:
        return None
    step = rate * torch.as_tensor(1.0 if dt is None else dt, dtype=structure.dtype)
    alpha, eigenvalues = rule.alpha, structure.eigenvalues * step
    P = structure.low_rank * step.sqrt()
    inverse = 1 / (1 - alpha * eigenvalues)
    arriving = inverse[..., None] * P
    leaving = (inverse.conj()[..., None] * P).mH
    inner = 2 * alpha * (P.mH @ arriving).real
    weight = torch.linalg.inv(torch.eye(P.shape[-1]).to(inner) + inner)
    share = 1 / alpha  # 1 + (1 - alpha) / alpha
    d = share * inverse - (share - 1)
    columns = 2 * alpha * share * _stacked(arriving, -2) @ weight.to(structure.dtype)
    rows = torch.cat([leaving.real, -leaving.imag], -1)
    real, imag = torch.cat([d.real, d.real], -1), torch.cat([-d.imag, d.imag], -1)
    half = d.shape[-1]
    if P.shape[-1] == 1:
        row, column = rows[..., 0, :], columns[..., 0]

        def move_one(z: Tensor, drive: Tensor) -> Tensor:
            shared = (row * z).sum(-1, keepdim=True)
            turned = torch.addcmul(torch.addcmul(drive, real, z), imag, z.roll(half, -1))
            return torch.addcmul(turned, column, shared, value=-1)

        return move_one

    def move(z: Tensor, drive: Tensor) -> Tensor:
        shared = rows @ z[..., None]
        turned = torch.addcmul(torch.addcmul(drive, real, z), imag, z.roll(half, -1))
        return turned - (columns @ shared)[..., 0]

    return move


def _stacked(x: Tensor, axis: int) -> Tensor:
    return torch.cat([x.real, x.imag], axis)


def _driver(B: Tensor) -> _Linear:
    """Return `u -> B u`; with a single input a product of numbers."""
    if B.shape[-1] == 1:
        column = B[..., 0]
        return lambda u: column * u
    rows = B.mT.contiguous()
    if B.ndim == 2:
        return lambda u: u.to(rows.dtype) @ rows
    return lambda u: (u.to(rows.dtype)[..., None, :] @ rows)[..., 0, :]


def _reader(transition: Transition, C: Tensor) -> _Linear:
    """Return `z -> C z`, of complex modes `2 Re(C z)`."""
    if not transition.dtype.is_complex and not C.is_complex():
        if C.shape[-2] == 1:
            row = C[..., 0, :]
            return lambda z: (row * z).sum(-1, keepdim=True)
        return lambda z: (z[..., None, :] @ C.mT)[..., 0, :]
    if not transition.dtype.is_complex:
        return lambda z: transition.read(C, z[..., None, :])[..., 0, :]
    pairs = torch.view_as_real(2 * C.conj().resolve_conj()).flatten(-2)
    if C.shape[-2] == 1:
        row = pairs[..., 0, :]
        return lambda z: (row * torch.view_as_real(z).flatten(-2)).sum(-1, keepdim=True)
    if C.ndim == 2:
        columns = (2 * C).to(transition.dtype).mT.contiguous()
        return lambda z: (z @ columns).real
    return lambda z: (torch.view_as_real(z).flatten(-2)[..., None, :] @ pairs.mT)[..., 0, :]
