"""Models that a stranger might write: no class of ours but the base."""

from __future__ import annotations

import torch
from pyro.distributions import Independent, Normal
from torch import Tensor, nn
from torch.distributions import Distribution

import deepssm as ds


class OwnNetwork(ds.StateSpaceModel):
    """A stranger's model: one network moves the state."""

    state_dim, obs_dim = 2, 1

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 2)

    def initial(self) -> Distribution:
        return Independent(Normal(torch.zeros(2), torch.ones(2)), 1)

    def transition(
        self, z: Tensor, u: Tensor | None = None, dt: Tensor | None = None
    ) -> Distribution:
        return Independent(Normal(self.net(z).tanh(), 0.3), 1)

    def emission(self, z: Tensor, u: Tensor | None = None) -> Distribution:
        return Independent(Normal(z[..., :1], 0.5), 1)


class OwnParameter(OwnNetwork):
    """The same without a network."""

    def __init__(self) -> None:
        super().__init__()
        del self.net
        self.rate = nn.Parameter(torch.tensor(0.5))

    def transition(
        self, z: Tensor, u: Tensor | None = None, dt: Tensor | None = None
    ) -> Distribution:
        return Independent(Normal(self.rate * z.tanh(), 0.3), 1)


class OwnLinear(OwnNetwork):
    """A network and an exact method: learnt by maximum likelihood."""

    def linear_parameters(self, u: Tensor | None, dt: Tensor | None) -> object:
        raise NotImplementedError
