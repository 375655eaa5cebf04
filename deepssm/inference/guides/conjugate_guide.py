"""A guide whose network says what each observation means, and whose smoother is exact."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.arguments import checked
from ...core.guides import FeatureReader
from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import observed_steps
from .chain_posterior import ChainPosterior
from .encoders.features import Reader
from .linearized_guide import information_loop


@checked
class ConjugateGuide(nn.Module):
    """`q(z_{1:T}) ~ p(z_{1:T}) prod_t N(x_t; H z_t, 1 / lambda_t)`, normalised exactly.

    A network turns the observation of a step into a pseudo-observation `x_t` with precision
    `lambda_t`; the prior of linear dynamics and these potentials are combined by the backward
    information filter, without approximation. A step that nobody saw has no potential. The
    family holds the exact posterior of every linear-Gaussian model with at most `pseudo`
    components observed; with another emission it is a structured variational autoencoder.

    Args:
        obs_dim: Size of `y`.
        state_dim: Size of `z`.
        input_dim: Size of `u`; 0 when there is none.
        hidden: Width of the network.
        pseudo: Size of `x`, by default `state_dim`.
        encoder: Another network from `reader.size` features of a step to `hidden`, such as
            convolutions for images.
        own_dynamics: Whether the guide learns linear dynamics of its own, which it must where
            the model's are nonlinear; otherwise it uses the model's.
        reader: Turns a series into features.

    Source: Johnson et al. (2016), Composing graphical models with neural networks; Zhao,
    Linderman (2023), Revisiting structured variational autoencoders.
    """

    def __init__(
        self,
        obs_dim: int,
        state_dim: int,
        input_dim: int = 0,
        *,
        hidden: int = 32,
        pseudo: int | None = None,
        encoder: nn.Module | None = None,
        own_dynamics: bool = False,
        reader: FeatureReader | None = None,
    ) -> None:
        super().__init__()
        self.state_dim, self.obs_dim, self.hidden = state_dim, obs_dim, hidden
        self.input_dim = input_dim
        self.pseudo = pseudo or state_dim
        self.reader = reader or Reader(obs_dim, input_dim, changes=False)
        self.encoder = encoder or nn.Sequential(nn.Linear(self.reader.size, hidden), nn.Tanh())
        self.output = nn.Linear(hidden, 2 * self.pseudo)
        self.skip = nn.Linear(self.reader.size, self.pseudo, bias=False) if not encoder else None
        self.read = nn.Parameter(torch.eye(self.pseudo, state_dim))
        self.own = LinearDynamics(state_dim) if own_dynamics else None
        with torch.no_grad():
            self.output.weight.mul_(0.1)
            self.output.bias.zero_()
            if self.skip is not None:
                self.skip.weight.zero_()
                self.skip.weight[:, :obs_dim] += torch.eye(self.pseudo, obs_dim)

    def initialize_from(self, model: StateSpaceModel, series: Series) -> None:
        """Store the data's location and scale.

        Args:
            model: The model, already initialised.
            series: Training data; NaN in `y` is ignored.

        Raises:
            ValueError: the model's transition is not linear and the guide has no dynamics.
        """
        self.reader.initialize_from(series)
        if self.own is None and not _is_linear(model, series):
            raise ValueError(
                "`model` has a transition that is not linear in the state, which a "
                "`ConjugateGuide` cannot combine exactly: pass `own_dynamics=True`."
            )

    def forward(self, model: StateSpaceModel, series: Series) -> ChainPosterior:
        """Return `q(z_{1:T} | y, u)`, batch shape `(*batch,)`, event shape `(time, state)`.

        Args:
            model: The model whose states are inferred.
            series: Data; NaN in `y` is missing.
        """
        return self.decode(model, series, self.encode(series))

    def encode(self, series: Series) -> Tensor:
        """Return each step's `x_t` and raw precision, `(*batch, time, 2 pseudo)`."""
        features = self.reader(series)
        context = self.output(self.encoder(features))
        if self.skip is None:
            return context
        return context + F.pad(self.skip(features), (0, self.pseudo))

    def decode(self, model: StateSpaceModel, series: Series, context: Tensor) -> ChainPosterior:
        """Return the posterior that contexts stand for, whoever found them; see `refine`."""
        J, j = self.potentials(series, context)
        parts = linear_dynamics(model, series) if self.own is None else self.own(series)
        gates, drive, cov = information_loop(*(part.double() for part in (*parts, J, j)))
        return self._posterior(model, series, gates, drive, cov, observed_steps(series.y))

    def filtering(self, model: StateSpaceModel, series: Series) -> ChainPosterior:
        """Return the guide whose step `t` is that of a series which ends at `t`."""
        J, j = self.potentials(series, self.encode(series))
        parts = linear_dynamics(model, series) if self.own is None else self.own(series)
        A, b, Q, J, j = (part.double() for part in (*parts, J, j))
        eye = torch.eye(self.state_dim, dtype=Q.dtype, device=Q.device)
        W = torch.linalg.inv(eye + Q[..., :, None] * J)
        cov = W * Q[..., None, :]
        cov = (cov + cov.mT) / 2
        drive = (W @ b[..., None] + cov @ j[..., None])[..., 0]
        seen = (~torch.isnan(series.y)).any(-1)
        return self._posterior(model, series, W @ A, drive, cov, seen)

    def potentials(self, series: Series, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return `J, j` of `exp(-z' J z / 2 + j' z)`, 0 where nothing was seen."""
        location, raw = context.chunk(2, dim=-1)
        seen = (~torch.isnan(series.y)).any(-1, keepdim=True)
        precision = F.softplus(raw) * seen
        weighted = self.read.mT * precision[..., None, :]
        return weighted @ self.read, (weighted @ location[..., None])[..., 0]

    def _posterior(
        self,
        model: StateSpaceModel,
        series: Series,
        gates: Tensor,
        drive: Tensor,
        cov: Tensor,
        steps: Tensor,
    ) -> ChainPosterior:
        # A broken model gives NaN here, not an error, so that the learner can go back.
        chol = torch.linalg.cholesky_ex(cov).L
        dtype = series.y.dtype
        return ChainPosterior(
            model, series, gates.to(dtype), drive.to(dtype), chol.to(dtype), steps
        )


@checked
class LinearDynamics(nn.Module):
    """`z_1 ~ N(m, s^2)`, `z_t ~ N(A z_{t-1} + b, q^2)`: dynamics of a guide's own.

    Args:
        state_dim: Size of `z`.
    """

    def __init__(self, state_dim: int) -> None:
        super().__init__()
        self.A = nn.Parameter(0.9 * torch.eye(state_dim))
        self.b = nn.Parameter(torch.zeros(state_dim))
        self.mean = nn.Parameter(torch.zeros(state_dim))
        self.raw = nn.Parameter(torch.zeros(2, state_dim))

    def forward(self, series: Series) -> tuple[Tensor, Tensor, Tensor]:
        """Return `F, f, Q` as `linear_dynamics` does."""
        axes, n = (*series.batch_shape, series.time), len(self.b)
        first = (torch.arange(series.time, device=self.b.device) == 0)[:, None]
        scale = F.softplus(self.raw) + 1e-3
        matrix = torch.where(first[..., None], torch.zeros_like(self.A), self.A)
        offset = torch.where(first, self.mean, self.b)
        variance = torch.where(first, scale[0], scale[1]).square()
        return matrix.expand(*axes, n, n), offset.expand(*axes, n), variance.expand(*axes, n)


def linear_dynamics(model: StateSpaceModel, series: Series) -> tuple[Tensor, Tensor, Tensor]:
    """Return `F, f, Q` of a model whose transition is linear, with their gradients.

    Args:
        model: Its transition is evaluated at 0 and at the unit states.
        series: Inputs and time steps.

    Returns:
        Matrices `(*batch, time, state, state)`, entry 0 zero; offsets and variances
        `(*batch, time, state)`, entry 0 those of `z_1`.
    """
    axes, n = series.batch_shape, model.state_dim
    initial = model.initial()
    f, Q = (x.expand(*axes, 1, n) for x in (initial.mean, initial.variance))
    matrix = f.new_zeros(*axes, 1, n, n)
    if series.time == 1:
        return matrix, f, Q
    u = None if series.u is None else series.u[..., 1:, :]
    dt = series.dt if series.dt is None or series.dt.ndim == 0 else series.dt[..., 1:]
    points = torch.cat([f.new_zeros(1, n), torch.eye(n, dtype=f.dtype, device=f.device)])
    points = points.reshape(n + 1, *(1 for _ in axes), 1, n)
    moved = model.transition(points.expand(n + 1, *axes, series.time - 1, n), u, dt)
    columns = (moved.mean[1:] - moved.mean[0]).movedim(0, -1)
    variance = moved.variance[0]
    return (
        torch.cat([matrix, columns], dim=-3),
        torch.cat([f, moved.mean[0]], dim=-2),
        torch.cat([Q, variance], dim=-2),
    )


def _is_linear(model: StateSpaceModel, series: Series) -> bool:
    """Return whether a transition obeys `f(a) + f(b) = f(a + b) + f(0)` with one variance."""
    n = model.state_dim
    a = torch.linspace(0.3, 2.0, n, dtype=model.dtype, device=model.device)
    points = torch.stack([a, -1.7 * a.flip(0), a - 1.7 * a.flip(0), torch.zeros_like(a)])
    u = None if series.u is None else series.u.reshape(-1, series.u.shape[-1])[:1]
    dt = None if series.dt is None else series.dt.reshape(-1)[-1]
    with torch.no_grad():
        moved = model.transition(points, u, dt)
    one, two, both, none = moved.mean
    return bool(torch.allclose(one + two, both + none, rtol=1e-4, atol=1e-5)) and bool(
        torch.allclose(moved.variance, moved.variance[:1])
    )
