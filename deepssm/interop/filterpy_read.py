"""Reading filterpy's objects: matrices of the right shape, functions of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.autograd import forward_ad


class Gaussian(NamedTuple):
    """What every filter of filterpy holds, as float64 arrays."""

    x: np.ndarray
    P: np.ndarray
    Q: np.ndarray
    R: np.ndarray


def matrix(kf: Any, name: str, shape: tuple[int, int]) -> np.ndarray:  # noqa: ANN401
    """Return a copy of the matrix `kf.<name>`.

    Raises:
        ValueError: its shape is another.
    """
    value = np.array(getattr(kf, name), dtype=float)
    if value.shape != shape:
        letters = "(dim_z, dim_x)" if name == "H" else "its square shape"
        raise ValueError(f"`kf.{name}` must be {letters} = {shape}, got {value.shape}.")
    return value


def gaussian(kf: Any) -> Gaussian:  # noqa: ANN401
    """Return `x, P, Q, R` of any filter.

    Raises:
        ValueError: a shape does not fit.
    """
    x = np.array(kf.x, dtype=float).reshape(-1)
    n, p = np.shape(kf.P)[0], np.shape(kf.R)[0]
    if x.shape != (n,):
        raise ValueError(f"`kf.x` must hold dim_x = {n} numbers, got shape {np.shape(kf.x)}.")
    P, Q, R = (matrix(kf, name, (k, k)) for name, k in (("P", n), ("Q", n), ("R", p)))
    return Gaussian(x, P, Q, R)


def gain(kf: Any, size: int) -> np.ndarray | None:  # noqa: ANN401
    """Return `B` with one column an input, or `None` where filterpy has none or the number 0."""
    B = getattr(kf, "B", None)
    return None if B is None or np.ndim(B) == 0 else np.array(B, dtype=float).reshape(size, -1)


def drive(B: np.ndarray | None, u0: ArrayLike) -> np.ndarray:
    """Return `B u0`.

    Raises:
        ValueError: the sizes differ.
    """
    u = np.array(u0, dtype=float).reshape(-1)
    if B is None or len(u) != B.shape[1]:
        size = 0 if B is None else B.shape[1]
        raise ValueError(
            f"`u0` must hold as many numbers as `kf.B` has columns, {size}, got {len(u)}."
        )
    return B @ u


def by_rows(function: Callable[..., ArrayLike], name: str) -> Callable[..., Tensor]:
    """Return a NumPy function of one vector as a torch function of many, one call a row.

    Args:
        function: Takes a row, `(n,)`, and perhaps a number that may differ by row.
        name: What to call it in an error.
    """

    def apply(z: Tensor, dt: Tensor | float | None = None) -> Tensor:
        if z.requires_grad or forward_ad.unpack_dual(z).tangent is not None:
            raise ValueError(
                f"`{name}` of the filter is a NumPy function, which has no derivative: pass "
                f"`from_filterpy(..., {name}=f)` with the same function written in torch."
            )
        rows = z.detach().cpu().double().reshape(-1, z.shape[-1]).numpy()
        if dt is None:
            values = [function(row.copy()) for row in rows]
        else:
            steps = torch.as_tensor(dt, dtype=torch.float64).expand(z.shape[:-1]).reshape(-1)
            pairs = zip(rows, steps.tolist(), strict=True)
            values = [function(row.copy(), step) for row, step in pairs]
        found = np.stack([np.array(value, dtype=float).reshape(-1) for value in values])
        return torch.from_numpy(found).to(z).reshape(*z.shape[:-1], -1)

    return apply
