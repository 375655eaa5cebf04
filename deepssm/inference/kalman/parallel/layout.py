"""A linear-Gaussian model laid out for batched tensor code on any device: time first, in float64.

Arrays have axes `(time, members, row, column)`. Series that share their matrices and their gaps
share every second moment, so they are *columns* of one member; others are members of their own.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ....core.gaussian import psd_factor
from ....core.model import LinearParameters
from ..cpu.problem import batch_shape


class Columns(NamedTuple):
    """A model with a proper start, and its data.

    Attributes:
        start: Mean `(1, members or 1, n, columns or 1)` and factor of `P0`, `(1, m, n, n)`.
        A: `(time or 1, members or 1, n, n)`; entry `t` drives the step to `t`.
        b: `(time or 1, members or 1, n, columns or 1)`. LQ: Factor of `Q`, shaped as `A`.
        C: `(time or 1, members or 1, p, n)`. d: Offsets, shaped as `b`. LR: Factor of `R`.
        y: `(time, members, p, columns)`, zero where missing. seen: `(time, members, p)`.
        batch: Leading axes of the data and the parameters, broadcast.
    """

    start: tuple[Tensor, Tensor]
    A: Tensor
    b: Tensor
    LQ: Tensor
    C: Tensor
    d: Tensor
    LR: Tensor
    y: Tensor
    seen: Tensor
    batch: torch.Size

    @property
    def time(self) -> int:
        """Number of steps."""
        return self.y.shape[0]

    @property
    def varying(self) -> bool:
        """Whether a matrix, not only an offset, differs between steps."""
        return any(x.shape[0] > 1 for x in (self.A, self.LQ, self.C, self.LR))

    def cut(self, first: int, last: int, start: tuple[Tensor, Tensor]) -> Columns:
        """Return the steps `first ... last - 1`, begun from other predicted moments."""

        def part(x: Tensor) -> Tensor:
            return x if x.shape[0] == 1 and self.time > 1 else x[first:last]

        names = ("A", "b", "LQ", "C", "d", "LR", "y", "seen")
        return self._replace(start=start, **{name: part(getattr(self, name)) for name in names})

    def predict(self, t: int, m: Tensor) -> Tensor:
        """Return the predicted mean of step `t` from the filtered one before it."""
        A, b = (x[t : t + 1] if x.shape[0] > 1 else x for x in (self.A, self.b))
        return A @ m + b

    def constant(self) -> Columns:
        """Drop the time axis of matrices that are the same in every step that uses them."""
        A, LQ = (_once(x, x[1:]) for x in (self.A, self.LQ))
        return self._replace(A=A, LQ=LQ, C=_once(self.C, self.C), LR=_once(self.LR, self.LR))

    def series(self, x: Tensor) -> Tensor:
        """Turn `(time, members, row, columns)` into `(*batch, time, row)`."""
        return x.permute(1, 3, 0, 2).reshape(*self.batch, x.shape[0], x.shape[2])

    def matrices(self, x: Tensor) -> Tensor:
        """Turn `(time, members, row, col)` into `(*batch, time, row, col)`, expanded."""
        shape = (*self.batch, x.shape[0], *x.shape[2:])
        if x.shape[1] == 1:
            return x[:, 0].expand(shape)
        return x.movedim(0, 1).reshape(shape)


def lay_out(parameters: LinearParameters, y: Tensor) -> Columns:
    """Factor the covariances and give everything its axes, without a graph.

    Args:
        parameters: A model with a proper start.
        y: `(*batch, time, obs)`, NaN where missing.
    """
    batch = batch_shape(parameters, y)
    start, (A, b, Q), (C, d, R) = parameters
    y = y.detach().double().expand(*batch, *y.shape[-2:])
    seen = ~y.isnan().reshape(-1, *y.shape[-2:])
    leads = [x.shape[:-3].numel() for x in (A, Q, C, R)] + [start.cov.shape[:-2].numel()]
    shared = max(leads) == 1 and bool((seen == seen[:1]).all())

    def vectors(x: Tensor) -> Tensor:
        return _vectors(x.detach().double(), batch, shared)

    def members(x: Tensor) -> Tensor:
        return _members(x.detach().double(), batch)

    return Columns(
        start=(
            vectors(start.mean[..., None, :]),
            members(_factor(start.cov, "P0")[..., None, :, :]),
        ),
        A=members(A),
        b=vectors(b),
        LQ=members(_factor(Q, "Q")),
        C=members(C),
        d=vectors(d),
        LR=members(_factor(R, "R")),
        y=vectors(y.nan_to_num(0.0)),
        seen=(seen[:1] if shared else seen).movedim(0, 1),
        batch=batch,
    )


def restore(x: Tensor, y: Tensor) -> Tensor:
    """Give a result the dtype and the device of the data."""
    return x.to(y.device, y.dtype)


def fold(grad: Tensor, columns: Columns, shape: torch.Size, event: int) -> Tensor:
    """Sum a gradient over the axes that the argument does not have.

    Args:
        grad: `(time, members, row, col)` of a matrix, `(time, members, row, columns)` of a vector.
        columns: The layout.
        shape: Of the argument, `(*batch, time or 1, *event)`.
        event: 2 for a matrix, 1 for a vector.
    """
    lead, time = shape[: -event - 1], shape[-event - 1]
    if time == 1:
        grad = grad.sum(0, keepdim=True)
    if lead.numel() == 1:
        return grad.sum(1 if event == 2 else (1, 3)).reshape(shape)
    full = columns.matrices(grad) if event == 2 else columns.series(grad)
    return full.sum_to_size(shape)


def _once(x: Tensor, used: Tensor) -> Tensor:
    same = x.shape[0] > 1 and bool((used == used[:1]).all())
    return used[:1] if same and len(used) else x


def _members(x: Tensor, batch: torch.Size) -> Tensor:
    """Turn `(*batch, time, row, col)` into `(time, members or 1, row, col)`."""
    if x.shape[:-3].numel() > 1:
        x = x.expand(*batch, *x.shape[-3:])
    return x.reshape(-1, *x.shape[-3:]).movedim(0, 1)


def _vectors(x: Tensor, batch: torch.Size, shared: bool) -> Tensor:
    """Turn `(*batch, time, row)` into `(time, members or 1, row, columns or 1)`."""
    if x.shape[:-2].numel() > 1:
        x = x.expand(*batch, *x.shape[-2:])
    flat = x.reshape(-1, *x.shape[-2:])
    return flat.permute(1, 2, 0)[:, None] if shared else flat.movedim(0, 1)[..., None]


def _factor(cov: Tensor, name: str) -> Tensor:
    return psd_factor(cov.detach().double(), name, eps=torch.finfo(cov.dtype).eps)
