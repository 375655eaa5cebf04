"""The distribution of one step of a two-layer model: linear state, pseudo-observation, memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Normal, constraints


class TwoLayerState(TorchDistribution):
    """`z ~ N(mean, q^2)`, `a ~ N(C z, r^2)`, `h = f(a, h_before)`, in this order.

    The density is that of `z` and `a`; `h` follows from them. The variance of `h` is 0 here.

    Args:
        mean: `(*axes, linear)`.
        q: `(linear,)`.
        r: `(latent,)`.
        C: `(latent, linear)`.
        h: Memory before, `(*axes, memory)`.
        remember: Maps `(*axes, 1, latent)` and a memory to `(*axes, 1, memory)`.
    """

    has_rsample = True
    arg_constraints: dict[str, constraints.Constraint] = {}  # pyright: ignore[reportIncompatibleMethodOverride]
    support = constraints.real_vector  # type: ignore[assignment]

    def __init__(
        self,
        mean: Tensor,
        q: Tensor,
        r: Tensor,
        C: Tensor,
        h: Tensor,
        remember: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        self.linear_mean, self.q, self.r, self.C = mean, q, r, C
        self.h, self.remember = h, remember
        size = mean.shape[-1] + len(r) + h.shape[-1]
        super().__init__(mean.shape[:-1], torch.Size((size,)), validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> TwoLayerState:
        """Return the same distribution for more axes."""
        mean, h = (x.expand(*batch_shape, x.shape[-1]) for x in (self.linear_mean, self.h))
        return TwoLayerState(mean, self.q, self.r, self.C, h, self.remember)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw states, `(*sample_shape, *axes, state)`."""
        shape = torch.Size((*sample_shape, *self.batch_shape))
        z = Normal(self.linear_mean, self.q).rsample(torch.Size(sample_shape))
        a = Normal(z @ self.C.mT, self.r).rsample()
        return self._with_memory(z, a, shape)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw states without a gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return `log p(z) + log p(a | z)` in nats, `axes`."""
        n, p = len(self.q), len(self.r)
        z, a = value[..., :n], value[..., n : n + p]
        first = Normal(self.linear_mean, self.q).log_prob(z).sum(-1)
        return first + Normal(z @ self.C.mT, self.r).log_prob(a).sum(-1)

    @property
    def mean(self) -> Tensor:
        """Means of `z` and `a`, and the memory that the mean of `a` leaves."""
        a = self.linear_mean @ self.C.mT
        return self._with_memory(self.linear_mean, a, self.batch_shape)

    @property
    def covariance_matrix(self) -> Tensor:
        """Covariance of `z` and `a`, which share the noise of `z`; zeros for the memory."""
        Q, R = self.q.square().diag(), self.r.square().diag()
        top = torch.cat((Q, Q @ self.C.mT), -1)
        both = torch.cat((top, torch.cat((self.C @ Q, self.C @ Q @ self.C.mT + R), -1)))
        full = torch.block_diag(both, Q.new_zeros(self.h.shape[-1], self.h.shape[-1]))
        return full.expand(*self.batch_shape, *full.shape)

    @property
    def variance(self) -> Tensor:
        """The diagonal of that."""
        return self.covariance_matrix.diagonal(dim1=-2, dim2=-1)

    def _with_memory(self, z: Tensor, a: Tensor, shape: torch.Size) -> Tensor:
        h = self.h.expand(*shape, self.h.shape[-1])
        return torch.cat((z, a, self.remember(a[..., None, :], h)[..., 0, :]), -1)
