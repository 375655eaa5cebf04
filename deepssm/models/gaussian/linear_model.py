"""The three distributions of a model that can write down its matrices."""

from __future__ import annotations

import torch
from pyro.distributions import MultivariateNormal
from torch import Tensor
from torch.nn import functional

from ...core.gaussian import mvn, psd_factor
from ...core.model import GaussianInitial, LinearConditional, LinearParameters, StateSpaceModel
from ...core.undefined import undefined


class LinearModel(StateSpaceModel):
    """A linear-Gaussian model known by `linear_parameters`, from which its densities follow.

    The densities take `(*axes, state)` with time, if any, as the last of `axes`; parameters that
    differ per series are for the exact methods, which read `linear_parameters`.
    """

    def linear_parameters(
        self, u: Tensor | None = None, dt: Tensor | None = None
    ) -> LinearParameters:
        """Return every matrix of the model.

        Args:
            u: Inputs, `(*batch, time, input)`.
            dt: Time steps, `(*batch, time)` or `()`.
        """
        raise undefined(self, "linear_parameters(self, u, dt)", "return its `LinearParameters`")

    def initial(self) -> MultivariateNormal:
        """Return `p(z_1)`.

        Raises:
            ValueError: the start is diffuse, so there is no density to sample or score.
        """
        mean, cov, diffuse = self._start()
        if diffuse is not None and diffuse.shape[-1]:
            raise ValueError(
                f"`{type(self).__name__}` starts with infinite variance in {diffuse.shape[-1]} "
                "direction(s), so `z_1` has no distribution to draw from or to score. "
                "`Kalman()` handles the diffuse start exactly."
            )
        return mvn(mean, psd_factor(cov, "P0"))

    def transition(
        self, z: Tensor, u: Tensor | None = None, dt: Tensor | None = None
    ) -> MultivariateNormal:
        """Return `p(z_t | z_{t-1} = z)`, a density that may be singular.

        Args:
            z: `(*axes, state)`.
            u: `(*axes, input)`.
            dt: `(*axes)` or `()`.
        """
        return _conditional(self._transition_part(_lift(u), dt), z)

    def emission(self, z: Tensor, u: Tensor | None = None) -> MultivariateNormal:
        """Return `p(y_t | z_t = z, u_t)`.

        Args:
            z: `(*axes, state)`.
            u: `(*axes, input)`.
        """
        return _conditional(self._emission_part(_lift(u)), z)

    def _start(self) -> GaussianInitial:
        return self.linear_parameters(None, None).initial

    def _transition_part(self, u: Tensor | None, dt: Tensor | None) -> LinearConditional:
        return self.linear_parameters(u, dt).transition

    def _emission_part(self, u: Tensor | None) -> LinearConditional:
        return self.linear_parameters(u, None).emission


def block_diagonal(blocks: list[Tensor]) -> Tensor:
    """Return the blocks, `(*batch, time, r, c)` each, along the diagonal of one matrix."""
    rows = [block.shape[-2] for block in blocks]
    columns = [block.shape[-1] for block in blocks]
    total = blocks[0].new_zeros(())
    for i, block in enumerate(blocks):
        right, below = sum(columns[i + 1 :]), sum(rows[i + 1 :])
        total = total + functional.pad(block, (sum(columns[:i]), right, sum(rows[:i]), below))
    return total


def solve_stationary(A: Tensor, Q: Tensor) -> Tensor:
    """Return the `P` of `P = A P A' + Q`, by one linear solve.

    Args:
        A: Stable, `(*batch, n, n)`.
        Q: `(*batch, n, n)`.

    Source: Hamilton (1994), Time Series Analysis, equation 10.2.18.
    """
    n = A.shape[-1]
    A, Q = torch.broadcast_tensors(A, Q)
    kron = (A[..., :, None, :, None] * A[..., None, :, None, :]).reshape(*A.shape[:-2], n * n, -1)
    eye = torch.eye(n * n, dtype=A.dtype, device=A.device)
    P = torch.linalg.solve(eye - kron, Q.reshape(*Q.shape[:-2], n * n, 1)).reshape(Q.shape)
    return (P + P.mT) / 2


def _lift(u: Tensor | None) -> Tensor | None:
    return u[None] if u is not None and u.ndim == 1 else u


def _conditional(conditional: LinearConditional, z: Tensor) -> MultivariateNormal:
    matrix, offset, cov = conditional
    if z.ndim == 1:  # one step without any axis: drop the time axis of the matrices
        matrix, offset, cov = matrix.squeeze(-3), offset.squeeze(-2), cov.squeeze(-3)
    mean = (matrix @ z[..., None])[..., 0] + offset
    return mvn(mean, psd_factor(cov, "cov"))
