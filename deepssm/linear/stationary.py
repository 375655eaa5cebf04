"""The stationary distribution of a linear recursion, or of some of its states."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def stationary_moments(
    A: Tensor, b: Tensor, Q: Tensor, states: Sequence[int], mean: Tensor, cov: Tensor
) -> tuple[Tensor, Tensor]:
    """Replace the moments of `states` by the stationary ones of `z' = A z + b + w`.

    Solves `m = A m + b` and the Lyapunov equation `P = A P A' + Q` on those states.

    Args:
        A: `(n, n)`.
        b: `(n,)`.
        Q: Covariance of `w`, `(n, n)`.
        states: Which states; no other state may drive them.
        mean: Moments to complete, `(n,)`.
        cov: `(n, n)`; rows and columns of `states` are set, others kept.

    Returns:
        Mean and covariance of all states.

    Raises:
        ValueError: The block is driven by other states, or has no stationary distribution.

    Source: Durbin & Koopman (2012), section 5.6.2.
    """
    index = torch.tensor(list(states), device=A.device)
    others = torch.ones(A.shape[-1], dtype=torch.bool, device=A.device)
    others[index] = False
    block = A[index][:, index]
    radius = float(torch.linalg.eigvals(block.detach()).abs().max())
    if bool((A.detach()[index][:, others] != 0).any()):
        raise ValueError(
            "`initial`: a stationary state is driven by a state that is not. Start all states of "
            "that block alike, or give `m0` and `P0`."
        )
    if radius >= 1.0:
        raise ValueError(
            f"`A` has spectral radius {radius:.6g} on the states that should start stationary, so "
            'they have no stationary distribution. Use `initial="diffuse"`, or give `P0`.'
        )
    size = len(states)
    eye = torch.eye(size * size, dtype=A.dtype, device=A.device)
    noise = Q[index][:, index].reshape(-1)
    solved = torch.linalg.solve(eye - torch.kron(block, block), noise).reshape(size, size)
    solved = 0.5 * (solved + solved.mT)
    level = torch.linalg.solve(eye[:size, :size] - block, b[index])
    place = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)[:, index]
    keep = others.to(A.dtype)
    return mean * keep + place @ level, cov * keep[:, None] * keep + place @ solved @ place.mT
