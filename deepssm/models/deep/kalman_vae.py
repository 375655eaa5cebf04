"""The Kalman variational autoencoder: linear states under learnt pseudo-observations."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ...core.arguments import checked
from ...core.model import (
    GaussianInitial,
    LinearConditional,
    LinearParameters,
    Series,
    StateSpaceModel,
)
from .emissions import BernoulliEmission, GaussianEmission
from .emissions_discrete import PoissonEmission
from .kalman_vae_state import TwoLayerState
from .parts import Emission, InitializesEmission

_NOISE = 0.3  # starting standard deviations; a tenth of it left half of the seeds in folded `a`
_MIN_VARIANCE = 1e-6


@checked
class KalmanVAE(StateSpaceModel):
    """`z_t = A_t z_{t-1} + B_t u_t + w_t`, `a_t = C z_t + v_t`, `y_t ~ p(y_t | a_t)`.

    `A_t = sum_k alpha_k A_k`, and `B_t` alike, with weights `alpha = softmax(W h_{t-1})` from a
    recurrent network `h_t = GRU(h_{t-1}, a_t)` over past pseudo-observations; `w ~ N(0, Q)`,
    `v ~ N(0, R)`, diagonal. Given `a` all of `z` is exact; `ds.fit` learns on a bound in which `z`
    is integrated out.

    The state of all methods is `(z, a, h)`, the last without noise; `split` takes it apart.
    `A_k` start as motion at constant velocity, of constant acceleration for larger `state_dim`.

    Args:
        obs: Number of components of `y`, or the height and width of an image.
        latent_dim: Size of `a`.
        state_dim: Size of `z`; `model.state_dim` is that of `(z, a, h)`.
        modes: Number of matrices that are mixed; 1 is a plain linear system.
        input_dim: Size of `u`.
        likelihood: Of `y` given `a`: `"gaussian"`, `"bernoulli"` or `"poisson"`.
        emission: A module for `p(y_t | a_t)` instead, such as `ImageEmission(latent_dim, 24, 24)`.
        hidden: Width of the network of the likelihood.
        memory: Size of `h`, where there are several modes.

    Raises:
        ValueError: a size is not positive.

    Source: Fraccaro, Kamronn, Paquet, Winther (2017), A disentangled recognition and nonlinear
    dynamics model for unsupervised learning.
    """

    u_loc: Tensor
    u_spread: Tensor
    initialized: Tensor
    reads_time = False

    def __init__(
        self,
        obs: int | tuple[int, int],
        latent_dim: int = 2,
        state_dim: int = 4,
        modes: int = 3,
        *,
        input_dim: int = 0,
        likelihood: Literal["gaussian", "bernoulli", "poisson"] = "gaussian",
        emission: Emission | None = None,
        hidden: int = 64,
        memory: int = 16,
    ) -> None:
        super().__init__()
        self.image_size = obs if isinstance(obs, tuple) else None
        self.obs_dim = obs[0] * obs[1] if isinstance(obs, tuple) else obs
        _check_positive(
            obs=self.obs_dim, latent_dim=latent_dim, state_dim=state_dim, modes=modes,
            hidden=hidden, memory=memory,
        )  # fmt: skip
        self.linear_dim, self.latent_dim, self.modes = state_dim, latent_dim, modes
        self.input_dim, self.memory_dim = input_dim, memory if modes > 1 else 0
        self.state_dim = state_dim + latent_dim + self.memory_dim
        self.emission_net = emission or _emission(likelihood, latent_dim, self.obs_dim, hidden)
        if modes > 1:
            self.memory = nn.GRU(latent_dim, memory, batch_first=True)
            self.mixture = nn.Linear(memory, modes)
        self.A = nn.Parameter(_chains(state_dim, latent_dim, modes))
        self.B = nn.Parameter(torch.zeros(modes, state_dim, input_dim))
        self.C = nn.Parameter(torch.eye(latent_dim, state_dim))
        self.log_q = nn.Parameter(torch.full((state_dim,), _NOISE).log())
        self.log_r = nn.Parameter(torch.full((latent_dim,), _NOISE).log())
        self.initial_mean = nn.Parameter(torch.zeros(state_dim))
        self.log_p0 = nn.Parameter(torch.zeros(state_dim))
        self.register_buffer("u_loc", torch.zeros(input_dim))
        self.register_buffer("u_spread", torch.ones(input_dim))
        self.register_buffer("initialized", torch.tensor(False))

    def linear_parameters_given(
        self, a: Tensor, u: Tensor | None = None, dt: Tensor | None = None
    ) -> LinearParameters:
        """Return the matrices of `p(z, a)`, their weights read from `a` of earlier steps.

        Args:
            a: `(*batch, time, latent)`.
            u: `(*batch, time, input)` or `None`.
            dt: Not used: steps are equal.
        """
        first = a.new_zeros(*a.shape[:-2], 1, self.memory_dim)
        weights = self.weights(torch.cat((first, self.memories(a)[..., :-1, :]), -2))
        A, b = self._mixed(weights, u)
        Q, R, P0 = (torch.diag_embed(_variance(x)) for x in (self.log_q, self.log_r, self.log_p0))
        return LinearParameters(
            GaussianInitial(self.initial_mean, P0),
            LinearConditional(A, b, Q[None]),
            LinearConditional(self.C[None], a.new_zeros(1, self.latent_dim), R[None]),
        )

    def emission_given(self, a: Tensor, u: Tensor | None = None) -> Distribution:
        """Return `p(y_t | a_t = a)`.

        Args:
            a: `(*axes, latent)`.
            u: Not used: inputs reach `y` through the state.
        """
        return self.emission_net(a)

    def state_given(self, z: Tensor, a: Tensor) -> Tensor:
        """Return `(z, a, h)` of paths of `z` and `a`.

        Args:
            z: `(*batch, time, linear)`.
            a: `(*batch, time, latent)`.
        """
        return torch.cat((z, a, self.memories(a)), -1)

    def split(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return `z`, `a` and `h` of states `(*axes, state)`."""
        z, a, h = state.split((self.linear_dim, self.latent_dim, self.memory_dim), -1)
        return z, a, h

    def weights(self, h: Tensor) -> Tensor:
        """Return the weights of the modes given memories `(*axes, memory)`."""
        if self.modes == 1:
            return h.new_ones(*h.shape[:-1], 1)
        return torch.softmax(self.mixture(h), -1)

    def memories(self, a: Tensor, h: Tensor | None = None) -> Tensor:
        """Return the memory after each step, `(*batch, time, memory)`.

        Args:
            a: `(*batch, time, latent)`.
            h: Memory before the first, `(*batch, memory)`; zeros by default.
        """
        if self.modes == 1:
            return a.new_zeros(*a.shape[:-1], 0)
        rows = a.reshape(-1, *a.shape[-2:])
        start = None if h is None else h.reshape(1, -1, self.memory_dim).contiguous()
        return self.memory(rows, start)[0].reshape(*a.shape[:-1], self.memory_dim)

    def initial(self) -> TwoLayerState:
        """Return `p(z_1, a_1, h_1)`."""
        h = self.initial_mean.new_zeros(self.memory_dim)
        return self._state(self.initial_mean, self.log_p0, h)

    def transition(
        self, z: Tensor, u: Tensor | None = None, dt: Tensor | None = None
    ) -> TwoLayerState:
        """Return `p(z_t, a_t, h_t | z_{t-1}, h_{t-1})`.

        Args:
            z: `(*axes, state)`.
            u: `(*axes, input)` or `None`.
            dt: Not used.
        """
        linear, _, h = self.split(z)
        A, b = self._mixed(self.weights(h), u)
        return self._state((A @ linear[..., None])[..., 0] + b, self.log_q, h)

    def emission(self, z: Tensor, u: Tensor | None = None) -> Distribution:
        """Return `p(y_t | a_t)`.

        Args:
            z: `(*axes, state)`.
            u: Not used.
        """
        return self.emission_given(self.split(z)[1], u)

    def initialize_from(self, series: Series) -> None:
        """Take the scales of the data, once.

        Args:
            series: The training data; NaN in `y` is ignored.
        """
        if self.initialized:
            return
        self.initialized.fill_(True)
        if series.u is not None and self.input_dim:
            rows = series.u.reshape(-1, self.input_dim)
            spread = rows.std(0, correction=0)
            self.u_loc.copy_(rows.mean(0))
            self.u_spread.copy_(torch.where(spread > 0, spread, torch.ones_like(spread)))
        if isinstance(self.emission_net, InitializesEmission):
            self.emission_net.initialize_from(series.y)

    @property
    def neural(self) -> bool:
        """True whatever its parts are."""
        return True

    @property
    def state_names(self) -> tuple[str, ...]:
        """`z0, ..., a0, ..., h0, ...`."""
        sizes = {"z": self.linear_dim, "a": self.latent_dim, "h": self.memory_dim}
        return tuple(f"{name}{i}" for name, size in sizes.items() for i in range(size))

    def _mixed(self, weights: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return `A_t` and `B_t u_t`."""
        A = torch.einsum("...k,kij->...ij", weights, self.A)
        if u is None or not self.input_dim:
            return A, A.new_zeros(*A.shape[:-1])
        B = torch.einsum("...k,kij->...ij", weights, self.B)
        return A, (B @ ((u - self.u_loc) / self.u_spread)[..., None])[..., 0]

    def _state(self, mean: Tensor, log_scale: Tensor, h: Tensor) -> TwoLayerState:
        scales = _variance(log_scale).sqrt(), _variance(self.log_r).sqrt()
        return TwoLayerState(mean, *scales, self.C, h, self.memories)


def _variance(log_scale: Tensor) -> Tensor:
    return (2 * log_scale).exp() + _MIN_VARIANCE


def _chains(state_dim: int, latent_dim: int, modes: int) -> Tensor:
    """Return one integrator chain per component of `a`, a little different for each mode."""
    chain = (
        torch.eye(state_dim)
        + torch.diag(torch.ones(max(state_dim - latent_dim, 0)), latent_dim)[
            :state_dim, :state_dim
        ]
    )
    jitter = 0.05 * torch.randn(modes, state_dim, state_dim) if modes > 1 else torch.zeros(1, 1, 1)
    return chain + jitter


def _emission(likelihood: str, latent_dim: int, obs_dim: int, hidden: int) -> nn.Module:
    if likelihood == "bernoulli":
        return BernoulliEmission(latent_dim, obs_dim, hidden=hidden)
    if likelihood == "poisson":
        return PoissonEmission(latent_dim, obs_dim, hidden=hidden)
    if likelihood == "gaussian":
        return GaussianEmission(latent_dim, obs_dim, hidden=hidden)
    raise ValueError(
        f"`likelihood` is 'gaussian', 'bernoulli' or 'poisson', got {likelihood!r}: pass a module "
        "as `emission` for another one."
    )


def _check_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"`{name}` must be at least 1, got {size}.")
