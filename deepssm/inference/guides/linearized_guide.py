"""A guide that needs no training: the exact posterior of the model linearised along its path."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from ...core.arguments import checked
from ...core.gradients import gradients_on, recordable
from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import observed_steps
from ...linear import matrix_scan
from .chain_posterior import ChainPosterior
from .conditionals import Path


class Linearization(NamedTuple):
    """`z_t ~ N(F_t z_{t-1} + f_t, Q_t)`, `y_t ~ N(H_t z_t + h_t, R_t)` near a path; diagonal Q, R.

    Attributes:
        F: `(*batch, time, state, state)`; entry 0 is zero.
        f: `(*batch, time, state)`; entry 0 is the mean of `z_1`.
        Q: Variances, `(*batch, time, state)`; entry 0 is that of `z_1`.
        H: `(*batch, time, obs, state)`; rows of missing components are zero. Where states set the
            variance of the noise, as many rows again for what squared errors tell of it.
        residual: `y_t - h_t`, `(*batch, time, obs)`, 0 where missing.
        R: Variances, `(*batch, time, obs)`.
    """

    F: Tensor
    f: Tensor
    Q: Tensor
    H: Tensor
    residual: Tensor
    R: Tensor


@checked
class LinearizedGuide(nn.Module):
    """`q(z_{1:T})` = the model's smoothing distribution, linearised along its own smoothed mean.

    For a linear-Gaussian model with diagonal noises it is the exact posterior. It follows the
    model as that learns and has no weights; the bound's gradient reaches the model through the
    path's density alone, which makes training a stochastic expectation-maximisation.

    Args:
        iterations: How often the path is smoothed and the model linearised anew along it.

    Source: Bell (1994), The iterated Kalman smoother as a Gauss-Newton method; the backward
    information filter of Fraser, Potter (1969).
    """

    differentiates_model: bool = True

    def __init__(self, iterations: int = 1) -> None:
        super().__init__()
        self.iterations = iterations

    def forward(self, model: StateSpaceModel, series: Series) -> ChainPosterior:
        """Return `q(z_{1:T} | y, u)`, batch shape `(*batch,)`, event shape `(time, state)`.

        Args:
            model: The model; it is linearised without a gradient in its parameters.
            series: Data; NaN in `y` is missing.
        """
        path = first_path(model, series)
        for _ in range(self.iterations):
            gates, drive, cov = backward_information(linearize(model, series, path))
            path = matrix_scan(gates, drive).to(path.dtype)
        dtype = series.y.dtype
        # A broken model gives NaN here, not an error, so that the learner can go back.
        chol = torch.linalg.cholesky_ex(cov).L.to(dtype)
        steps = observed_steps(series.y)
        return ChainPosterior(model, series, gates.to(dtype), drive.to(dtype), chol, steps)

    def filtering(self, model: StateSpaceModel, series: Series) -> LinearizedProposal:
        """Return proposals for a particle filter: each step is linearised at the prior mean."""
        return LinearizedProposal(model, series, (~torch.isnan(series.y)).any(-1))


class LinearizedProposal(ChainPosterior):
    """The steps `q(z_t | z_{t-1}, y_t)`, by one extended Kalman update of the prior each."""

    def __init__(self, model: StateSpaceModel, series: Series, steps: Tensor) -> None:
        empty = series.y.new_empty(0)
        super().__init__(model, series, empty, empty, empty, steps)

    def proposal(self, z: Tensor, prior: Distribution, t: int) -> Path:
        """Return `q(z_t | z_{t-1} = z)`; see `StepwisePosterior.proposal`."""
        u = None if self.series.u is None else self.series.u[..., t, :]
        y, mean, Q = self.series.y[..., t, :], prior.mean, prior.variance
        H, predicted, R = _emission_moments(self.model, mean, u)
        seen = ~torch.isnan(y)
        weighted = torch.where(seen[..., None], H, torch.zeros_like(H)).mT / R[..., None, :]
        residual = torch.where(seen, y - predicted, torch.zeros_like(predicted))
        eye = torch.eye(Q.shape[-1], dtype=Q.dtype, device=Q.device)
        W = torch.linalg.inv(eye + Q[..., None] * (weighted @ H))
        cov = _symmetric(W * Q[..., None, :])
        chol = torch.linalg.cholesky_ex(cov).L
        centre = mean + (cov @ weighted @ residual[..., None])[..., 0]
        return Path(z, centre, chol.diagonal(dim1=-2, dim2=-1), chol)


def first_path(model: StateSpaceModel, series: Series) -> Tensor:
    """Return a path near the data: each step updates `p(z_1)` alone, gaps keep the last one.

    Args:
        model: Any model with a real state.
        series: Data; NaN in `y` is missing.

    Returns:
        `(*batch, time, state)`.
    """
    initial = model.initial()
    start = initial.mean.detach().expand(*series.batch_shape, series.time, -1)
    H, mean, R = _emission_moments(model, start, series.u)
    seen = ~torch.isnan(series.y)
    H = torch.where(seen[..., None], H, torch.zeros_like(H))
    residual = torch.where(seen, series.y - mean, torch.zeros_like(mean))
    spread = H * initial.variance.detach()[..., None, :]
    cov = spread @ H.mT + torch.diag_embed(R.expand_as(mean))
    path = start + (spread.mT @ torch.linalg.solve_ex(cov, residual[..., None]).result)[..., 0]
    index = torch.arange(series.time, device=path.device) * seen.any(-1)
    index = index.cummax(-1).values[..., None]
    return path.gather(-2, index.expand_as(path))


def linearize(model: StateSpaceModel, series: Series, path: Tensor) -> Linearization:
    """Linearise means at a path and take the variances there, without a gradient.

    Args:
        model: Any model with a real state; variances off the diagonal are dropped.
        series: Data; NaN in `y` is missing.
        path: `(*batch, time, state)`.
    """
    axes, initial = path.shape[:-2], model.initial()
    F = [path.new_zeros(*axes, 1, path.shape[-1], path.shape[-1])]
    f = [initial.mean.detach().expand(*axes, 1, -1)]
    Q = [initial.variance.detach().expand(*axes, 1, -1)]
    if series.time > 1:
        before = path[..., :-1, :].detach()
        u = None if series.u is None else series.u[..., 1:, :]
        dt = series.dt if series.dt is None or series.dt.ndim == 0 else series.dt[..., 1:]
        jacobian, mean, variance = _jacobian(lambda z: model.transition(z, u, dt), before)
        F.append(jacobian)
        f.append(mean - (jacobian @ before[..., None])[..., 0])
        Q.append(variance.expand_as(mean))
    H, mean, R = _emission_moments(model, path, series.u)
    seen, error, R = ~torch.isnan(series.y), series.y - mean, R.expand_as(mean)
    more = _variance_rows(model, path, series)
    if more is not None:
        parts = zip((H, error, R), more, (-2, -1, -1), strict=True)
        H, error, R = (torch.cat((mean_part, own), axis) for mean_part, own, axis in parts)
        seen = torch.cat((seen, seen), -1)
    residual = error + (H @ path.detach()[..., None])[..., 0]
    return Linearization(
        torch.cat(F, dim=-3),
        torch.cat(f, dim=-2),
        torch.cat(Q, dim=-2),
        torch.where(seen[..., None], H, torch.zeros_like(H)),
        torch.where(seen, residual, torch.zeros_like(residual)),
        R,
    )


def backward_information(parts: Linearization) -> tuple[Tensor, Tensor, Tensor]:
    """Return `A, b, S` of `p(z_t | z_{t-1}, y_{t:T}) = N(A_t z_{t-1} + b_t, S_t)`.

    With `p(y_{t:T} | z_t)` proportional to `exp(-z' L z / 2 + l' z)` and `W = (I + Q L)^-1`:
    `S = W Q`, `A = W F`, `b = W f + S l`, and one step back `L <- J + F' L W F`,
    `l <- j + F' (W' l - L W f)`. Neither `Q` nor `L` is inverted. In float64 throughout.

    Args:
        parts: A linearised model.
    """
    F, f, Q, H, residual, R = (part.double() for part in parts)
    weighted = H.mT / R[..., None, :]
    J, j = weighted @ H, (weighted @ residual[..., None])[..., 0]
    if F.device.type == "cpu":
        return _compiled_pass(F, f, Q, J, j)
    return information_loop(F, f, Q, J, j)


def information_loop(
    F: Tensor, f: Tensor, Q: Tensor, J: Tensor, j: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the pass of `backward_information` step by step on any device.

    Args:
        F: `(*batch, time, state, state)`.
        f: `(*batch, time, state)`.
        Q: Variances, `(*batch, time, state)`.
        J: Information of each observation, `(*batch, time, state, state)`.
        j: Its vector, `(*batch, time, state)`.
    """
    information, vector = torch.zeros_like(J[..., 0, :, :]), torch.zeros_like(j[..., 0, :, None])
    eye = torch.eye(Q.shape[-1], dtype=Q.dtype, device=Q.device)
    gates, drive, cov = [], [], []
    for t in reversed(range(Q.shape[-2])):
        information, vector = J[..., t, :, :] + information, j[..., t, :, None] + vector
        W = torch.linalg.inv(eye + Q[..., t, :, None] * information)
        S, start = W * Q[..., t, None, :], f[..., t, :, None]
        gates.append(W @ F[..., t, :, :])
        drive.append((W @ start + S @ vector)[..., 0])
        cov.append(_symmetric(S))
        back, M = F[..., t, :, :].mT, information @ W
        vector = back @ (W.mT @ vector - M @ start)
        information = _symmetric(back @ M @ F[..., t, :, :])
    return (
        torch.stack(gates[::-1], dim=-3),
        torch.stack(drive[::-1], dim=-2),
        torch.stack(cov[::-1], dim=-3),
    )


def _compiled_pass(*parts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    from .recurrences.information_filter import backward_pass

    batch, n = parts[0].shape[:-3], parts[0].shape[-1]
    arrays = [part.reshape(-1, *part.shape[len(batch) :]).contiguous().numpy() for part in parts]
    F, f, Q, J, j = arrays
    gates, drive, cov = np.empty_like(F), np.empty_like(f), np.empty_like(F)
    backward_pass(F, f, Q, J, j, gates, drive, cov)
    time = F.shape[1]
    return (
        torch.from_numpy(gates).reshape(*batch, time, n, n),
        torch.from_numpy(drive).reshape(*batch, time, n),
        torch.from_numpy(cov).reshape(*batch, time, n, n),
    )


def _jacobian(
    conditional: Callable[[Tensor], Distribution], point: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return Jacobian of the mean, mean and variance, of conditionals by row."""
    with gradients_on():
        point = recordable(point).detach().requires_grad_()
        here = conditional(point)
        slope = _rows(here.mean, point)
    return slope, here.mean.detach(), here.variance.detach()


def _rows(value: Tensor, point: Tensor) -> Tensor:
    """Return the Jacobian of `value` by row; zero where it does not read `point` at all."""
    if not value.requires_grad:
        return point.new_zeros(*point.shape[:-1], value.shape[-1], point.shape[-1])
    rows = [
        torch.autograd.grad(x.sum(), point, retain_graph=True, materialize_grads=True)[0]
        for x in value.unbind(-1)
    ]
    return torch.stack(rows, dim=-2)


def _variance_rows(
    model: StateSpaceModel, point: Tensor, series: Series
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return what squared errors tell of states that set the noise's variance, as observations.

    For `y ~ N(h(z), v(z))` the score of `v` is `(e^2 / v - 1) / 2` times the slope of `log v`,
    and its Fisher information half the square of that slope: an observation `e^2 / v - 1` with
    variance 2 of a linear state. Far above what `v` explains its logarithm is taken, which keeps
    a step from overshooting.

    Args:
        model: Any model with a real state.
        point: A path, `(*batch, time, state)`.
        series: Data; NaN in `y` is missing.

    Returns:
        Slopes, residuals about the path, and variances; `None` for noise that no state sets.

    Source: McCullagh & Nelder (1989), Generalized Linear Models, section 10.5, joint modelling of
    mean and dispersion.
    """
    point = point.detach().requires_grad_()
    with torch.enable_grad():
        emission = model.emission(point, series.u)
        while isinstance(emission, Independent):
            emission = emission.base_dist
        if not isinstance(emission, Normal) or not emission.scale.requires_grad:
            return None
        log_variance = 2 * emission.scale.log()
        slope = _rows(log_variance.expand_as(emission.loc), point)
    if not bool((slope != 0).any()):
        return None
    ratio = (series.y - emission.loc.detach()).square() / log_variance.detach().exp()
    score = torch.minimum(ratio - 1, 1 + ratio.clamp_min(1e-30).log())
    score = torch.where(ratio < 1, ratio - 1, score)
    return slope, score, torch.full_like(score, 2.0)


def _emission_moments(
    model: StateSpaceModel, point: Tensor, u: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return Jacobian, mean and variance of the emission."""
    H, mean, R = _jacobian(lambda z: model.emission(z, u), point)
    # A probability that rounds to 1 has neither slope nor variance here: it says nothing.
    mute = (R == 0) & (H == 0).all(-1)
    return H, mean, torch.where(mute, torch.ones_like(R), R)


def _symmetric(matrix: Tensor) -> Tensor:
    return 0.5 * (matrix + matrix.mT)
