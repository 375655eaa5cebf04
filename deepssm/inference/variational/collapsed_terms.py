"""The exact bound of two-layer models: `a` is drawn, the linear state integrated out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...core.guides import ReadsFrames
from ...core.model import LinearParameters, Series
from ...core.pyro_sites import observed_log_prob
from ...core.results import Filtered
from ...core.two_layers import ConditionallyLinear
from ..kalman.fixed_lag import Matrices
from ..kalman.method import Kalman


class PseudoObservations(NamedTuple):
    """Draws of `a` and the linear model that they leave.

    Attributes:
        a: `(draws, *batch, time, latent)`, NaN in frames that are not read.
        path: The same with the predicted `a` there, which the weights are fed by.
        log_q: `log q(a_t | y_t)`, `(draws, *batch, time)`; 0 where not read.
        parameters: Matrices of `p(z, a)` along the path.
    """

    a: Tensor
    path: Tensor
    log_q: Tensor
    parameters: LinearParameters


class BoundTerms(NamedTuple):
    """Terms of the bound, each `(draws, *batch, time)` in nats.

    Attributes:
        reconstruction: `log p(y_t | a_t)`.
        log_q: `log q(a_t | y_t)`.
        log_p: `log p(a_t | a_{<t}, u)`, the exact Kalman log-likelihood.
    """

    reconstruction: Tensor
    log_q: Tensor
    log_p: Tensor

    def weighted(self, divergence_weight: float = 1.0) -> Tensor:
        """Return reconstruction minus the weighted divergence, `(draws, *batch, time)`."""
        return self.reconstruction - divergence_weight * (self.log_q - self.log_p)


def pseudo_observations(
    model: ConditionallyLinear, encoder: ReadsFrames, series: Series, num_draws: int
) -> PseudoObservations:
    """Draw `a` from the encoder, with a gradient.

    Args:
        model: A two-layer model.
        encoder: Reads frames.
        series: Data, NaN where missing.
        num_draws: Draws of each series.
    """
    q = encoder(series.y)
    seen = encoder.reads(series.y)
    a = q.rsample(torch.Size((num_draws,)))
    log_q = q.log_prob(a).sum(-1)
    log_q = torch.where(seen, log_q, torch.zeros_like(log_q))
    return with_path(model, torch.where(seen[..., None], a, torch.nan), log_q, series)


def with_path(
    model: ConditionallyLinear, a: Tensor, log_q: Tensor, series: Series
) -> PseudoObservations:
    """Return draws of `a` with the linear model that they leave.

    Args:
        model: A two-layer model.
        a: `(draws, *batch, time, latent)`, NaN where unknown.
        log_q: `(draws, *batch, time)`.
        series: Inputs and time steps.
    """
    path = predicted_path(model, a, series)
    return PseudoObservations(a, path, log_q, _parameters(model, path, series))


def bound_terms(
    model: ConditionallyLinear, encoder: ReadsFrames, series: Series, num_draws: int = 1
) -> BoundTerms:
    """Return `E_q[log p(y | a) - log q(a | y) + log p(a | u)]` term by term, differentiable.

    `z` is never drawn: the last term is the exact log-likelihood of the time-varying linear model.
    In frames that are not read `q` is `p(a_t | a_{<t})`; those seen in part still count in full.

    Args:
        model: A two-layer model.
        encoder: Reads frames.
        series: Data, NaN where missing.
        num_draws: Draws of each series.

    Source: Fraccaro et al. (2017), equation 10, with the expectation over `z` in closed form.
    """
    drawn = pseudo_observations(model, encoder, series, num_draws)
    log_p = Kalman().log_likelihood(Matrices(drawn.parameters), Series(drawn.a))
    emission = model.emission_given(_drawn_unread(drawn, series.y), series.u)
    return BoundTerms(observed_log_prob(emission, series.y), drawn.log_q, log_p)


def predicted_path(model: ConditionallyLinear, a: Tensor, series: Series) -> Tensor:
    """Fill unknown `a` by their predictions `E[a_t | a_{<t}]`, without a gradient in these.

    The matrices of step `t` read `a` before it, so each sweep of the exact filter makes at least
    one more step right; sweeps end when nothing moves.

    Args:
        model: A two-layer model.
        a: `(*batch, time, latent)`, NaN where unknown.
        series: Inputs and time steps.
    """
    unknown = torch.isnan(a)
    path = torch.where(unknown, torch.zeros_like(a), a)
    if not bool(unknown.any()):
        return path
    with torch.no_grad():
        fill = path.detach()
        for _ in range(a.shape[-2]):
            parameters = _parameters(model, fill, series)
            found = Kalman().filter(Matrices(parameters), Series(a.detach()))
            moved = torch.where(unknown, predicted_a(parameters, found)[0], fill)
            change = (moved - fill).abs().max()
            fill = moved
            if float(change) <= 10 * torch.finfo(a.dtype).eps * float(fill.abs().max()):
                break
    return torch.where(unknown, fill, path)


def predicted_a(parameters: LinearParameters, found: Filtered) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of `p(a_t | a_{<t})`.

    Args:
        parameters: The matrices.
        found: What the exact filter says of `z`.
    """
    C, d, R = parameters.emission
    mean = (C @ found.predicted_mean.to(C.dtype)[..., None])[..., 0] + d
    return mean, C @ found.predicted_cov.to(C.dtype) @ C.mT + R


def _drawn_unread(drawn: PseudoObservations, y: Tensor) -> Tensor:
    """Return `a` with draws of `p(a_t | a_{<t})` in frames that are seen but not read."""
    unknown = torch.isnan(drawn.a)
    if not bool((unknown.any(-1) & (~torch.isnan(y)).any(-1)).any()):
        return drawn.path
    with torch.no_grad():
        found = Kalman().filter(Matrices(drawn.parameters), Series(drawn.a))
        mean, cov = predicted_a(drawn.parameters, found)
        noise = torch.randn_like(mean)[..., None]
        fresh = mean + (torch.linalg.cholesky(cov) @ noise)[..., 0]
    return torch.where(unknown, fresh, drawn.path)


def _parameters(model: ConditionallyLinear, path: Tensor, series: Series) -> LinearParameters:
    u = None if series.u is None else series.u.expand(*path.shape[:-1], series.u.shape[-1])
    return model.linear_parameters_given(path, u, series.dt)
